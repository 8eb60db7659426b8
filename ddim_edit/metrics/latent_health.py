"""Health of latents: how close they are to white Gaussian noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddim_edit.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Health:
    """How close each latent of a batch is to white noise; float64 [B] each, with the value of noise.

    Attributes:
        mean: 0.
        std: 1; with D, not D - 1, in the denominator.
        corr: 0; mean of the Pearson correlations of horizontal and of vertical neighbours.
        kurtosis: 3; fourth central moment over squared variance.
        norm: 1; length over sqrt(D).
    """

    mean: Tensor
    std: Tensor
    corr: Tensor
    kurtosis: Tensor
    norm: Tensor


def health(x: Tensor) -> Health:
    """Return the health of latents, over all D = C H W values of each.

    What is undefined is NaN: `corr` and `kurtosis` of a constant, `corr` of a single pixel. Where only one direction
    has neighbours, `corr` is that direction's.

    Args:
        x: latents [B, C, H, W].

    Raises:
        ArgumentError: another shape.

    Examples:
        >>> import torch
        >>> from ddim_edit import metrics
        >>> noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> round(metrics.health(noise).std.item(), 2)
        1.0
    """
    if x.ndim != 4:
        raise ArgumentError(f"Latents have the shape [B, C, H, W], not {list(x.shape)}. Add the batch dimension.")
    x = x.double()
    flat = x.flatten(1)
    central = flat - flat.mean(dim=1, keepdim=True)
    variance = central.square().mean(dim=1)
    horizontal = _correlation(x[..., :, :-1], x[..., :, 1:])
    vertical = _correlation(x[..., :-1, :], x[..., 1:, :])
    return Health(
        mean=flat.mean(dim=1),
        std=variance.sqrt(),
        corr=torch.stack([horizontal, vertical]).nanmean(dim=0),
        kurtosis=central.pow(4).mean(dim=1) / variance.square(),
        norm=flat.square().mean(dim=1).sqrt(),
    )


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the Pearson correlation of two batches, value by value; NaN where it is undefined."""
    a = a.flatten(1)
    b = b.flatten(1)
    a = a - a.mean(dim=1, keepdim=True)
    b = b - b.mean(dim=1, keepdim=True)
    return (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
