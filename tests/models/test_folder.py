import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from ddim_edit import Editor, InversionConfig
from ddim_edit.diffusion.parametrization import PREDICTION_TYPES
from ddim_edit.errors import ModelError
from ddim_edit.images import to_uint8
from ddim_edit.models import loading
from ddim_edit.models.loading import load_model
from ddim_edit.models.model import Model
from ddim_edit.models.packaged import packaged_models
from ddim_edit.models.pretrained import WEIGHTS

from .. import tiny
from ..rounding import assert_alike

Diffusers: Any = diffusers  # its types are hidden from mypy
ONE_SENTENCE = r"^[^\n]+$"
GREY = {"in_channels": 1, "out_channels": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")


def noise(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(
        batch, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def flat(folder: Path, target: Path) -> Path:
    """The same model with everything in one folder, as google/ddpm-cifar10-32 keeps it."""
    target.mkdir()
    for file in (*(folder / "unet").iterdir(), *(folder / "scheduler").iterdir()):
        shutil.copy(file, target)
    tiny.write_json(target / "model_index.json", {"_class_name": "DDPMPipeline"})
    return target


def assert_same_model(a: Model, b: Model) -> None:
    assert a.components == b.components
    assert a.prediction == b.prediction
    assert a.schedule.description == b.schedule.description
    level = a.schedule.level(300)
    for mine, theirs in zip(a.denoiser(noise(), level), b.denoiser(noise(), level), strict=True):
        assert_alike(mine, theirs)


# Folders.


def test_a_model_knows_who_it_is(folder: Path) -> None:
    model = load_model(folder)
    assert model.name == "tiny"
    assert list(model.components) == ["network", "process"]
    assert (model.shape, model.size, model.prediction) == ((3, 16, 16), (16, 16), "v_prediction")


def test_a_relative_path_still_has_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load_model(".").name == "tiny"
    monkeypatch.chdir(folder.parent)
    assert load_model("tiny").name == load_model("./tiny/").name == load_model(Path("tiny")).name == "tiny"


def test_one_flat_folder_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    assert_same_model(load_model(flat(folder, tmp_path / "flat")), load_model(folder))


def test_saved_pipelines_equal_diffusers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = Diffusers.UNet2DModel(**{key: value for key, value in tiny.UNET.items() if key[0] != "_"})
    Diffusers.DDPMPipeline(unet, Diffusers.DDPMScheduler(prediction_type="sample")).save_pretrained(tmp_path / "saved")
    model = load_model(tmp_path / "saved")
    assert model.prediction == "sample"
    level, index = model.schedule.level(431), torch.tensor([430.0, 430.0])
    with torch.no_grad():
        wanted = unet.eval()(noise().float(), index).sample
    torch.testing.assert_close(model.denoiser(noise(), level).x0.float(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
def test_networks_answer_as_in_diffusers(tmp_path: Path, prediction: str) -> None:
    """What we read out of our network beside what diffusers' scheduler reads out of diffusers' network."""
    folder = tiny.save_model(tmp_path / "model", prediction_type=prediction)
    model = load_model(folder)
    unet, scheduler = pipeline(folder)
    scheduler.set_timesteps(1000)
    for t in (2, 77, 500, 1000):
        x, level = noise(t), model.schedule.level(t)
        with torch.no_grad():
            output = unet(x.float(), t - 1).sample
        x0, eps = model.denoiser(x, level)
        raw = {"epsilon": eps, "sample": x0, "v_prediction": level.alpha * eps - level.sigma * x0}[prediction]
        torch.testing.assert_close(raw.float(), output, rtol=1e-5, atol=1e-5)
        theirs = scheduler.step(output, t - 1, x.float()).pred_original_sample
        torch.testing.assert_close(level.alpha * x0, level.alpha * theirs.double(), rtol=1e-5, atol=1e-5)


def pipeline(folder: Path) -> tuple[Any, Any]:
    """The same folder as diffusers loads it: its network and its DDIM."""
    unet = Diffusers.UNet2DModel.from_pretrained(folder / "unet").eval()
    return unet, Diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", timestep_spacing="leading")


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
def test_sampling_is_diffusers_ddim(tmp_path: Path, prediction: str) -> None:
    """The `ddim` solver on the leading grid beside DDIMScheduler, both from the same x_T, through the same weights."""
    folder = tiny.save_model(tmp_path / "model", prediction_type=prediction)
    editor = Editor.from_pretrained(folder)
    unet, scheduler = pipeline(folder)
    scheduler.set_timesteps(10)
    latents = editor.noise([1, 2], InversionConfig("ddim", "leading", 10))
    x = latents.x.float()
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x).prev_sample
    # A random network of eps divides by alpha_T, so its pictures are as large as 1 / alpha_T.
    scale = float(x.abs().max())
    torch.testing.assert_close(editor.decode(latents) / scale, x.double() / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
def test_every_prediction_goes_there_and_back(tmp_path: Path, prediction: str) -> None:
    editor = Editor.from_pretrained(tiny.save_model(tmp_path / "model", prediction_type=prediction))
    x = torch.from_numpy(tiny.pixels(0)).permute(2, 0, 1)[None].double() / 127.5 - 1
    trip = editor.reconstruct(x, InversionConfig("bdia", steps=30))
    assert float((trip.decoded - x).abs().max()) < 1e-9


def test_a_grey_model_goes_there_and_back(tmp_path: Path) -> None:
    editor = Editor.from_pretrained(tiny.save_model(tmp_path / "grey", unet=GREY))
    assert editor.model.shape == (1, 16, 16)
    grey = torch.from_numpy(tiny.pixels(0)[..., :1].repeat(3, -1)).permute(2, 0, 1)[None].double() / 127.5 - 1
    trip = editor.reconstruct(grey, InversionConfig(exact=True))
    assert trip.latents.x.shape == (1, 1, 16, 16)
    assert torch.equal(to_uint8(trip.decoded), to_uint8(grey))
    assert editor.sample(1).shape == (1, 3, 16, 16)


def test_non_square_model_round_trips(tmp_path: Path) -> None:
    editor = Editor.from_pretrained(tiny.save_model(tmp_path / "wide", unet={"sample_size": [16, 24]}))
    assert editor.model.size == (16, 24)
    path = tiny.save_picture(tmp_path / "wide.png", 0, 16, 24)
    trip = editor.reconstruct(path, InversionConfig(exact=True))
    assert trip.scores["identical_pixels"] == 1


@pytest.mark.parametrize(
    ("unet", "words"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ({"sample_size": None}, "does not tell the size"),
        ({"out_channels": 4}, "3 channels in and 4 out"),
        (
            {"in_channels": 4, "out_channels": 4},
            "4 channels, as those of latents have, but there is no autoencoder",
        ),
    ],
    ids=str,
)
def test_networks_with_other_inputs_are_refused(tmp_path: Path, unet: dict[str, Any], words: str) -> None:
    folder = tiny.save_model(tmp_path / "model", unet=unet)
    with pytest.raises(ModelError, match=ONE_SENTENCE) as caught:
        load_model(folder)
    assert words in str(caught.value)


def test_size_can_be_given(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "model", unet={"sample_size": None})
    assert load_model(folder, size=(16, 24)).shape == (3, 16, 24)


def test_latent_diffusion_is_not_taken_for_a_model_of_pixels(folder: Path, tmp_path: Path) -> None:
    """Its network has three channels as well (CompVis/ldm-celebahq-256)."""
    for autoencoder in ("vae", "vqvae"):
        broken = shutil.copytree(folder, tmp_path / autoencoder)
        (broken / autoencoder).mkdir()
        with pytest.raises(ModelError, match=ONE_SENTENCE) as caught:
            load_model(broken)
        assert autoencoder in str(caught.value)


@pytest.mark.parametrize(
    "missing", ["scheduler/scheduler_config.json", "unet/config.json", f"unet/{WEIGHTS}", "scheduler", "unet", "."]
)
def test_missing_files_are_named(folder: Path, tmp_path: Path, missing: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    gone = broken / missing
    if gone.is_dir():
        shutil.rmtree(gone)
        gone.mkdir()
    else:
        gone.unlink()
    with pytest.raises(ModelError, match=ONE_SENTENCE) as caught:
        load_model(broken)
    assert any(name in str(caught.value) for name in ("scheduler_config.json", "config.json", WEIGHTS))


# Names.


def test_the_packaged_model_is_the_default() -> None:
    model = load_model()
    assert (model.name, model.shape, model.prediction) == ("faces64", (3, 64, 64), "epsilon")
    assert load_model("faces64").components == model.components
    assert list(packaged_models()) == ["faces64"]
    assert (packaged_models()["faces64"] / "README.md").is_file()


def test_only_hub_ids_are_looked_up_on_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def fetch(name: str, offline: bool) -> Path:
        asked.append((name, offline))
        return folder

    monkeypatch.setattr(loading, "fetch", fetch)
    shutil.copytree(folder, tmp_path / "somebody" / "faces")
    monkeypatch.chdir(tmp_path)
    for name in (None, "faces64", "somebody/faces", str(folder), folder):
        load_model(name)
    for name in ("nosuchmodel", "./no/such", "../no", "/no/such", "~/such", "no/such/model", "no/such.safetensors"):
        with pytest.raises(ModelError, match="one of faces64"):
            load_model(name)
    assert asked == []
    model = load_model("somebody/else", offline=True)
    assert asked == [("somebody/else", True)]
    assert model.name == "somebody/else"
    assert_same_model(model, load_model(folder))
