"""`export` and `import`: latent files to other programs' tensors and back."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ddim_edit import Editor, InversionConfig, Latent

from .. import tiny
from ..rounding import assert_shown_alike
from .conftest import Outcome, Run, files_in, pixels_of

LATENT = ".latent.safetensors"


@pytest.fixture
def convert(run: Run, model: Path) -> Callable[..., Outcome]:
    """Runs a command line that must succeed, on the small model."""

    def run_it(*arguments: object) -> Outcome:
        options = [] if arguments[0] == "export" else ["--dtype", "fp32"]
        outcome = run(*arguments, "--model", model, *options)
        assert outcome.status == 0, outcome.err
        return outcome

    return run_it


def test_exported_files_contain_x_of_latents(convert: Run, latents: list[Path], tmp_path: Path) -> None:
    own = {path: Latent.load(path).x for path in latents}
    outcome = convert("export", *latents, "--to", "npy", "-o", tmp_path / "out")
    written = [tmp_path / "out" / f"{name}.npy" for name in "abcd"]
    assert outcome.out.splitlines() == list(map(str, written))
    for path, file in zip(latents, written, strict=True):
        assert torch.equal(torch.from_numpy(np.load(file)), own[path][None])
    convert("export", latents[0].parent, "--to", "safetensors", "--float32", "-o", tmp_path / "single")
    assert torch.equal(load_file(tmp_path / "single" / "a.safetensors")["x"], own[latents[0]][None].float())
    convert("export", latents[0], "--to", "diffusers", "-o", tmp_path / "single", "--overwrite")
    assert torch.equal(load_file(tmp_path / "single" / "a.safetensors")["latents"], own[latents[0]][None].float())


@pytest.mark.parametrize("form", ["npy", "safetensors"])
def test_export_then_import_decodes_to_identical_image(
    convert: Run, latents: list[Path], tmp_path: Path, form: str
) -> None:
    convert("export", *latents[:2], "--to", form, "-o", tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    outcome = convert("import", *files, "--like", latents[0].parent, "-o", tmp_path / "back")
    assert outcome.out.splitlines() == [str(tmp_path / "back" / f"{name}{LATENT}") for name in "ab"]
    convert("import", files[0], "--like", latents[0], "-o", tmp_path / "alone")
    assert (tmp_path / "alone" / f"a{LATENT}").read_bytes() == (tmp_path / "back" / f"a{LATENT}").read_bytes()
    convert("decode", tmp_path / "back", "-o", tmp_path / "after")
    convert("decode", *latents[:2], "-o", tmp_path / "before")
    for name in ("a.png", "b.png"):
        assert_shown_alike(pixels_of(tmp_path / "after" / name), pixels_of(tmp_path / "before" / name))


def test_imported_tensor_gets_requested_recipe(done: Run, convert: Run, model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, tiny.SIZE, tiny.SIZE))
    np.save(tmp_path / "noise.npy", x)
    walk = ["--solver", "ddim", "--grid", "trailing", "--steps", "4"]
    outcome = convert("import", tmp_path / "noise.npy", "-o", tmp_path / "out", *walk, "--json")
    rows = outcome.rows
    assert not outcome.warnings
    assert [row["t"] for row in rows] == [1000, 1000]
    assert files_in(tmp_path / "out") == [f"noise-000{row}{LATENT}" for row in (0, 1)]
    made = Latent.load(tmp_path / "out" / f"noise-0001{LATENT}")
    assert torch.equal(made.x, torch.from_numpy(x[1]))
    editor = Editor.from_pretrained(model, dtype="fp32")
    wanted = editor.noise([0], InversionConfig(solver="ddim", grid="trailing", steps=4))[0].recipe
    assert made.recipe.compatibility_key == wanted.compatibility_key
    digest = hashlib.sha256((tmp_path / "noise.npy").read_bytes()).hexdigest()
    shown = json.loads(done("show", tmp_path / "out" / f"noise-0001{LATENT}").out)
    assert shown["recipe"]["origin"] == {"kind": "import", "format": "npy", "source": digest, "row": 1}
    convert("decode", tmp_path / "out", "-o", tmp_path / "pictures")
    assert files_in(tmp_path / "pictures") == ["noise-0000.png", "noise-0001.png"]


@pytest.mark.parametrize(("scale", "shift"), [(0.07, 0.0), (14.6, 0.0), (1.0, 0.5)])
def test_imported_tensor_unlike_noise_warns(convert: Run, tmp_path: Path, scale: float, shift: float) -> None:
    """As a clean latent, or one in ComfyUI's units, or a picture."""
    x = np.random.default_rng(0).normal(size=(3, tiny.SIZE, tiny.SIZE)) * scale + shift
    np.save(tmp_path / "a.npy", x)
    (warning,) = convert("import", tmp_path / "a.npy", "-o", tmp_path / "out").warnings
    assert f"a{LATENT}: mean {x.mean():.3g} and std {x.std():.3g}, where an x_T has 0 and 1" in warning
    assert torch.equal(Latent.load(tmp_path / "out" / f"a{LATENT}").x, torch.from_numpy(x))


def test_bad_file_does_not_end_batch(run: Run, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.random.default_rng(0).normal(size=(3, tiny.SIZE, tiny.SIZE)))
    np.save(tmp_path / "small.npy", np.zeros((3, 4, 4)))
    (tmp_path / "text.npy").write_text("text")
    save_file({"a": torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "two.safetensors")
    (tmp_path / "a.pt").write_text("text")
    bad = [tmp_path / name for name in ("small.npy", "text.npy", "two.safetensors", "a.pt", "missing.npy")]
    outcome = run("import", *bad[:3], tmp_path / "good.npy", *bad[3:], "-o", tmp_path / "out", "--model", model)
    assert outcome.status == 1
    assert outcome.out.splitlines() == [str(tmp_path / "out" / f"good{LATENT}")]
    assert [line.split(": ")[1] for line in outcome.errors] == list(map(str, bad))
    assert "has the shape [3, 4, 4], and the model takes [3, 16, 16] or [B, 3, 16, 16]" in outcome.errors[0]


def test_latent_of_another_model_is_not_rescaled(
    run: Run, latents: list[Path], other_model: Path, tmp_path: Path
) -> None:
    line = ["--model", other_model, "-o", tmp_path / "out"]
    outcome = run("export", latents[0], "--to", "diffusers", *line)
    assert outcome.status == 1
    assert "tiny" in outcome.errors[0]
    assert not (tmp_path / "out").exists()
    outcome = run("export", latents[0], "--to", "npy", *line)
    assert outcome.status == 0


def test_reference_latent_of_another_model_is_refused(
    run: Run, latents: list[Path], other_model: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, tiny.SIZE, tiny.SIZE)))
    outcome = run("import", tmp_path / "a.npy", "--like", latents[0], "--model", other_model, "-o", tmp_path / "out")
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert not (tmp_path / "out").exists()


def test_comfyui_export_requires_autoencoder(run: Run, latents: list[Path], model: Path, tmp_path: Path) -> None:
    outcome = run("export", latents[0], "--to", "comfy", "--model", model, "-o", tmp_path / "out")
    assert outcome.status == 1
    assert "ComfyUI takes models with an autoencoder, and tiny has none" in outcome.errors[0]


def test_files_are_not_replaced_without_overwrite(
    run: Run, convert: Run, model: Path, latents: list[Path], tmp_path: Path
) -> None:
    convert("export", latents[0], "--to", "npy", "-o", tmp_path / "out")
    before = (tmp_path / "out" / "a.npy").read_bytes()
    outcome = run("export", latents[0], "--to", "npy", "-o", tmp_path / "out", "--float32")
    assert outcome.status == 1
    assert "Use --overwrite" in outcome.errors[0]
    assert (tmp_path / "out" / "a.npy").read_bytes() == before
    shutil.copy(latents[0], tmp_path / "out" / latents[0].name)
    outcome = run("import", tmp_path / "out" / "a.npy", "-o", tmp_path / "out", "--model", model)
    assert "Use --overwrite" in outcome.errors[0]


def test_two_inputs_of_equal_name_get_two_outputs(convert: Run, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", np.random.default_rng(len(folder)).normal(size=(3, tiny.SIZE, tiny.SIZE)))
    convert("import", tmp_path / "one" / "a.npy", tmp_path / "two" / "a.npy", "-o", tmp_path / "out")
    assert files_in(tmp_path / "out") == [f"a-2{LATENT}", f"a{LATENT}"]
