"""The nodes of `integrations/comfyui`, as ComfyUI calls them, and its example workflows."""

import importlib.util
import json
import logging
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from . import hosts

PACKAGE = Path(__file__).parents[3] / "integrations" / "comfyui"
WORKFLOWS = sorted(path.stem for path in (PACKAGE / "example_workflows").glob("*.json"))
POSITIVE = [[torch.ones(1, 1, 8), {}]]


class Vae:
    """The VAE of pixels: the identity."""

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels.movedim(-1, 1) * 2 - 1

    def decode(self, samples: Tensor) -> Tensor:
        return (samples.movedim(1, -1) + 1) / 2


def load_package() -> ModuleType:
    """The package as ComfyUI imports it."""
    spec = importlib.util.spec_from_file_location("nodes_under_test", PACKAGE / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package
    spec.loader.exec_module(package)
    return package


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The nodes by name, in a ComfyUI with empty folders."""
    hosts.install()
    folders: Any = ModuleType("folder_paths")
    preview: Any = ModuleType("latent_preview")
    output, inputs = tmp_path / "output", tmp_path / "input"
    inputs.mkdir()

    def get_save_image_path(prefix: str, folder: str) -> tuple[str, str, int, str, str]:
        place = Path(folder) / Path(prefix).parent
        place.mkdir(parents=True, exist_ok=True)
        stem = Path(prefix).name
        return str(place), stem, len(list(place.glob(f"{stem}_*"))) + 1, str(Path(prefix).parent), prefix

    def get_annotated_filepath(name: str) -> str:
        return str(output / name.removesuffix(" [output]")) if name.endswith(" [output]") else str(inputs / name)

    folders.get_input_directory = lambda: str(inputs)
    folders.get_output_directory = lambda: str(output)
    folders.get_save_image_path = get_save_image_path
    folders.get_annotated_filepath = get_annotated_filepath
    folders.exists_annotated_filepath = lambda name: Path(get_annotated_filepath(name)).exists()
    preview.prepare_callback = lambda model, steps: lambda step, x0, x, total: None
    monkeypatch.setitem(sys.modules, "folder_paths", folders)
    monkeypatch.setitem(sys.modules, "latent_preview", preview)
    yield {name: kind() for name, kind in load_package().NODE_CLASS_MAPPINGS.items()}
    for name in ("nodes_under_test", "nodes_under_test.nodes"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def model() -> Any:
    return hosts.make_model("V_PREDICTION", hosts.TinyNetwork(), scale=1.0)


def pixels(count: int = 1, seed: int = 0) -> Tensor:
    """An IMAGE [B, H, W, 3]."""
    return torch.rand(count, 16, 16, 3, generator=torch.Generator().manual_seed(seed))


def invert(nodes: dict[str, Any], model: Any, images: Tensor, **options: Any) -> Any:
    chosen = {"steps": 8, "cfg": 1.0, "solver": "dpm2m", "grid": "karras:14@0.16T", "exact": False} | options
    return nodes["DDIMEditInvert"].run(model, POSITIVE, pixels=images, vae=Vae(), **chosen)


def test_decode_undoes_invert(nodes: dict[str, Any], model: Any) -> None:
    image = (pixels() * 255).round() / 255
    latents, state = invert(nodes, model, image, exact=True)
    (decoded,) = nodes["DDIMEditDecode"].run(model, POSITIVE, latents, cfg=0.0, force=False)
    assert torch.equal(state["samples"], latents.x.float())
    assert torch.equal((Vae().decode(decoded["samples"]) * 255).round(), image * 255)


def test_samples_are_inverted_as_pixels_are(nodes: dict[str, Any], model: Any) -> None:
    latents, _ = invert(nodes, model, pixels())
    samples = {"samples": Vae().encode(pixels())}
    again, _ = nodes["DDIMEditInvert"].run(
        model, POSITIVE, 8, 1.0, "dpm2m", "karras:14@0.16T", exact=False, samples=samples
    )
    assert torch.equal(again.x, latents.x)


def test_says_what_is_missing(nodes: dict[str, Any], model: Any) -> None:
    with pytest.raises(ValueError, match="Connect samples, or pixels and a vae"):
        nodes["DDIMEditInvert"].run(model, POSITIVE, 4, 1.0, "dpm2m", "karras", exact=False, pixels=pixels())
    with pytest.raises(ValueError, match="needs a negative CONDITIONING"):
        invert(nodes, model, pixels(), cfg=2.0)


def test_files_keep_latents(nodes: dict[str, Any], model: Any) -> None:
    latents, _ = invert(nodes, model, pixels(2))
    written = nodes["DDIMEditSaveLatents"].run(latents, "latents/face")["ui"]["latents"]
    load = nodes["DDIMEditLoadLatents"]
    names, _ = load.INPUT_TYPES()["required"]["file"]
    assert names == [f"latents/{each['filename']} [output]" for each in written]
    for name, latent in zip(names, latents, strict=True):
        (found,) = load.run(name)
        assert torch.equal(found[0].x, latent.x)
        assert found[0].recipe == latent.recipe
    assert load.VALIDATE_INPUTS(names[0]) is True
    assert "no file gone" in load.VALIDATE_INPUTS("gone")
    assert load.IS_CHANGED(names[0]) != load.IS_CHANGED(names[1])


def test_frames_go_from_one_end_to_the_other(nodes: dict[str, Any], model: Any) -> None:
    (a, _), (b, _) = (invert(nodes, model, pixels(seed=seed)) for seed in (0, 1))
    between = nodes["DDIMEditInterpolate"].run
    (frames,) = between(a, b, "slerp", 0.5, 3)
    assert torch.equal(frames[0].x, a[0].x)
    assert torch.equal(frames[2].x, b[0].x)
    assert torch.equal(frames[1].x, between(a, b, "slerp", 0.5, 1)[0][0].x)


def test_only_connected_latents_are_mixed(nodes: dict[str, Any], model: Any) -> None:
    (a, _), (b, _) = (invert(nodes, model, pixels(seed=seed)) for seed in (0, 1))
    mix = nodes["DDIMEditCombine"].run
    assert torch.allclose(mix(a, b, 1.0, 0.0, 1.0, 1.0)[0][0].x, a[0].x)
    assert not torch.allclose(mix(a, b, 1.0, 0.0, 1.0, 1.0, c=b)[0][0].x, a[0].x)


def test_directions_are_fitted_saved_and_applied(nodes: dict[str, Any], model: Any) -> None:
    dark, _ = invert(nodes, model, pixels(30) / 2)
    bright, _ = invert(nodes, model, pixels(30, seed=1) / 2 + 0.5)
    (direction,) = nodes["DDIMEditFitDirection"].run(bright, dark, "bright", "mean")
    load = nodes["DDIMEditLoadDirection"]
    (name,), _ = load.INPUT_TYPES()["required"]["file"]
    assert name == "directions/bright_00001_.direction.safetensors [output]"
    (moved,) = nodes["DDIMEditApplyDirection"].run(dark, load.run(name)[0], 2.0)
    assert (direction.score(moved.x) > direction.score(dark.x)).all()


def test_health_of_noise(nodes: dict[str, Any], model: Any) -> None:
    latents, _ = invert(nodes, model, pixels(2))
    text, deviation = nodes["DDIMEditHealth"].run(latents)
    rows = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert float(rows["std"].split()[1]) == pytest.approx(float(latents[1].x.std()), abs=2e-3)
    assert deviation == pytest.approx(max(map(float, rows["deviation"].split())), abs=1e-3)


def test_batches_are_joined(nodes: dict[str, Any], model: Any) -> None:
    (a, _), (b, _) = (invert(nodes, model, pixels(2, seed=seed)) for seed in (0, 1))
    (joined,) = nodes["DDIMEditBatch"].run(a, b)
    (noise,) = nodes["DDIMEditToNoise"].run(joined)
    assert torch.equal(noise.generate_noise({"samples": torch.zeros(4, 3, 16, 16)}), torch.cat([a.x, b.x]).float())


def test_every_node_is_described(nodes: dict[str, Any]) -> None:
    for name, node in nodes.items():
        assert name.startswith("DDIMEdit")
        assert node.CATEGORY == "ddim-edit"
        assert node.DESCRIPTION
        assert callable(getattr(node, node.FUNCTION))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_have_the_inputs_of_the_nodes(nodes: dict[str, Any], name: str) -> None:
    workflow = json.loads((PACKAGE / "example_workflows" / "api" / f"{name}.json").read_text())
    ours = {number: each for number, each in workflow.items() if each["class_type"] in nodes}
    assert ours
    for node in ours.values():
        groups = nodes[node["class_type"]].INPUT_TYPES()
        given = set(node["inputs"])
        assert set(groups["required"]) <= given <= {*groups["required"], *groups.get("optional", {})}
        for socket, value in node["inputs"].items():
            kind = {**groups["required"], **groups.get("optional", {})}[socket][0]
            source = nodes.get(workflow[value[0]]["class_type"]) if isinstance(value, list) else None
            if source is not None:
                assert source.RETURN_TYPES[value[1]] == kind


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_are_the_same_in_both_formats(name: str) -> None:
    folder = PACKAGE / "example_workflows"
    api = json.loads((folder / "api" / f"{name}.json").read_text())
    graph = json.loads((folder / f"{name}.json").read_text())
    assert {str(node["id"]): node["type"] for node in graph["nodes"]} == {
        number: node["class_type"] for number, node in api.items()
    }
    inputs = {node["id"]: [each["name"] for each in node.get("inputs", [])] for node in graph["nodes"]}
    drawn = {(str(there), inputs[there][slot], str(here), out) for _, here, out, there, slot, _ in graph["links"]}
    linked = set()
    for number, node in api.items():
        linked |= {(number, name, *value) for name, value in node["inputs"].items() if isinstance(value, list)}
    assert drawn == linked


def test_says_how_to_install_ddim_edit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.ERROR):
        package = load_package()
    assert package.NODE_CLASS_MAPPINGS == {}
    assert f"{sys.executable} -m pip install ddim-edit" in caplog.text


def test_the_registry_has_the_version_of_the_package() -> None:
    ours, nodes = (
        tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (PACKAGE.parents[1], PACKAGE)
    )
    assert nodes["version"] == ours["version"]
    assert nodes["dependencies"] == [f"ddim-edit>={ours['version']}"]
