"""What the registry knows of a metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    ImageComparison = Callable[[Tensor, Tensor], Tensor]
    """Compares two batches of images [B, 3, H, W] in [-1, 1]: float64 [B], one value per image."""


@dataclass(frozen=True)
class Metric:
    """A measure of how close two images are.

    Args:
        name: key of JSON files and column of CSV files.
        title: heading in tables, with its unit.
        help: one sentence for the documentation.
        value_format: format code of one image's value.
        mean_format: format code of a mean.
        better: whether lower or higher values are better.
        order: position among the metrics.
        make: makes the function that compares images, on a device.
        lowest: smallest possible value.
        highest: largest possible value.
        plot_label: label of its axis where evaluations are plotted against their cost; None leaves it out.
        column: heading in the table of `ddim-edit reconstruct`; None leaves it out.
    """

    name: str
    title: str
    help: str
    value_format: str
    mean_format: str
    better: Literal["lower", "higher"]
    order: int
    make: Callable[[torch.device | str], ImageComparison]
    lowest: float = -math.inf
    highest: float = math.inf
    plot_label: str | None = None
    column: str | None = None
