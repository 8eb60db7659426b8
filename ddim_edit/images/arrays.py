"""Turn numpy arrays into Pillow images, and refuse those that cannot be images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddim_edit.errors import ArgumentError
from ddim_edit.images.ranges import ENOUGH

CHANNELS = (1, 3, 4)
"""Channels of an image in an array: grey, RGB, and RGB with alpha."""


def require_image_array(array: NDArray[Any]) -> None:
    """Refuse arrays that are not images [H, W], [H, W, C] or [N, H, W, C], uint8 or floats in [0, 1].

    Floats in arrays are in [0, 1], as scikit-image and matplotlib have them. Negative ones, and ones above 1, could be
    in [-1, 1] or in 0..255 and are refused, and so are 8-bit levels of [-1, 1] of which none happens to be negative:
    of 255 x they have odd whole numbers alone.

    Raises:
        ArgumentError: another dtype, shape or range.
    """
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ArgumentError(
            f"An array of images must be of uint8, or of floats in [0, 1], not of {array.dtype}. Convert it."
        )
    shape = list(array.shape)
    if array.ndim not in (2, 3, 4) or (array.ndim > 2 and array.shape[-1] not in CHANNELS):
        advice = "Convert it."
        if array.ndim > 2 and array.shape[-3] in CHANNELS and array.shape[-1] > max(CHANNELS):
            advice = "If its channels come first, move them with `numpy.moveaxis(x, -3, -1)`."
        raise ArgumentError(
            f"An array of images must have the shape [H, W], [H, W, C] or [N, H, W, C] with 1, 3 or 4 channels C, "
            f"not {shape}. {advice}"
        )
    if not all(array.shape[-3:] if array.ndim > 2 else array.shape):
        raise ArgumentError(f"An image must have pixels, but this array has the shape {shape}.")
    if array.dtype.kind == "f" and array.size:
        _require_unit_range(array)


def _require_unit_range(array: NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        raise ArgumentError("Images must be finite, but this array has NaN or infinite values. Leave that image out.")
    low, high = float(array.min()), float(array.max())
    advice = ""
    if low < 0 or high > 1:
        advice = "use (x + 1) / 2" if low < 0 and high <= 1 else "use x / 255"
        advice = f"If they are in {'[-1, 1]' if low < 0 else '0..255'}, {advice}; what overshoots must be clipped."
    elif array.size >= ENOUGH and low < high:
        levels = array.astype(np.float64) * 255
        whole = levels.round()
        if abs(levels - whole).max() < 1e-2 and (whole % 2 == 1).all():
            advice = "They have the levels of 8-bit images in [-1, 1]: use (x + 1) / 2."
    if advice:
        raise ArgumentError(f"Floats of an array of images must be in [0, 1], not in [{low:.4g}, {high:.4g}]. {advice}")


def image_from_array(array: NDArray[Any]) -> Image.Image:
    """Return an image [H, W] or [H, W, C] as Pillow's; floats are rounded to the nearest of 256 levels.

    Raises:
        ArgumentError: as `require_image_array`, or a batch of images.
    """
    require_image_array(array)
    if array.ndim == 4:
        raise ArgumentError(f"This must be one image, not a batch of shape {list(array.shape)}. Pass one of them.")
    if array.dtype != np.uint8:
        # In float64, where the levels of a float16 do not overflow or round twice.
        array = (array.astype(np.float64) * 255).round().astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))
