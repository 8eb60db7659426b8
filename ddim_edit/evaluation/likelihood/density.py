"""The density of images under a model, from the Gaussian at the noisy end of its ODE.

The probability-flow ODE maps noise x_T ~ N(0, I) to images one to one, so it is a continuous normalizing flow: along
dx / ds = f(x) the log density changes by -div f. In y = x / alpha the ODE is dy / ds = eps, so

    d ln p(y) / ds = -tr(d eps / d y).

It is integrated here in x itself, dx / ds = alpha (eps - sigma x), where Gaussian data of variance 1 do not move and
all integrands are flat at both ends, so that few steps suffice:

    ln p(x_0) = D ln(alpha_start) + ln N(x_T; 0, I) + integral of alpha (tr J - sigma D) ds,  J = d eps / d x.

References:
    Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", NeurIPS 2018, arXiv:1806.07366.
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, "Score-Based Generative Modeling through Stochastic Differential
    Equations", ICLR 2021, arXiv:2011.13456, appendix D.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, ProgressDenoiser
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.likelihood.traces import Linearization, TraceEstimator


class Density(NamedTuple):
    """The density at B images.

    Attributes:
        nats: ln p(x_0), float64 [B].
        variance: of that estimate, float64 [B], by the probes of the trace alone.
        x: the latent x_T [B, ...].
        nfe: evaluations per image.
    """

    nats: Tensor
    variance: Tensor
    x: Tensor
    nfe: int


@dataclass(frozen=True)
class RungeKuttaGrid:
    """Levels from a start to pure noise, even in u with s = unit sinh(u): in s below the unit, in log s above it.

    Attributes:
        levels: two per step and one more, as steps need their middles.
        h: step in u.
        unit: the s of the first trained level.
    """

    levels: tuple[Level, ...]
    h: float
    unit: float

    @classmethod
    def make(cls, schedule: NoiseSchedule, steps: int, start: float = 0.0) -> Self:
        """Return the grid through a schedule from the time `start` up to T.

        Raises:
            ArgumentError: no steps, or a start outside [0, T).
        """
        if steps < 1 or not 0 <= start < schedule.T:
            raise ArgumentError(
                f"A likelihood needs at least 1 step from a time in [0, {schedule.T}), not {steps} from {start:g}."
                " 20 steps from 0 are a good start."
            )
        unit = schedule.s(1)
        low = math.asinh(schedule.s(start) / unit)
        high = math.asinh(schedule.s(schedule.T) / unit)
        h = (high - low) / steps
        # Every second level is the middle of a step, where the Runge-Kutta method evaluates twice.
        inner = [schedule.time(unit * math.sinh(low + h * i / 2)) for i in range(1, 2 * steps)]
        return cls(tuple(map(schedule.level, (start, *inner, float(schedule.T)))), h, unit)

    @property
    def steps(self) -> Sequence[tuple[Level, Level, Level]]:
        """Start, middle and end of every step."""
        return list(zip(self.levels[:-2:2], self.levels[1:-1:2], self.levels[2::2], strict=True))


def log_density(
    denoiser: Denoiser, x0: Tensor, grid: RungeKuttaGrid, linearization: Linearization, trace: TraceEstimator
) -> Density:
    """Return ln p(x_0) for x_T ~ N(0, I) that flows down the ODE to x_0.

    The integral and x_T are found together by the classical Runge-Kutta method of order 4, with four traces per step.

    Args:
        denoiser: predicts eps; a guided one has a density too, that of guided samples.
        x0: images [B, ...], taken for y at the first level.
        grid: the levels to visit.
        linearization: gives eps and Jacobian products.
        trace: estimates the trace from the products.
    """
    calls: list[int] = []
    counted = ProgressDenoiser(denoiser, calls.append)
    alpha = grid.levels[0].alpha
    dim = x0[0].numel()

    def derivative(x: Tensor, level: Level) -> _Derivative:
        eps, product = linearization(counted, x, level)
        found = trace(x, product)
        pace = math.hypot(level.s, grid.unit) * level.alpha  # alpha ds / du
        velocity = pace * (eps - level.sigma * x)
        return _Derivative(velocity, pace * (found.value - level.sigma * dim), pace**2 * found.variance)

    x = alpha * x0.double()
    total = variance = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for here, middle, there in grid.steps:
        first = derivative(x, here)
        second = derivative(x + grid.h / 2 * first.velocity, middle)
        third = derivative(x + grid.h / 2 * second.velocity, middle)
        last = derivative(x + grid.h * third.velocity, there)
        # Simpson's weights: the slope at the middle counts four times as much as those at the ends.
        weighted = [(grid.h / 6, first), (grid.h / 3, second), (grid.h / 3, third), (grid.h / 6, last)]
        x = x + torch.stack([w * each.velocity for w, each in weighted]).sum(0)
        total = total + torch.stack([w * each.divergence for w, each in weighted]).sum(0)
        # The errors of the traces are independent, so their variances add up under squared weights.
        variance = variance + torch.stack([w**2 * each.variance for w, each in weighted]).sum(0)
    prior = -(x.flatten(1).square().sum(1) + dim * math.log(2 * math.pi)) / 2
    return Density(dim * math.log(alpha) + prior + total, variance, x, len(calls))


class _Derivative(NamedTuple):
    """Derivatives in u: of x [B, ...], of the integral [B], and the variance of the latter [B]."""

    velocity: Tensor
    divergence: Tensor
    variance: Tensor
