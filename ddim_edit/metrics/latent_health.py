"""Health of latents: how close they are to white Gaussian noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddim_edit.errors import ArgumentError

PATCH = 8
"""Cells of a side of a patch, about: as many patches of one size as fit best."""
CHANCE = 4.0
"""Standard errors that chance is allowed, of each figure and of the least and the greatest of the patches."""
TOLERATED = {"mean": 0.1, "std": 0.05, "kurtosis": 0.1, "low": 0.1, "middle": 0.05, "high": 0.05, "patch": 0.15}
"""How far figures may be from those of white noise, beside chance; docs/explanation/health.md has what was measured."""


@dataclass(frozen=True, eq=False)
class Health:
    """How close each latent of a batch is to white noise; float64 [B] each, with the value of noise.

    Attributes:
        mean: 0.
        std: 1; with D, not D - 1, in the denominator.
        corr: 0; mean of the Pearson correlations of horizontal and of vertical neighbours.
        kurtosis: 3; fourth central moment over squared variance.
        norm: 1; length over sqrt(D).
        patch_low: the least standard deviation of a patch of about 8x8 cells with all channels; less than 1 by chance.
        patch_high: the greatest one; more than 1 by chance.
        low: 1; mean power of the lowest third of the frequencies up to that of alternating cells, in any direction.
        middle: 1; of the middle third.
        high: 1; of the rest.
        deviation: the greatest distance of one of these from its value for noise, relative to what is tolerated; above
            1 interpolations and directions are not to be relied on. Correlation and norm follow from the others.
    """

    mean: Tensor
    std: Tensor
    corr: Tensor
    kurtosis: Tensor
    norm: Tensor
    patch_low: Tensor
    patch_high: Tensor
    low: Tensor
    middle: Tensor
    high: Tensor
    deviation: Tensor


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
    count = flat.shape[1]
    central = flat - flat.mean(dim=1, keepdim=True)
    variance = central.square().mean(dim=1)
    horizontal = _correlation(x[..., :, :-1], x[..., :, 1:])
    vertical = _correlation(x[..., :-1, :], x[..., 1:, :])
    patches = patch_std(x).flatten(1)
    figures = {
        "mean": flat.mean(dim=1),
        "std": variance.sqrt(),
        "kurtosis": central.pow(4).mean(dim=1) / variance.square(),
        "patch_low": patches.amin(dim=1),
        "patch_high": patches.amax(dim=1),
    }
    errors = {"mean": count**-0.5, "std": (2 * count) ** -0.5, "kurtosis": (24 / count) ** 0.5}
    errors["patch_low"] = errors["patch_high"] = (2 * count / patches.shape[1]) ** -0.5
    for name, (power, values) in _band_powers(x).items():
        figures[name] = power
        errors[name] = (values / 2) ** -0.5  # frequencies come in pairs of one power
    deviations = []
    for name, found in figures.items():
        expected = {"mean": 0.0, "kurtosis": 3.0}.get(name, 1.0)
        tolerated = TOLERATED[name.split("_")[0]] + CHANCE * errors[name]
        deviations.append((found - expected).abs() / tolerated)
    return Health(
        **figures,
        corr=torch.stack([horizontal, vertical]).nanmean(dim=0),
        norm=flat.square().mean(dim=1).sqrt(),
        # What is undefined, as the kurtosis of a constant, does not count.
        deviation=torch.stack(deviations).nan_to_num(nan=0.0).amax(dim=0),
    )


def patch_std(x: Tensor) -> Tensor:
    """Return the standard deviation of each patch of about 8x8 cells, over all channels, [B, rows, columns].

    Args:
        x: latents [B, C, H, W].
    """
    size = math.ceil(x.shape[-2] / PATCH), math.ceil(x.shape[-1] / PATCH)
    x = x.double()
    mean = F.adaptive_avg_pool2d(x.mean(1, keepdim=True), size)
    square = F.adaptive_avg_pool2d(x.square().mean(1, keepdim=True), size)
    return (square - mean.square()).clamp(min=0).sqrt()[:, 0]


def _band_powers(x: Tensor) -> dict[str, tuple[Tensor, int]]:
    """Return the mean power [B] in bands of frequencies, relative to white noise, and of how many values it is."""
    power = torch.fft.fft2(x, norm="ortho").abs().square()
    radius = _frequencies(x.shape[-2:], x.device)
    counted = _frequencies(x.shape[-2:], torch.device("cpu"))  # a count on a GPU would be waited for
    found = {}
    # The mean, at frequency 0, is a figure of its own.
    for name, low, high in (("low", 0, 1 / 3), ("middle", 1 / 3, 2 / 3), ("high", 2 / 3, 2)):
        count = x.shape[1] * int(((counted > low) & (counted <= high)).sum())
        inside = (radius > low) & (radius <= high)
        # Without any such frequency it is 0 / 0, which is undefined.
        found[name] = ((power * inside).sum(dim=(1, 2, 3)) / count, max(1, count))
    return found


def _frequencies(size: Sequence[int], device: torch.device) -> Tensor:
    """Return the length of each frequency of images of a size (H, W), of which 1 is alternating cells: [H, W]."""
    down, across = (torch.fft.fftfreq(side, dtype=torch.float64, device=device) for side in size)
    return 2 * torch.hypot(down[:, None], across)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the Pearson correlation of two batches, value by value; NaN where it is undefined."""
    a = a.flatten(1)
    b = b.flatten(1)
    a = a - a.mean(dim=1, keepdim=True)
    b = b - b.mean(dim=1, keepdim=True)
    return (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
