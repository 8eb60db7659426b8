"""Structural similarity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_edit.errors import ArgumentError
from ddim_edit.metrics.image_pairs import to_unit_range
from ddim_edit.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

WINDOW_SIZE = 11
WINDOW_SIGMA = 1.5
LUMINANCE_CONSTANT = 0.01**2
CONTRAST_CONSTANT = 0.03**2


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean structural similarity of two batches of images, each colour channel by itself; at most 1.

    (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2)), c1 = 0.01^2, c2 = 0.03^2, with means m
    and variances s under an 11x11 Gaussian window of standard deviation 1.5. As its authors and scikit-image do, it is
    averaged over the places where the window lies inside the image; torchmetrics adds mirrored borders.

    Arguments as `mse`.

    Raises:
        ArgumentError: shapes that differ, or images smaller than 11x11.

    References:
        Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity",
        IEEE Transactions on Image Processing 13, 2004.
    """
    a, b = to_unit_range(a, b)
    if min(a.shape[-2:]) < WINDOW_SIZE:
        height, width = a.shape[-2:]
        raise ArgumentError(f"SSIM needs images of at least 11x11 pixels, not {width}x{height}. Compare them by mse.")
    mean_a = _window_mean(a)
    mean_b = _window_mean(b)
    covariance = _window_mean(a * b) - mean_a * mean_b
    variance_sum = _window_mean(a * a + b * b) - mean_a.square() - mean_b.square()
    luminance = (2 * mean_a * mean_b + LUMINANCE_CONSTANT) / (mean_a.square() + mean_b.square() + LUMINANCE_CONSTANT)
    contrast = (2 * covariance + CONTRAST_CONSTANT) / (variance_sum + CONTRAST_CONSTANT)
    return (luminance * contrast).mean(dim=(1, 2, 3))


def _window_mean(x: Tensor) -> Tensor:
    """Return means of x [B, 3, H, W] under the Gaussian window where it lies inside: [B, 3, H - 10, W - 10]."""
    import torch
    from torch.nn.functional import conv2d

    offsets = torch.arange(WINDOW_SIZE, dtype=x.dtype, device=x.device) - WINDOW_SIZE // 2
    weights = torch.softmax(-offsets.square() / (2 * WINDOW_SIGMA**2), dim=0)
    row = weights.expand(3, 1, 1, WINDOW_SIZE)
    # The window is separable: a row and a column cost 22 multiplications a pixel instead of 121.
    return conv2d(conv2d(x, row, groups=3), row.mT, groups=3)


METRIC = Metric(
    name="ssim",
    title="SSIM",
    help="Structural similarity, 1 for equal images.",
    value_format="7.5f",
    mean_format=".5f",
    better="higher",
    order=20,
    make=lambda device: ssim,
    lowest=-1.0,
    highest=1.0,
    column="SSIM",
)
