"""The registry of image metrics.

A metric is one module of `ddim_edit.metrics.image_metrics` that defines `METRIC`. Rows and summaries of evaluations,
their tables and plots, the columns of `ddim-edit reconstruct` and the documentation are built from the registry, so
that adding a metric is adding one file. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ddim_edit.discovery import find_entries
from ddim_edit.metrics import image_metrics
from ddim_edit.metrics.metric import Metric

if TYPE_CHECKING:
    import torch
    from torch import Tensor


METRICS: Mapping[str, Metric] = find_entries(image_metrics, "METRIC", lambda metric: metric.order)
"""All metrics by name, in the order of tables and files."""


class ImageScorer:
    """Compares images by every metric of the registry.

    Args:
        device: where metrics with a network compute.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._functions = {name: metric.make(device) for name, metric in METRICS.items()}

    def __call__(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return float64 [B] by the name of the metric, for two batches [B, 3, H, W] in [-1, 1].

        Raises:
            ArgumentError: shapes that differ, or images too small for a metric.
        """
        return {name: function(a, b) for name, function in self._functions.items()}
