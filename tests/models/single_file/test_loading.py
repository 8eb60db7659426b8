"""A file of every family, in its own format, through everything that a model is for."""

import json
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddim_edit import Condition, Direction, Editor, InversionConfig, Latent, fit_direction
from ddim_edit.directions import MeanDifference
from ddim_edit.errors import ModelError
from ddim_edit.models.condition import NOTHING
from ddim_edit.models.loading import load_model

from ... import tiny
from ...rounding import assert_alike

FIXTURES = Path(__file__).parent / "fixtures"
State = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """A fixture's tensors as a file: its last layer, its settings, a condition that it follows, how much it says."""

    fixture: str
    last: str
    name: str
    size: int
    prediction: str
    settings: dict[str, Any] = field(default_factory=dict)
    condition: Condition = NOTHING
    share: float = 0.1

    def save(self, folder: Path) -> Path:
        path = folder / self.name
        state = self.state()
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(self.wrapped(state), path)
        path.with_suffix(".json").write_text(json.dumps(self.settings))
        return path

    def state(self) -> State:
        with safe_open(FIXTURES / f"{self.fixture}.safetensors", "pt") as file:
            (text,) = file.metadata().values()
        shapes = json.loads(text)
        made = {name: weight(name, shape) for name, shape in shapes.get("shapes", shapes).items()}
        # Little of what a random network says makes a tame, curved flow.
        return made | {name: self.share * tensor for name, tensor in made.items() if name.startswith(self.last)}

    def wrapped(self, state: State) -> object:
        raw = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        if self.fixture.startswith("ermongroup"):
            return [{f"module.{name}": tensor for name, tensor in raw.items()}, {"state": {}}, 7, 12000, state]
        if self.fixture.startswith("denoising"):
            ema = {f"ema_model.model.{name}": tensor for name, tensor in state.items()}
            return {"step": 12000, "model": {f"model.{n}": t for n, t in raw.items()}, "ema": ema, "version": "2.0"}
        return state


def weight(name: str, shape: list[int]) -> Tensor:
    """Noise that only the name and shape decide; norms and filters about as they are in a trained network."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("resample_filter"):
        return torch.full(shape, 1 / np.prod(shape), dtype=torch.float32)
    if len(shape) > 1 and not name.endswith(".g"):
        return torch.from_numpy(drawn / np.sqrt(np.prod(shape[1:]))).float().contiguous()
    gain = name.endswith(("weight", ".g")) and "conv" not in name.rsplit(".", 2)[-2]
    return torch.from_numpy(0.1 * drawn + gain).float()


HEADS = {"num_heads": 2}
KINDS = {
    "guided-diffusion": Kind(
        "guided_guided", "out.2", "ema_0.9999.pt", 16, "epsilon", {"image_size": 16, **HEADS}, Condition(label=3)
    ),
    "improved-diffusion": Kind("guided_improved", "out.2", "ema.pt", 16, "epsilon", {"image_size": 16, **HEADS}),
    "ermongroup": Kind("ermongroup_cifar10", "conv_out", "ckpt.pth", 32, "epsilon", share=0.02),
    "pesser": Kind("ermongroup_cifar10", "conv_out", "diffusion_cifar10_model.ckpt", 32, "epsilon", share=0.02),
    "denoising-diffusion-pytorch": Kind(
        "denoising_default", "final_conv", "model-12.pt", 16, "v_prediction", {"image_size": 16}
    ),
    "edm": Kind("edm_ncsnpp", "model.dec.16x16_aux_conv", "edm-cifar10-uncond.safetensors", 16, "edm"),
    "edm, classes": Kind(
        "edm_adm", "model.out_conv", "edm-imagenet.safetensors", 16, "edm", condition=Condition(label=2)
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def editor(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor.from_pretrained(kind.save(tmp_path_factory.mktemp("files")), device="cpu")


def pictures(kind: Kind, count: int, first: int = 0) -> Tensor:
    drawn = [torch.from_numpy(tiny.pixels(first + seed, kind.size, kind.size)) for seed in range(count)]
    return torch.stack(drawn).permute(0, 3, 1, 2).double() / 127.5 - 1


def method(kind: Kind, editor: Editor, **options: Any) -> InversionConfig:
    """To 0.3 T where eps is predicted: the eps of a random network is that of no data, and leads to no x_T."""
    level = 0.3 * editor.model.schedule.T if kind.prediction == "epsilon" else None
    return InversionConfig(steps=10, condition=kind.condition, level=level, **options)


def test_model_is_named_and_shaped_by_its_file(kind: Kind, editor: Editor) -> None:
    model = editor.model
    assert (model.name, model.shape) == (Path(kind.name).stem, (3, kind.size, kind.size))
    assert model.prediction == kind.prediction


def test_exact_round_trip(kind: Kind, editor: Editor) -> None:
    (scores,) = editor.reconstruct(pictures(kind, 1), method(kind, editor, exact=True)).scores
    assert scores["converged"]
    assert scores["identical_pixels"] == 1


def test_latents_are_saved_interpolated_and_decoded(kind: Kind, editor: Editor, tmp_path: Path) -> None:
    latents = editor.invert(pictures(kind, 2), method(kind, editor))
    latents[0].save(tmp_path / "one.latent.safetensors")
    again = Latent.load(tmp_path / "one.latent.safetensors")
    assert again.recipe == latents[0].recipe
    first, middle, last = editor.decode(editor.interpolate(latents, 3))
    assert_alike(editor.decode([again])[0], first)
    ends = (first, last)
    assert all(float((middle - end).square().mean()) > 1e-4 for end in ends)


@pytest.mark.parametrize("level", ["0.4T", "h"])
def test_direction_is_fitted_and_changes_image(kind: Kind, editor: Editor, level: str) -> None:
    images = torch.cat([pictures(kind, 2), (pictures(kind, 2, 10) + 0.3).clamp(-1, 1)])
    (codes,) = editor.latents_at(images, [level], InversionConfig(steps=4, condition=kind.condition))
    direction: Direction = fit_direction("light", codes, np.repeat([0.0, 1.0], 2), MeanDifference(), folds=2)
    same, changed = editor.edits(images[:1], [{direction: 0.0}, {direction: 3.0}])[0]
    assert float((same - images[0]).abs().max()) < 1e-9
    assert float((changed - images[0]).abs().max()) > 1e-3


def test_file_of_unknown_family_is_refused(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "odd.safetensors")
    assert str(caught.value) == (
        "odd.safetensors: a checkpoint of an unknown family, with the tensors a.weight, b.weight and so on. Known are "
        "stable-diffusion, stable-diffusion-xl, stable-diffusion-3, flux, guided-diffusion, ermongroup/ddim, "
        "denoising-diffusion-pytorch, edm. Convert it to a diffusers folder."
    )


def test_registry_imports_no_torch() -> None:
    code = (
        "import sys; from ddim_edit.models.families.registry import FAMILIES; "
        "assert all(family.title and len(family.facts) > 6 for family in FAMILIES.values()); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
