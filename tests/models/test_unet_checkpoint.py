"""Every way in which a UNet checkpoint can be read or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.models.unet.network import load_unet

from .twins import CIFAR10, LAYERS, SMALL, assert_same_answers, twins

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Any]:
    """A folder that diffusers saved, and the network it holds."""
    theirs = twins(CIFAR10)[1]
    theirs.save_pretrained(tmp_path, safe_serialization=True)
    return tmp_path, theirs


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Put changed weights in the place of those in the folder."""
    weights = load_file(folder / WEIGHTS)
    save_file(change({name: tensor.clone() for name, tensor in weights.items()}), folder / WEIGHTS)


def test_a_saved_network_loads(saved: tuple[Path, Any]) -> None:
    folder, theirs = saved
    ours = load_unet(folder)
    assert_same_answers(ours, theirs)
    assert not ours.training
    assert not any(weight.requires_grad for weight in ours.parameters())
    assert ours.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_fourier_network_loads(tmp_path: Path) -> None:
    theirs = twins(LAYERS["fourier"])[1]
    theirs.save_pretrained(tmp_path, safe_serialization=True)
    assert_same_answers(load_unet(tmp_path), theirs)


def test_loading_leaves_the_global_generator_alone(saved: tuple[Path, Any]) -> None:
    before = torch.get_rng_state()
    load_unet(saved[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_is_widened(saved: tuple[Path, Any]) -> None:
    folder, theirs = saved
    rewrite(folder, lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    assert_same_answers(load_unet(folder), theirs.half().float())


def test_attention_names_of_old_checkpoints_are_understood(saved: tuple[Path, Any]) -> None:
    folder, theirs = saved
    today = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def age(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        for new, old in today.items():
            weights = {name.replace(new, old): tensor for name, tensor in weights.items()}
        return weights

    rewrite(folder, age)
    assert not any(".to_" in name for name in load_file(folder / WEIGHTS))
    assert_same_answers(load_unet(folder), theirs)


def test_misfitting_tensors_are_named(saved: tuple[Path, Any]) -> None:
    folder, _ = saved

    def spoil(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        del weights["conv_in.bias"]
        return weights | {"conv_in.mean": torch.ones(1), "conv_out.bias": torch.ones(4)}

    rewrite(folder, spoil)
    with pytest.raises(ModelError) as refusal:
        load_unet(folder)
    for part in (
        str(folder / WEIGHTS),
        "conv_in.bias is missing",
        "conv_in.mean is unknown",
        "conv_out.bias has the shape [4], not [3]",
    ):
        assert part in str(refusal.value)


def test_only_the_first_misfits_are_named(saved: tuple[Path, Any]) -> None:
    folder, _ = saved
    rewrite(folder, lambda weights: {"alien": torch.ones(1)})
    with pytest.raises(ModelError, match=r"(\S+ is missing, ){2}\S+ is missing, and \d+ more\. "):
        load_unet(folder)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: cannot read"):
        load_unet(tmp_path / "absent")


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\xff"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=r"config\.json: it .*JSON"):
        load_unet(tmp_path)


@pytest.mark.parametrize(
    ("instead", "given"),
    [
        ([], "there is no such file"),
        (["diffusion_pytorch_model.bin"], r"diffusion_pytorch_model\.bin: the file is empty"),
        ([f"{WEIGHTS}.index.json"], "index.json: it is not JSON"),
    ],
)
def test_other_weight_files_are_refused(tmp_path: Path, instead: list[str], given: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    for name in instead:
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=given):
        load_unet(tmp_path)


def test_a_broken_weight_file_is_refused(saved: tuple[Path, Any]) -> None:
    path = saved[0] / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=f"{WEIGHTS}: the file is cut short"):
        load_unet(saved[0])
