"""Folders that cannot be run, each refused in one sentence; and loading that says nothing where all is well."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from ddim_edit import DDIMEditError, load_model
from ddim_edit.models.condition import Condition
from ddim_edit.models.identity import find_difference

from ... import pipelines
from ...rounding import assert_alike
from .originals import PROMPT, noise
from .pickles import pickled

Diffusers: Any = diffusers  # its types are hidden from mypy
ONE_SENTENCE = r"^[^\n]+$"
Change = Callable[[Path], object]


def refused(folder: Path) -> str:
    with pytest.raises(DDIMEditError, match=ONE_SENTENCE) as caught:
        load_model(folder)
    return str(caught.value)


@pytest.fixture
def copied(folders: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a family's folder, to be broken."""
    return lambda family: Path(shutil.copytree(folders(family), tmp_path / "broken"))


def without(name: str) -> Change:
    return lambda folder: shutil.rmtree(folder / name)


def configured(file: str, **changes: object) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(config | changes))

    return change


def for_inpainting(folder: Path) -> None:
    """runwayml/stable-diffusion-inpainting: 4 channels of x, 4 of a masked picture and the mask."""
    pipelines.conditional_unet(in_channels=9, out_channels=4).save_pretrained(folder / "unet")


def for_upsampling(folder: Path) -> None:
    """stabilityai/stable-diffusion-x4-upscaler: the class is how noisy the small picture is."""
    pipelines.conditional_unet(in_channels=7, out_channels=4, num_class_embeds=1000).save_pretrained(folder / "unet")


def by_projection(folder: Path) -> None:
    """stabilityai/stable-diffusion-2-1-unclip: pictures' embeddings as classes."""
    options = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8}
    pipelines.conditional_unet(**options).save_pretrained(folder / "unet")


def lacking(file: str) -> Change:
    """Weights without one tensor, which the libraries would draw at random."""

    def change(folder: Path) -> None:
        weights = load_file(folder / file)
        del weights[sorted(weights)[0]]
        save_file(weights, folder / file, {"format": "pt"})

    return change


def garbled(file: str) -> Change:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:100])


def with_a_garbled_vocabulary(folder: Path) -> None:
    # transformers 5 saves CLIP's tokenizer as the first of these, older versions as the second one and merges.
    files = [
        f"tokenizer/{name}" for name in ("tokenizer.json", "vocab.json") if (folder / "tokenizer" / name).is_file()
    ]
    garbled(files[0])(folder)


WEIGHTS = "diffusion_pytorch_model.safetensors"


def of_flax(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_flax_model.msgpack")


class Program:
    """Unpickling it would run a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


def calling_code(folder: Path, file: str = f"unet/{WEIGHTS}") -> None:
    pickled(folder, file, lambda tensors: {**tensors, "program": Program()})


def with_a_broken_pickle(folder: Path) -> None:
    garbled(str(pickled(folder, f"unet/{WEIGHTS}").relative_to(folder)))(folder)


BROKEN: dict[str, tuple[str, Change, tuple[str, ...]]] = {
    "no text encoder": ("stable diffusion 1", without("text_encoder"), ("text_encoder",)),
    "no second text encoder": ("stable diffusion xl", without("text_encoder_2"), ("text_encoder_2",)),
    "no tokenizer": ("stable diffusion 2", without("tokenizer"), ("tokenizer",)),
    "no second tokenizer": ("stable diffusion 3", without("tokenizer_2"), ("tokenizer_2",)),
    "no UNet": ("stable diffusion 1", without("unet"), ("config.json",)),
    "no scheduler": ("stable diffusion 1", without("scheduler"), ("scheduler_config.json",)),
    "a UNet for inpainting": ("stable diffusion 1", for_inpainting, ("9 channels in and 4 out", "inpainting")),
    "a UNet for upsampling": ("stable diffusion 1", for_upsampling, ("num_class_embeds 1000",)),
    "a UNet of pictures' embeddings": ("stable diffusion 1", by_projection, ("class_embed_type 'projection'",)),
    "another transformer": (
        "stable diffusion 3",
        configured("transformer/config.json", _class_name="OmniGenTransformer2DModel"),
        ("OmniGenTransformer2DModel", "models --families"),
    ),
    "another autoencoder": (
        "stable diffusion 3",
        configured("vae/config.json", _class_name="AutoencoderOobleck"),
        ("AutoencoderOobleck",),
    ),
    "a UNet that lacks a tensor": (
        "stable diffusion 1",
        lacking(f"unet/{WEIGHTS}"),
        ("unet: the weights do not fit", "conv_in.bias missing"),
    ),
    "a text encoder that lacks a tensor": (
        "stable diffusion xl",
        lacking("text_encoder_2/model.safetensors"),
        ("text_encoder_2: the weights do not fit",),
    ),
    "a text encoder of another kind": (
        "stable diffusion 1",
        configured("model_index.json", text_encoder=["transformers", "BertModel"]),
        ("CLIPTextModel", "BertModel"),
    ),
    "a UNet of classes and prompts": (
        "stable diffusion 1",
        lambda folder: pipelines.conditional_unet(num_class_embeds=7).save_pretrained(folder / "unet"),
        ("num_class_embeds 7",),
    ),
    "a truncated UNet": (
        "stable diffusion 1",
        garbled(f"unet/{WEIGHTS}"),
        (f"unet/{WEIGHTS}: the file is", "Download it again"),
    ),
    "a truncated text encoder": (
        "stable diffusion 1",
        garbled("text_encoder/model.safetensors"),
        ("text_encoder/model.safetensors: the file is", "Download it again"),
    ),
    "a truncated tokenizer": ("stable diffusion 1", with_a_garbled_vocabulary, ("broken",)),
    "another width than the weights'": (
        "stable diffusion 1",
        configured("unet/config.json", cross_attention_dim=24),
        ("unet: the weights do not fit", "[8, 16], not [8, 24]"),
    ),
    "a scheduler of another process": (
        "stable diffusion 1",
        configured("scheduler/scheduler_config.json", _class_name="UnCLIPScheduler"),
        ("'UnCLIPScheduler'",),
    ),
    "a UNet of Flax": ("stable diffusion 1", of_flax, ("weights of Flax", "diffusion_flax_model.msgpack")),
    "a UNet that calls code": ("stable diffusion 1", calling_code, ("posix.system", "without running code")),
    "a text encoder that calls code": (
        "stable diffusion 1",
        lambda folder: calling_code(folder, "text_encoder/model.safetensors"),
        ("posix.system", "without running code"),
    ),
    "a pickle of nothing": (
        "stable diffusion 1",
        lambda folder: pickled(folder, f"vae/{WEIGHTS}", lambda tensors: {"step": 7}),
        ("no tensors by name",),
    ),
    "a broken pickle": ("stable diffusion 1", with_a_broken_pickle, ("unet/diffusion_pytorch_model.bin", "broken")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_unsupported_checkpoints_are_refused(
    copied: Callable[[str], Path], capfd: pytest.CaptureFixture[str], name: str
) -> None:
    family, change, words = BROKEN[name]
    folder = copied(family)
    change(folder)
    capfd.readouterr()
    told = refused(folder)
    assert capfd.readouterr() == ("", "")
    assert [word for word in words if word not in told] == []
    assert len(told) < 400


EXTRAS = ("stable diffusion 1", "stable diffusion 3", "dit", "diffusers' own")
LIBRARIES = ("diffusers", "transformers")


@pytest.mark.parametrize(("family", "library"), [*product(EXTRAS, LIBRARIES), ("ldm vq", "diffusers")])
def test_missing_extra_is_named(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, family: str, library: str
) -> None:
    folder = folders(family)
    monkeypatch.setitem(sys.modules, library, None)
    assert "pip install 'ddim-edit[diffusers]'" in refused(folder)


@pytest.mark.parametrize("family", ["cifar10", "classes", "learned variances"])
def test_own_networks_need_no_extra(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    folder = folders(family)
    for library in ("diffusers", "transformers", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, library, None)
    assert load_model(folder).shape == (3, pipelines.SIZE, pipelines.SIZE)


@pytest.mark.parametrize("family", ["stable diffusion 1", "dit"])
def test_sharded_network_equals_whole_one(
    copied: Callable[[str], Path], folders: Callable[[str], Path], pipe_of: Callable[[str], Any], family: str
) -> None:
    """Also in what identifies it; files that its index does not name are nothing to it."""
    folder = copied(family)
    name = "transformer" if family == "dit" else "unet"
    (folder / name / WEIGHTS).unlink()
    getattr(pipe_of(family), name).save_pretrained(folder / name, max_shard_size="100KB")
    shards = sorted((folder / name).glob("*.safetensors"))
    assert len(shards) > 1
    model, whole = load_model(folder), load_model(folders(family))
    condition = Condition(label=3) if family == "dit" else Condition(PROMPT)
    x, level = noise(1, *model.shape).double(), model.schedule.level(400)
    assert_alike(model.conditioned_on(condition)(x, level).eps, whole.conditioned_on(condition)(x, level).eps)
    assert find_difference(model.components, whole.components) is None
    shutil.copy(shards[0], shards[-1].with_name("extra.safetensors"))
    assert load_model(folder).components == model.components


@pytest.mark.parametrize("family", [*pipelines.LATENTS, *pipelines.PIXELS])
def test_loading_prints_nothing(folders: Callable[[str], Path], capfd: pytest.CaptureFixture[str], family: str) -> None:
    folder = folders(family)
    capfd.readouterr()
    load_model(folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["PNDMScheduler", "LMSDiscreteScheduler", "DDIMScheduler"])
def test_outdated_scheduler_config_gives_no_warning(
    copied: Callable[[str], Path], capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """Diffusers warns of checkpoints without steps_offset, and of samplers that clip; ours reads levels alone."""
    folder = copied("stable diffusion 1")
    options = {"_class_name": kind, "clip_sample": True, "steps_offset": 0, "skip_prk_steps": True}
    configured("scheduler/scheduler_config.json", **options)(folder)
    capfd.readouterr()
    load_model(folder)
    assert capfd.readouterr() == ("", "")


def test_position_ids_of_old_text_encoders_give_no_warning(
    copied: Callable[[str], Path], folders: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints of 2022 hold the numbers from 0 to 76 as a tensor."""
    folder = copied("stable diffusion 1")
    file = folder / "text_encoder" / "model.safetensors"
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(load_file(file) | positions, file, {"format": "pt"})
    capfd.readouterr()
    given = [
        load_model(each).conditioned_on(Condition(PROMPT)).network.conditioning
        for each in (folder, folders("stable diffusion 1"))
    ]
    assert capfd.readouterr() == ("", "")
    assert_alike(*(each["encoder_hidden_states"] for each in given))


@pytest.mark.slow
def test_loading_in_fresh_process_prints_nothing(folders: Callable[[str], Path]) -> None:
    """Bars and notices that libraries show once."""
    families = ["stable diffusion 1", "stable diffusion xl", "stable diffusion 3", "ldm vq"]
    code = "import sys; from ddim_edit import load_model; [load_model(folder) for folder in sys.argv[1:]]"
    command = [sys.executable, "-W", "error", "-c", code, *(str(folders(family)) for family in families)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
