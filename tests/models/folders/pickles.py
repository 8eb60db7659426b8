"""Weights as the pickles that checkpoints of 2022 consist of."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def pickled(folder: Path, file: str, change: Callable[[Mapping[str, Tensor]], object] = dict, **options: Any) -> Path:
    """Put a pickle in the place of a file of safetensors, and return its path."""
    path = folder / file
    name = {"model": "pytorch_model"}.get(path.stem, path.stem)
    torch.save(change(load_file(path)), path.with_name(f"{name}.bin"), **options)
    path.unlink()
    return path.with_name(f"{name}.bin")
