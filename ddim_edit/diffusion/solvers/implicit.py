"""Implicit steps, solved by fixed-point iteration with a warm start.

A step along eps is undone exactly by a step back along the *same* eps. Decoding takes eps(x'), at the noisy end x' of a
DDIM step, so the step that inverts it must take eps at the point which it is about to reach,

    x' = ddim(x, eps(x')),

an equation for x'. Textbook DDIM inversion takes eps(x) instead, which is wrong by the change of eps over the step.
Fixed-point iteration z <- ddim(x, eps(z)) solves it; here it starts from an eps that is extrapolated from the last
steps, so that its first iterate is already a good inverse and one evaluation per step suffices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_edit.diffusion.solvers.steps import HistoryEntry, ddim_step_eps, extrapolate

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.diffusion.schedules import Span
    from ddim_edit.diffusion.solvers.solver import State
    from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
    from ddim_edit.diffusion.solvers.steps import History


def end_of_step(span: Span) -> Span:
    """Return the whole span: eps is taken at its far end."""
    return span


def middle_of_step(span: Span) -> Span:
    """Return the part of a span up to its middle in s: eps is taken there."""
    return span.to_middle()


@dataclass(frozen=True)
class ImplicitStep:
    """A step along the eps of a point z that is itself reached along this eps; solved to a tolerance.

        z = ddim(x, eps(z)) at the node of the step,  x' = ddim(x, eps(z)) at its end

    With the node at the far end (`end_of_step`) it is the inverse of the decoder's DDIM step, order 1; half-way
    (`middle_of_step`) it is the implicit midpoint rule, order 2 and its own inverse. z starts from eps extrapolated in
    log s through the last three nodes.

    Args:
        node: returns the part of a span that leads to z.
        tol: largest |z - ddim(x, eps(z))| accepted, in units of x; infinite takes the first iterate, which makes the
            step a predictor-corrector of one evaluation.
        limit: largest number of evaluations per step.

    References:
        Pan, Gherardi, Xie, Huang, "Effective Real Image Editing with Accelerated Iterative Diffusion Inversion",
        ICCV 2023, arXiv:2309.04907.
        Garibi et al., "ReNoise: Real Image Inversion Through Iterative Noising", ECCV 2024, arXiv:2403.14602.
        Anderson, "Iterative Procedures for Nonlinear Integral Equations", Journal of the ACM 12, 1965.
    """

    node: Callable[[Span], Span]
    tol: float = math.inf
    limit: int = 40

    def __call__(self, denoiser: TrackedDenoiser, x: Tensor, span: Span, history: History) -> tuple[Tensor, History]:
        """Take the step."""
        from ddim_edit.diffusion.solvers.anderson import max_norm

        part = self.node(span)
        if not history:
            # At s = 0 networks have no level of their own, so eps is taken at the node instead.
            start = part.here if part.here.s else part.there
            history = (HistoryEntry(part.here, denoiser(x, start).eps),)
        guess = ddim_step_eps(x, extrapolate(history, part.there), part)
        if math.isinf(self.tol):
            eps = denoiser(guess, part.there).eps
            denoiser.record_residual(max_norm(ddim_step_eps(x, eps, part) - guess))
        else:
            eps = self._solve(denoiser, x, part, guess)
        # log s, in which the next step extrapolates, is infinite at the clean image.
        usable = [entry for entry in history if entry.level.s]
        return ddim_step_eps(x, eps, span), (*usable, HistoryEntry(part.there, eps))[-3:]

    def _solve(self, denoiser: TrackedDenoiser, x: Tensor, part: Span, guess: Tensor) -> Tensor:
        """Return eps at the z that solves z = ddim(x, eps(z)), from a guess of z."""
        from ddim_edit.diffusion.solvers.anderson import AndersonAccelerator, fixed_point
        from ddim_edit.diffusion.solvers.statistics import select_rows

        def iterate(z: Tensor, rows: Tensor) -> tuple[Tensor, State]:
            eps = denoiser.for_rows(rows)(z, part.there).eps
            return ddim_step_eps(select_rows(x, rows), eps, part), (eps,)

        # For log-concave data d eps / dy lies between 0 and 1/s', so the derivative of this map lies between 0 and
        # 1 - s/s'. Relaxing to the middle of that interval speeds the iteration up at no cost.
        mixing = 2 * part.there.s / (part.there.s + part.here.s)
        found = fixed_point(iterate, guess, self.tol, AndersonAccelerator(mixing), self.limit)
        denoiser.record_residual(found.residual, found.residual <= self.tol)
        return found.outputs[0]
