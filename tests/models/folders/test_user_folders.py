"""Folders as people have them: pickles, shards, variants, leftovers and checkpoints of trainings."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddim_edit import Condition, Model, ModelError, load_model
from ddim_edit.models.identity import find_difference

from ... import pipelines, tiny
from ...rounding import assert_alike
from .originals import ORIGINALS, noise
from .pickles import pickled

Diffusers: Any = diffusers  # its types are hidden from mypy
WEIGHTS = "diffusion_pytorch_model.safetensors"
Folders = Callable[[str], Path]
PipeOf = Callable[[str], Any]


@pytest.fixture
def copied(folders: Folders, tmp_path: Path) -> Folders:
    return lambda family: Path(shutil.copytree(folders(family), tmp_path / "copy"))


def assert_same_model(found: Model, wanted: Model, condition: Condition) -> None:
    assert find_difference(found.components, wanted.components) is None
    x, level = noise(1, *wanted.shape).double(), wanted.schedule.level(400)
    predictions = [model.conditioned_on(condition)(x, level).eps for model in (found, wanted)]
    assert_alike(*predictions)
    assert_alike(*(model.codec.decode(x) for model in (found, wanted)))


def weights_of(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.safetensors"))]


@pytest.mark.parametrize("family", ["stable diffusion 1", "stable diffusion 3 with t5", "dit", "cifar10", "ldm vq"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_the_same_model(copied: Folders, models: Callable[[str], Model], family: str, zipped: bool) -> None:
    """Also those of torch before 1.6."""
    folder = copied(family)
    for file in weights_of(folder):
        pickled(folder, file, _use_new_zipfile_serialization=zipped)
    assert_same_model(load_model(folder), models(family), ORIGINALS[family].conditions[-1])


@pytest.mark.parametrize("family", ["stable diffusion 1", "stable diffusion 3 with t5", "cifar10", "ldm vq"])
@pytest.mark.parametrize("safe", [True, False])
def test_shards_of_every_component_are_the_same_model(
    pipe_of: PipeOf, models: Callable[[str], Model], tmp_path: Path, family: str, safe: bool
) -> None:
    pipe_of(family).save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    components = {path.parent.name for path in (tmp_path / "shards").rglob("*.index.json")}
    assert len(components) == len({Path(file).parent for file in weights_of(tmp_path / "shards")})
    if not safe:
        for index in (tmp_path / "shards").rglob("*.index.json"):
            as_pickles(index)
    assert_same_model(load_model(tmp_path / "shards"), models(family), ORIGINALS[family].conditions[-1])


def as_pickles(index: Path) -> None:
    """Shards as diffusers and transformers have named them."""
    record = json.loads(index.read_text())
    for file in set(record["weight_map"].values()):
        shard = index.with_name(file)
        torch.save(load_file(shard), shard.with_suffix(".bin"))
        shard.unlink()
    record["weight_map"] = {name: file.replace(".safetensors", ".bin") for name, file in record["weight_map"].items()}
    stem = {"model": "pytorch_model"}.get(index.name.split(".")[0], index.name.split(".")[0])
    index.with_name(f"{stem}.bin.index.json").write_text(json.dumps(record))
    index.unlink()


def changed(folder: Path, file: str, variant: str, factor: float) -> None:
    """One more copy of the weights, with another word in its name and other values."""
    tensors = load_file(folder / file)
    path = folder / file
    other = {name: tensor * factor if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(other, path.with_name(f"{path.stem}.{variant}.safetensors"), {"format": "pt"})


def rounded(folder: Path, file: str, dtype: torch.dtype, variant: str) -> None:
    path = folder / file
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(tensors, path.with_name(f"{path.stem}.{variant}.safetensors"), {"format": "pt"})


def test_full_precision_comes_first(copied: Folders, models: Callable[[str], Model]) -> None:
    """A folder with all variants of Stable Diffusion 1.5."""
    family = "stable diffusion 1"
    folder = copied(family)
    for file in weights_of(folder):
        changed(folder, file, "fp16", 0.5)
        changed(folder, file, "non_ema", 2.0)
    assert_same_model(load_model(folder), models(family), ORIGINALS[family].conditions[-1])


@pytest.mark.parametrize("family", ["stable diffusion 1", "cifar10"])
@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_rounded_weights_come_before_those_that_are_not_averaged(
    copied: Folders, models: Callable[[str], Model], family: str, variant: str
) -> None:
    folder = copied(family)
    for file in weights_of(folder):
        changed(folder, file, "non_ema", 2.0)
        rounded(folder, file, getattr(torch, {"fp16": "float16", "bf16": "bfloat16"}[variant]), variant)
        (folder / file).unlink()
    assert find_difference(load_model(folder).components, models(family).components) is None


def test_weights_that_are_not_averaged_are_read_where_there_are_no_others(
    copied: Folders, models: Callable[[str], Model]
) -> None:
    family = "stable diffusion 1"
    folder = copied(family)
    file = folder / "unet" / WEIGHTS
    file.rename(file.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    assert_same_model(load_model(folder), models(family), ORIGINALS[family].conditions[-1])


@pytest.mark.parametrize("family", ["stable diffusion 1", "cifar10", "ldm vq"])
def test_leftovers_of_trainings_are_passed_over(copied: Folders, models: Callable[[str], Model], family: str) -> None:
    """stabilityai/sd-vae-ft-mse has the first two."""
    folder = copied(family)
    leftovers = {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(7),
        "loss.logvar": torch.zeros(1),
        "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4),
    }
    for file in weights_of(folder):
        save_file(load_file(folder / file) | leftovers, folder / file, {"format": "pt"})
    assert_same_model(load_model(folder), models(family), ORIGINALS[family].conditions[-1])


def test_unknown_weights_are_no_leftovers(copied: Folders) -> None:
    folder = copied("cifar10")
    file = folder / "unet" / WEIGHTS
    save_file(load_file(file) | {"class_embedding.weight": torch.zeros(5, 8)}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"class_embedding.weight is unknown"):
        load_model(folder)


@pytest.mark.parametrize("scaled", [False, True])
def test_fp8_is_upcast(copied: Folders, tmp_path: Path, scaled: bool) -> None:
    """Of every component, also with a scale for each tensor, as ComfyUI has it; a note tells."""
    coarse = copied("stable diffusion 1")
    wanted = Path(shutil.copytree(coarse, tmp_path / "wanted"))
    for file in weights_of(coarse):
        rough: dict[str, Tensor] = {}
        upcast: dict[str, Tensor] = {}
        for name, tensor in load_file(coarse / file).items():
            if tensor.dim() < 2:
                rough[name] = upcast[name] = tensor
                continue
            scale = tensor.abs().amax() / 400 if scaled else torch.tensor(1.0)
            rough[name] = (tensor / scale).to(torch.float8_e4m3fn)
            upcast[name] = rough[name].float() * scale
            if scaled:
                rough[f"{name.removesuffix('.weight')}.scale_weight"] = scale
        save_file(rough, coarse / file, {"format": "pt"})
        save_file(upcast, wanted / file, {"format": "pt"})
    found = load_model(coarse)
    assert_same_model(found, load_model(wanted), ORIGINALS["stable diffusion 1"].conditions[-1])
    assert found.notes[0].startswith("the weights of unet and vae and text_encoder are fp8")


# Checkpoints of trainings.


def save_training(pipe: Any, folder: Path, averaged: bool) -> Path:
    """checkpoint-500 of diffusers' scripts: the network, and its average, whose config has the average's settings."""
    checkpoint = folder / "checkpoint-500"
    network = pipe.unet
    network.save_pretrained(checkpoint / "unet")
    (checkpoint / "optimizer.bin").write_bytes(b"nothing of ours")
    if averaged:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter *= 0.9
        config = network.config
        ema = EMAModel(network.parameters(), model_cls=type(network), model_config=config, foreach=False)
        ema.save_pretrained(checkpoint / "unet_ema")
        assert "optimization_step" in json.loads((checkpoint / "unet_ema" / "config.json").read_text())
    return checkpoint


@pytest.mark.parametrize("family", ["cifar10", "diffusers' own", "stable diffusion 1"])
@pytest.mark.parametrize("averaged", [True, False])
def test_a_checkpoint_of_a_training_is_the_network_in_the_folder_above(
    pipe_of: PipeOf, tmp_path: Path, family: str, averaged: bool
) -> None:
    """Averaged weights come first."""
    pipe = pipe_of(family)
    pipe.save_pretrained(tmp_path / "out")
    checkpoint = save_training(pipe, tmp_path / "out", averaged)
    pipe.save_pretrained(tmp_path / "wanted")  # with the average as its network
    condition = ORIGINALS[family].conditions[-1]
    wanted = load_model(tmp_path / "wanted")
    part = "unet_ema" if averaged else "unet"
    for path in (checkpoint, checkpoint / part):
        model = load_model(path)
        assert_same_model(model, wanted, condition)
        assert model.notes == (f"the network is that of checkpoint-500/{part}, the rest of out",)
    assert (find_difference(load_model(checkpoint / "unet").components, wanted.components) is None) is not averaged


def test_text_encoders_that_were_trained_too_are_read(pipe_of: PipeOf, tmp_path: Path) -> None:
    """DreamBooth's script saves them beside the network."""
    pipe = pipe_of("stable diffusion 1")
    pipe.save_pretrained(tmp_path / "out")
    with torch.no_grad():
        for parameter in (*pipe.unet.parameters(), *pipe.text_encoder.parameters()):
            parameter *= 0.9
    pipe.save_pretrained(tmp_path / "wanted")
    for part in ("unet", "text_encoder"):
        shutil.copytree(tmp_path / "wanted" / part, tmp_path / "out" / "checkpoint-500" / part)
    model = load_model(tmp_path / "out" / "checkpoint-500")
    assert_same_model(model, load_model(tmp_path / "wanted"), ORIGINALS["stable diffusion 1"].conditions[-1])
    assert model.notes == (
        "the network is that of checkpoint-500/unet and checkpoint-500/text_encoder, the rest of out",
    )


def test_a_checkpoint_of_a_training_that_goes_on_needs_a_scheduler(pipe_of: PipeOf, tmp_path: Path) -> None:
    """Scripts write the folder above at their end."""
    pipe = pipe_of("cifar10")
    checkpoint = save_training(pipe, tmp_path / "out", averaged=True)
    with pytest.raises(ModelError, match=r"no such file, so the noise schedule .* --scheduler scaled_linear"):
        load_model(checkpoint)
    pipe.save_pretrained(tmp_path / "wanted")
    wanted = load_model(tmp_path / "wanted")
    for scheduler in ("linear", tmp_path / "wanted", tmp_path / "wanted" / "scheduler" / "scheduler_config.json"):
        assert_same_model(load_model(checkpoint, scheduler=scheduler), wanted, Condition())


def test_a_checkpoint_of_a_training_without_an_autoencoder_is_refused(pipe_of: PipeOf, tmp_path: Path) -> None:
    checkpoint = save_training(pipe_of("stable diffusion 1"), tmp_path / "out", averaged=False)
    with pytest.raises(ModelError, match="there is no autoencoder"):
        load_model(checkpoint, scheduler="scaled_linear")


# Schedulers.


@pytest.mark.parametrize(
    "kind",
    [
        "LCMScheduler",
        "TCDScheduler",
        "DDIMInverseScheduler",
        "DDIMParallelScheduler",
        "DPMSolverSDEScheduler",
        "SASolverScheduler",
    ],
)
def test_samplers_of_one_process_are_one_model(copied: Folders, models: Callable[[str], Model], kind: str) -> None:
    family = "stable diffusion 1"
    folder = copied(family)
    file = folder / "scheduler" / "scheduler_config.json"
    tiny.write_json(file, json.loads(file.read_text()) | {"_class_name": kind})
    assert load_model(folder).components == models(family).components


# Distilled models.


@pytest.mark.parametrize(
    ("family", "name", "scheduler", "kind"),
    [
        ("latent consistency", "LCM_Dreamshaper_v7", {}, "a latent consistency model"),
        ("stable diffusion 1", "sd", {"_class_name": "LCMScheduler"}, "a latent consistency model"),
        ("stable diffusion 1", "hyper", {"_class_name": "TCDScheduler"}, "trajectory consistency"),
        ("stable diffusion xl", "sdxl-turbo", {}, "Turbo"),
        ("stable diffusion xl", "sdxl_lightning_4step", {}, "Lightning"),
        ("stable diffusion xl", "dreamshaperXL_lightningDPMSDE", {}, "Lightning"),
        ("stable diffusion xl", "photo2TurboXL", {}, "Turbo"),
        ("stable diffusion xl", "xl", {"timestep_spacing": "trailing"}, "Turbo or Lightning, by its scheduler"),
        ("stable diffusion 3", "stable-diffusion-3.5-large-turbo", {}, "Turbo"),
        ("flux schnell", "flux", {"shift": 1.0}, "FLUX.1-schnell"),
    ],
)
def test_distilled_models_are_told_apart(
    folders: Folders, tmp_path: Path, family: str, name: str, scheduler: dict[str, Any], kind: str
) -> None:
    folder = shutil.copytree(folders(family), tmp_path / name)
    file = folder / "scheduler" / "scheduler_config.json"
    tiny.write_json(file, json.loads(file.read_text()) | scheduler)
    note = load_model(folder, size=pipelines.SIZE).notes[0]
    assert note.startswith(f"{name} is distilled to sample in a few steps ({kind}): ")


def test_other_models_are_not_called_distilled(models: Callable[[str], Model]) -> None:
    found = {family for family in ORIGINALS if models(family).notes}
    assert found == {"latent consistency", "flux schnell"}
