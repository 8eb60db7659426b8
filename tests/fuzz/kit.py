"""Good files, and what puts a spoiled one of them before a command."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load, save

from .spoiling import Spoil, parted

LATENT, DIRECTION = ".latent.safetensors", ".direction.safetensors"
WEIGHTS = Path("unet/diffusion_pytorch_model.safetensors")


class Kit(NamedTuple):
    """Good files, to be spoiled."""

    model: Path
    latent: bytes
    direction: bytes
    store: Path


Line = list[object]
Make = Callable[[Kit, Path], Line]
"""Puts a malformed input into a folder, and gives the command line that reads it."""
Tensors = dict[str, torch.Tensor]


def made(path: Path) -> Path:
    """A new folder."""
    path.mkdir(parents=True)
    return path


def retensored(change: Callable[[Tensors], object]) -> Spoil:
    """Spoils the tensors of a safetensors file."""

    def spoil(blob: bytes) -> bytes:
        tensors, metadata = load(blob), parted(blob)[0].get("__metadata__")
        change(tensors)
        if any(tensor.is_complex() for tensor in tensors.values()):
            pytest.importorskip("safetensors", "0.7")  # older versions cannot write them
        return save(tensors, metadata)

    return spoil
