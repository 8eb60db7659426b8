"""The steps that solvers take: from x at one level to x at the next, in either direction.

With y = x / alpha and s = sigma / alpha every eta = 0 sampler integrates dy / ds = eps(x, t). A step decides which eps
to believe and then goes `along` it, or, where x0 and eps come from one evaluation, `towards` what they make of x.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level, Span
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser


class HistoryEntry(NamedTuple):
    """What a multistep method remembers of a level that it has seen: x0 or eps there, whichever it extrapolates."""

    level: Level
    value: Tensor


History = tuple[HistoryEntry, ...]


class Step(Protocol):
    """One step of a solver: x [B, ...] at span.here and what came before in, x at span.there and the new past out."""

    def __call__(self, account: TrackedDenoiser, x: Tensor, span: Span, past: History) -> tuple[Tensor, History]:
        """Take the step."""
        ...


def along(x: Tensor, eps: Tensor, span: Span) -> Tensor:
    """Move x along a fixed eps; exact where eps is constant, else whatever the choice of eps makes of it.

    x' = (alpha' / alpha) x + alpha' (s' - s) eps, which is alpha' x0 + sigma' eps.

    Song, Meng, Ermon (2021), eq. 12 and 14.
    """
    return (span.there.alpha / span.here.alpha) * x + (span.there.alpha * span.h) * eps


def towards(answer: Prediction, level: Level) -> Tensor:
    """What x is at a level of its choice, by a prediction; x0 and eps need not belong to one x.

    x' = alpha' x0 + sigma' eps.

    Song, Meng, Ermon (2021), eq. 12.
    """
    return level.alpha * answer.x0 + level.sigma * answer.eps


def euler(account: TrackedDenoiser, x: Tensor, span: Span, past: History) -> tuple[Tensor, History]:
    """The DDIM step with x0 and eps taken where it stands: order 1, one evaluation; upwards the textbook inversion.

    Song, Meng, Ermon (2021); upwards Dhariwal and Nichol (2021), appendix F.
    """
    return towards(account(x, span.here), span.there), past


def multistep(account: TrackedDenoiser, x: Tensor, span: Span, past: History) -> tuple[Tensor, History]:
    """DPM-Solver++(2M): order 2, one evaluation; its first step, and any from or to s = 0, is DDIM's.

    With lambda = -log s and step h: x0~ = x0 + (x0 - x0_prev) h / (2 h_prev), then `towards` x0~ and the eps~ that
    keeps x0~ + s eps~ as it was.

    Lu, Zhou, Bao, Chen, Li, Zhu (2022).
    """
    answer = account(x, span.here)
    seen = (HistoryEntry(span.here, answer.x0),)
    if not past or not span.there.s or not past[-1].level.s:
        return towards(answer, span.there), seen
    (before,) = past
    ratio = log(span.there.s / span.here.s) / log(span.here.s / before.level.s) / 2
    change = ratio * (answer.x0 - before.value)
    return towards(Prediction(answer.x0 + change, answer.eps - change / span.here.s), span.there), seen


def heun(account: TrackedDenoiser, x: Tensor, span: Span, past: History) -> tuple[Tensor, History]:
    """Heun's step in (y, s), the mean of eps at both ends: order 2, two evaluations; down to s = 0 it is DDIM's.

    Heun (1900); for diffusion Karras et al. (2022).
    """
    here = account(x, span.here).eps
    if not span.there.s:
        return along(x, here, span), past
    there = account(along(x, here, span), span.there).eps
    return along(x, (here + there) / 2, span), past


@dataclass(frozen=True)
class AncestralStep:
    """The family between DDIM and DDPM, for sampling only: order 1, one evaluation.

    x_s = alpha_s x0 + sqrt(sigma_s^2 - beta^2) eps + beta z,
    beta = eta (sigma_s / sigma_t) sqrt(1 - alpha_t^2 / alpha_s^2).

    Args:
        eta: 0 is DDIM, 1 is DDPM.
        noise: gives z ~ N(0, I) of the shape of its argument; zeros leave DDPM's posterior mean.

    Song, Meng, Ermon (2021), eq. 12 and 16.
    """

    eta: float
    noise: Callable[[Tensor], Tensor]

    def __call__(self, account: TrackedDenoiser, x: Tensor, span: Span, past: History) -> tuple[Tensor, History]:
        """Take the step, towards the image."""
        here, there = span.here, span.there
        x0, eps = account(x, here)
        kept = (here.alpha / there.alpha) ** 2
        beta = self.eta * (there.sigma / here.sigma) * (1 - kept) ** 0.5
        rest = max(there.sigma**2 - beta**2, 0.0) ** 0.5
        return there.alpha * x0 + rest * eps + beta * self.noise(x), past


def no_noise(x: Tensor) -> Tensor:
    """The noise of a posterior-mean path: none."""
    return torch.zeros_like(x)
