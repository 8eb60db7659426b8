"""Denoisers whose answers are known in closed form, and the walks that follow from them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, MixtureDenoiser
from ddim_edit.diffusion.grids import Grid, make_grid
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level, NoiseSchedule, Span

LINEAR = NoiseSchedule.linear()
SHAPE = (1, 2, 3)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spans(grid: str = "karras", steps: int = 20, schedule: NoiseSchedule = LINEAR) -> tuple[Span, ...]:
    return schedule.spans(make_grid(grid, schedule, steps))


def spans_between(low: float, high: float, steps: int) -> tuple[Span, ...]:
    """Steps evenly spaced in log s from s = low to s = high."""
    ratios = [low * (high / low) ** (i / steps) for i in range(steps + 1)]
    return LINEAR.spans(Grid("between", tuple(LINEAR.time(s) for s in ratios)))


def mixture(seed: int = 0, components: int = 4, width: float = 0.5, shape: Sequence[int] = SHAPE) -> MixtureDenoiser:
    """Unequal components that overlap more or less, with means of size 1 and widths around `width`."""
    draw = randn(components, 2 + math.prod(shape), seed=seed)
    widths, weights = width * (0.3 * draw[:, 0]).exp(), draw[:, 1].exp()
    return MixtureDenoiser(draw[:, 2:].view(components, *shape), widths, weights)


def draw(data: MixtureDenoiser, n: int, seed: int = 0) -> Tensor:
    """Images from a mixture, its components in turn."""
    which = torch.arange(n) % len(data.means)
    noise = randn(n, *data.means.shape[1:], seed=seed)
    return data.means[which] + data.widths[which].view(-1, *[1] * (noise.ndim - 1)) * noise


def gaussian(width: float, mean: Tensor | None = None) -> MixtureDenoiser:
    """One component, at 0 where no mean is given."""
    mean = torch.zeros(SHAPE, dtype=torch.float64) if mean is None else mean
    one = torch.ones(1, dtype=torch.float64)
    return MixtureDenoiser(mean[None], width * one, one)


def gaussian_flow(y: Tensor, width: float, mean: Tensor, start: float, end: float) -> Tensor:
    """Where the exact ODE takes y = x / alpha from s = start to s = end."""
    return mean + (y - mean) * math.sqrt((width**2 + end**2) / (width**2 + start**2))


def gain(width: float, walk: Sequence[Span]) -> float:
    """By how much DDIM's decode shrinks y about the mean of a Gaussian, all steps together."""
    squares = ((width**2 + span.here.s * span.there.s) / (width**2 + span.there.s**2) for span in walk)
    return math.prod(squares)


def cdf_flow(data: MixtureDenoiser, y: Tensor, start: float, end: float) -> Tensor:
    """Where the exact ODE takes scalars y of a one-dimensional mixture: to the same quantile."""
    target = _cdf(data, y, start)
    low, high = torch.full_like(y, -1e3), torch.full_like(y, 1e3)
    for _ in range(80):
        middle = (low + high) / 2
        below = _cdf(data, middle, end) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _cdf(data: MixtureDenoiser, y: Tensor, s: float) -> Tensor:
    means, weights = data.means.flatten(), data.weights / data.weights.sum()
    return (weights * torch.special.ndtr((y[..., None] - means) / (data.widths**2 + s**2).sqrt())).sum(-1)


def fine_flow(denoiser: Denoiser, y: Tensor, start: float, end: float, steps: int = 400) -> Tensor:
    """Where Runge-Kutta's classical method takes y = x / alpha from s = start to s = end, evenly in log s."""

    def slope(point: Tensor, log_s: float) -> Tensor:
        s = math.exp(log_s)
        alpha = 1 / math.hypot(1, s)
        return s * denoiser(alpha * point, Level(math.nan, alpha, s * alpha)).eps

    h, log_start = math.log(end / start) / steps, math.log(start)
    for i in range(steps):
        log_s = log_start + i * h
        k1 = slope(y, log_s)
        k2 = slope(y + h / 2 * k1, log_s + h / 2)
        k3 = slope(y + h / 2 * k2, log_s + h / 2)
        k4 = slope(y + h * k3, log_s + h)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y


def max_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@dataclass
class Counting:
    """A denoiser that counts the rows it is asked about and remembers the levels."""

    denoiser: Denoiser
    rows: int = 0
    levels: list[Level] = field(default_factory=list)

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        self.rows += len(x)
        self.levels.append(level)
        return self.denoiser(x, level)


@dataclass(frozen=True)
class Altered:
    """A denoiser whose eps went through a function; x0 follows."""

    denoiser: Denoiser
    alter: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        eps = self.alter(x, self.denoiser(x, level).eps)
        return Prediction((x - level.sigma * eps) / level.alpha, eps)
