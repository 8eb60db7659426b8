"""Convert pixels between their three forms: float tensors, uint8 tensors and Pillow images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor  # torch takes a second to import, and `ddim-edit show` does without it

SHOWN_WIDTH = 256
"""Pixels that images are wide at least in strips, sheets and animations."""


def to_float(pixels: Tensor) -> Tensor:
    """Return uint8 `pixels` of any shape as float32, x = p / 127.5 - 1: 0 becomes -1 and 255 becomes 1.

    Raises:
        ArgumentError: another dtype.

    Examples:
        >>> import torch
        >>> to_float(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([-1.,  1.])
    """
    import torch

    if pixels.dtype != torch.uint8:
        raise ArgumentError(f"Pixels must be uint8, not {pixels.dtype}. Floats in [0, 1] become images by 2 * x - 1.")
    return pixels.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Return `x` of any shape as the nearest uint8 levels; values outside [-1, 1] are clipped.

    to_uint8(to_float(u)) == u for all u.

    Raises:
        ArgumentError: `x` holds NaN, which no pixel can show, or is not of floats.
    """
    import torch

    if not x.is_floating_point():
        raise ArgumentError(f"Images must be floats in [-1, 1], not {x.dtype}. Convert uint8 with `images.to_float`.")
    if x.isnan().any():
        raise ArgumentError("The image holds NaN, which no pixel can show. Find the step that diverged.")
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_image(image: Image.Image) -> Tensor:
    """Return an RGB image as uint8 [3, H, W]."""
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_image(pixels: Tensor) -> Image.Image:
    """Return uint8 [3, H, W] as an RGB image.

    Raises:
        ArgumentError: any other tensor.
    """
    import torch

    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.numel():
        given = f"{pixels.dtype} {list(pixels.shape)}"
        raise ArgumentError(f"Pixels must be uint8 [3, H, W], not {given}. Convert floats with `images.to_uint8`.")
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def display_factor(width: int, wanted: int = SHOWN_WIDTH) -> int:
    """Return the smallest whole factor that makes images of this width as wide as wanted."""
    return math.ceil(wanted / width)


def upscale(pixels: Tensor, factor: int) -> Tensor:
    """Return images uint8 [..., 3, H, W] enlarged by a whole factor with a Lanczos filter.

    Examples:
        >>> import torch
        >>> list(upscale(torch.zeros(3, 64, 64, dtype=torch.uint8), 4).shape)
        [3, 256, 256]
    """
    if factor == 1:
        return pixels
    import torch

    height, width = pixels.shape[-2:]
    size = (factor * width, factor * height)
    images = pixels.reshape(-1, 3, height, width)
    enlarged = [from_image(to_image(image).resize(size, Image.Resampling.LANCZOS)) for image in images]
    return torch.stack(enlarged).reshape(*pixels.shape[:-2], *size[::-1])
