"""Pixels in their three forms: float tensors, uint8 tensors and Pillow images."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddim_edit.errors import ArgumentError


def to_float(pixels: Tensor) -> Tensor:
    """The float32 picture of uint8 `pixels`, of any shape: 0 becomes -1, 255 becomes 1."""
    return pixels.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """The nearest uint8 picture of `x`, of any shape; what lies outside [-1, 1] is cut off at its ends.

    to_uint8(to_float(u)) == u for all u.

    Errors: ArgumentError if `x` holds NaN, which no pixel can show.
    """
    if x.isnan().any():
        raise ArgumentError("numbers as pixels", "NaN", "find the step that diverged")
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_image(image: Image.Image) -> Tensor:
    """The uint8 tensor [3, H, W] of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_image(pixels: Tensor) -> Image.Image:
    """The RGB image of a uint8 tensor [3, H, W]; ArgumentError for anything else."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.numel():
        given = f"{pixels.dtype} of shape {list(pixels.shape)}"
        raise ArgumentError("uint8 pixels of shape [3, H, W]", given, "convert floats with to_uint8")
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
