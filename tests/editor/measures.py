"""A quick method, pictures as tensors, and how far tensors are apart."""

from pathlib import Path

import torch
from torch import Tensor

from ddim_edit import InversionConfig
from ddim_edit.images import read, to_float

from .. import tiny

QUICK = InversionConfig(grid="karras:14", steps=4)


def as_tensor(files: list[Path]) -> Tensor:
    return torch.stack([to_float(read(path, tiny.SIZE).pixels) for path in files])


def max_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
