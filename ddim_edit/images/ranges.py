"""Refuse tensors whose values cannot be those of images in [-1, 1]."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ddim_edit.errors import ArgumentError, InputWarning

if TYPE_CHECKING:
    from torch import Tensor

FROM_UNIT = "If they are in [0, 1], use 2 * x - 1."
ENOUGH = 192
"""Values of a batch, 8x8 pixels, from which its range tells what it is."""
FARTHEST = 30
"""Beyond this no decoded image overshoots: samples of faces64 in a single step reach 12."""


def require_image_range(*batches: Tensor, stacklevel: int = 3) -> None:
    """Refuse images [..., 3, H, W] that are not floats in [-1, 1], as far as their values tell.

    Values may overshoot, as those of decoded images do, but not as far as those in -128..127. Images in [0, 1] are told
    from ones in [-1, 1] without a dark pixel by their levels: of 255 x, 8-bit images in [-1, 1] have odd whole numbers
    alone, and so none below 1, but images in [0, 1] have even ones too. What neither proves gives a warning.

    Args:
        batches: images that are used together; one dark pixel among them tells of [-1, 1].
        stacklevel: of the warning.

    Raises:
        ArgumentError: whole numbers, a dtype or a layout that nothing is computed in, or values that are not finite, in
            0..255, in -128..127 or in [0, 1].

    Warns:
        InputWarning: values that all lie in [0, 1], but may be those of bright images.
    """
    lows, highs = [], []
    is_proven = False
    for x in batches:
        _require_numbers(x)
        x = x.detach()
        if x.numel() < ENOUGH:
            continue
        low, high = (float(each) for each in x.aminmax())
        if low >= 0 and high > 2:
            raise ArgumentError(_describe(low, high, "If they are in 0..255, use x / 127.5 - 1."))
        if max(-low, high) > FARTHEST:
            raise ArgumentError(_describe(low, high, "Scale them, and clip what overshoots."))
        if low < 0 or high > 1:
            is_proven = True
        elif low < high:
            lows.append(low)
            highs.append(high)
            levels = x.double() * 255
            whole = levels.round()
            if bool((levels - whole).abs().max() < 1e-2):
                if bool((whole % 2 == 0).any()):
                    raise ArgumentError(_describe(low, high, FROM_UNIT))
                is_proven = True  # 8-bit images in [-1, 1], bright all over
    if not lows or is_proven:
        return
    low, high = min(lows), max(highs)
    if low < 0.99 / 255:
        raise ArgumentError(_describe(low, high, FROM_UNIT))
    text = f"All values are in [{low:.4g}, {high:.4g}], as only those of very bright images in [-1, 1] are. {FROM_UNIT}"
    warnings.warn(text, InputWarning, stacklevel=stacklevel)


def _require_numbers(x: Tensor) -> None:
    """Refuse a tensor that is not of finite floats, in memory and of a precision that is computed in."""
    import torch

    if not x.is_floating_point():
        raise ArgumentError(f"Images must be floats in [-1, 1], not {x.dtype}. Convert them with `images.to_float`.")
    if x.dtype.itemsize < 2 or x.layout != torch.strided or x.is_meta:
        given = f"{x.dtype} in the layout {x.layout} on {x.device}"
        raise ArgumentError(f"Images must be dense and of at least 16 bits, not {given}. Use x.to_dense().float().")
    if not x.isfinite().all():
        raise ArgumentError("Images must be finite, but this tensor has NaN or infinite values. Leave that image out.")


def _describe(low: float, high: float, advice: str) -> str:
    return f"Images must be floats in [-1, 1], not in [{low:.4g}, {high:.4g}]. {advice}"
