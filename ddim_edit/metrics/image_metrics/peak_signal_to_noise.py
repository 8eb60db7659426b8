"""Peak signal-to-noise ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_edit.metrics.image_metrics.mean_squared_error import mse
from ddim_edit.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB, -10 log10(mse); infinite for equal images.

    Arguments and errors as `mse`.
    """
    return -10 * mse(a, b).log10()


METRIC = Metric(
    name="psnr",
    title="PSNR dB",
    help="Peak signal-to-noise ratio in dB.",
    value_format="7.2f",
    mean_format=".2f",
    better="higher",
    order=10,
    make=lambda device: psnr,
    column="PSNR",
)
