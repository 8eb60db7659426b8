"""Share of identical pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_edit.metrics.image_pairs import require_image_pair
from ddim_edit.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor


def identical_pixels(a: Tensor, b: Tensor) -> Tensor:
    """Return the share of pixels that are the same in 8 bit in all three channels, from 0 to 1.

    Arguments as `mse`.
    """
    from ddim_edit.images import to_uint8

    require_image_pair(a, b)
    return (to_uint8(a) == to_uint8(b)).all(1).double().mean((1, 2))


METRIC = Metric(
    name="identical_pixels",
    title="same pixels",
    help="Share of pixels that are the same in 8 bit.",
    value_format="8.2%",
    mean_format=".1%",
    better="higher",
    order=50,
    make=lambda device: identical_pixels,
    lowest=0.0,
    highest=1.0,
    column="same",
)
