"""The density of pictures under the model's ODE, from the Gaussian at its noisy end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, ProgressDenoiser
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.likelihood.traces import Slope, Tracer


class Density(NamedTuple):
    """What a walk says of each picture.

    Fields: nats [B] float64, ln p(x_0); variance [B] float64, of that estimate, by the probes alone; x [B, ...], the
    code x_T; nfe, evaluations for each picture.
    """

    nats: Tensor
    variance: Tensor
    x: Tensor
    nfe: int


def log_density(denoiser: Denoiser, x0: Tensor, ladder: "Ladder", slope: Slope, tracer: Tracer) -> Density:
    """Ln p(x_0) for x_T ~ N(0, I) that flows down the ODE to x_0; as good as its steps, and the trace.

    In y = x / alpha the ODE is dy / ds = eps, so d ln p(y) / ds = -tr(d eps / d y). Here it is walked in x itself,
    dx / ds = alpha (eps - sigma x), where Gaussian data of variance 1 stand still and all ends are flat:

        ln p(x_0) = D ln(alpha_start) + ln N(x_T; 0, I) + integral of alpha (tr J - sigma D) ds,  J = d eps / d x.

    The integral and x_T are found together by the classical Runge-Kutta method, order 4.

    Args:
        denoiser: what to ask; guided ones have a density too, that of guided samples.
        x0: pictures [B, ...], taken for y at the first level.
        ladder: the levels to visit.
        slope: how to multiply by J.
        tracer: how to find its trace.

    Chen, Rubanova, Bettencourt, Duvenaud (2018); Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole (2021), appendix D.
    """
    calls: list[int] = []
    motion = _Motion(ProgressDenoiser(denoiser, calls.append), ladder.unit, slope, tracer)
    alpha, dim = ladder.levels[0].alpha, x0[0].numel()
    x = alpha * x0.double()
    total = variance = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for here, middle, there in ladder.rungs:
        step = _runge_kutta(motion, x, ladder.h, (here, middle, there))
        x, total, variance = x + step.velocity, total + step.divergence, variance + step.variance
    prior = -(x.flatten(1).square().sum(1) + dim * math.log(2 * math.pi)) / 2
    return Density(dim * math.log(alpha) + prior + total, variance, x, len(calls))


@dataclass(frozen=True)
class Ladder:
    """Levels from a start to pure noise, even in u with s = unit sinh(u): in s below the unit, in log s above it.

    Attributes:
        levels: two for each step and one more, as steps need their middles.
        h: a step in u.
        unit: the unit of s, that of the first trained level.
    """

    levels: tuple[Level, ...]
    h: float
    unit: float

    @classmethod
    def of(cls, schedule: NoiseSchedule, steps: int, start: float = 0.0) -> "Ladder":
        """The ladder of a schedule from the time `start` up to T.

        Raises:
            ArgumentError: no steps, or a start outside [0, T).
        """
        if steps < 1 or not 0 <= start < schedule.T:
            wanted = f"at least 1 step, from a time in [0, {schedule.T})"
            raise ArgumentError(wanted, f"{steps} from {start:g}", "20 steps from 0 are a good start")
        unit = schedule.s(1)
        low, high = (math.asinh(schedule.s(t) / unit) for t in (start, schedule.T))
        h = (high - low) / steps
        inner = [schedule.time(unit * math.sinh(low + h * i / 2)) for i in range(1, 2 * steps)]
        return cls(tuple(map(schedule.level, (start, *inner, float(schedule.T)))), h, unit)

    @property
    def rungs(self) -> Sequence[tuple[Level, Level, Level]]:
        """Beginning, middle and end of every step."""
        return list(zip(self.levels[:-2:2], self.levels[1:-1:2], self.levels[2::2], strict=True))


class _Moved(NamedTuple):
    """How x [B, ...] moves, what that adds to ln p [B], and the variance of it [B]."""

    velocity: Tensor
    divergence: Tensor
    variance: Tensor


@dataclass(frozen=True)
class _Motion:
    """The ODE in u, and the divergence of its velocity."""

    denoiser: Denoiser
    unit: float
    slope: Slope
    tracer: Tracer

    def __call__(self, x: Tensor, level: Level) -> _Moved:
        eps, product = self.slope(self.denoiser, x, level)
        trace = self.tracer(x, product)
        pace = math.hypot(level.s, self.unit) * level.alpha  # ds / du alpha
        still = level.sigma * x[0].numel()
        return _Moved(pace * (eps - level.sigma * x), pace * (trace.value - still), pace**2 * trace.variance)


def _runge_kutta(motion: _Motion, x: Tensor, h: float, levels: tuple[Level, Level, Level]) -> _Moved:
    """One step; errors of the traces are independent, so their variances add up under squared weights."""
    here, middle, there = levels
    first = motion(x, here)
    second = motion(x + h / 2 * first.velocity, middle)
    third = motion(x + h / 2 * second.velocity, middle)
    last = motion(x + h * third.velocity, there)
    weighted = [(h / 6, first), (h / 3, second), (h / 3, third), (h / 6, last)]
    return _Moved(
        torch.stack([w * moved.velocity for w, moved in weighted]).sum(0),
        torch.stack([w * moved.divergence for w, moved in weighted]).sum(0),
        torch.stack([w**2 * moved.variance for w, moved in weighted]).sum(0),
    )
