"""Mean squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_edit.metrics.image_pairs import to_unit_range
from ddim_edit.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared error of two batches of images, taken as [0, 1].

    Args:
        a: images [B, 3, H, W] in [-1, 1].
        b: images of the same shape.

    Returns:
        float64 [B].

    Raises:
        ArgumentError: shapes that differ.

    Examples:
        >>> import torch
        >>> from ddim_edit import metrics
        >>> metrics.mse(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8))
        tensor([0.2500], dtype=torch.float64)
    """
    a, b = to_unit_range(a, b)
    return (a - b).square().mean(dim=(1, 2, 3))


METRIC = Metric(
    name="mse",
    title="MSE",
    help="Mean squared error per dimension, of images in [0, 1].",
    value_format="9.2e",
    mean_format=".2g",
    better="lower",
    order=40,
    make=lambda device: mse,
    lowest=0.0,
    plot_label="mean squared error per dimension, pixels in [0, 1]",
)
