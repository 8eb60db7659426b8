"""The DDIM step and what steps of solvers have in common.

With y = x / alpha and the noise-to-signal ratio s = sigma / alpha, every deterministic sampler (eta = 0) integrates one
ordinary differential equation,

    dy / ds = eps(x, t),    x = alpha y,

the probability-flow ODE of Song et al. in the variables of DDIM. Where eps is constant over a step from s to s' its
solution is y' = y + (s' - s) eps, which is the DDIM step; upwards (s' > s) the same formula inverts. Solvers differ in
the eps that they take for the step: the one at its start (Euler), a mean (Heun), one extrapolated from earlier steps
(DPM-Solver++), or one at a point that the step itself leads to (implicit steps).

References:
    Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502, section 4.3.
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, "Score-Based Generative Modeling through Stochastic Differential
    Equations", ICLR 2021, arXiv:2011.13456.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ddim_edit.diffusion.schedules import Level, Span
    from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser


class HistoryEntry(NamedTuple):
    """What a step found at its level.

    Attributes:
        level: where it was.
        value: x0 or eps [B, ...] predicted there, whichever of them a solver extrapolates.
        state: x [B, ...] there, for solvers whose next step does not go on from what the step returned.
    """

    level: Level
    value: Tensor
    state: Tensor | None = None


History: TypeAlias = "tuple[HistoryEntry, ...]"
"""What a multistep solver remembers of earlier steps, the latest last; empty at the first step."""


class Step(Protocol):
    """One step of a solver, in either direction."""

    def __call__(self, denoiser: TrackedDenoiser, x: Tensor, span: Span, history: History) -> tuple[Tensor, History]:
        """Return x [B, ...] at the end of the span, and the history for the next step.

        Args:
            denoiser: evaluated at x and levels of the span.
            x: state [B, ...] at the start of the span.
            span: the step; positive `span.h` is towards noise.
            history: what the step before returned, or ().
        """
        ...


def ddim_step_eps(x: Tensor, eps: Tensor, span: Span) -> Tensor:
    """Return x at the end of a span along which eps is constant.

        x' = (alpha' / alpha) x + alpha' (s' - s) eps

    Args:
        x: state [B, ...] at the start of the span.
        eps: [B, ...], not necessarily the prediction at x.
        span: the step, in either direction.

    References:
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502, eq. 12 and 14.
    """
    return (span.there.alpha / span.here.alpha) * x + (span.there.alpha * span.h) * eps


def ddim_step_x0(x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """Return x at a level from x0 and eps.

        x' = alpha' x0 + sigma' eps

    This equals `ddim_step_eps` where x0 and eps are a prediction at x, which a solver or an edit may have altered.

    References:
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502, eq. 12.
    """
    return level.alpha * x0 + level.sigma * eps


def euler_step(denoiser: TrackedDenoiser, x: Tensor, span: Span, history: History) -> tuple[Tensor, History]:
    """Take the explicit DDIM step, with x0 and eps at the start of the span: order 1, one evaluation.

    Downwards it is DDIM sampling, upwards the textbook DDIM inversion, which does not undo it: eps is taken at the
    wrong end.

    References:
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502.
        Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, arXiv:2105.05233,
        appendix F, for the way up.
    """
    x0, eps = denoiser(x, span.here)
    return ddim_step_x0(x0, eps, span.there), history


def extrapolation_weights(levels: Sequence[Level], level: Level) -> list[float]:
    """Return the weights of values at some levels in that of the polynomial in log s through them at another level."""
    nodes = [math.log(each.s) for each in levels] if len(levels) > 1 else [0.0]
    weights = []
    for node in nodes:
        others = [other for other in nodes if other != node]
        weights.append(math.prod((math.log(level.s) - other) / (node - other) for other in others))
    return weights


def extrapolate(history: History, level: Level) -> Tensor:
    """Return a quantity at a level, by the polynomial in log s through its earlier values (Lagrange's form)."""
    weights = extrapolation_weights([entry.level for entry in history], level)
    terms = [weight * entry.value for weight, entry in zip(weights, history, strict=True)]
    return sum(terms[1:], terms[0])
