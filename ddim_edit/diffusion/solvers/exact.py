"""Solvers that wrap another one: they decode what it inverted, as a check or to repeat it until it is exact."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddim_edit.diffusion.solvers.anderson import AndersonAccelerator, fixed_point
from ddim_edit.diffusion.solvers.solver import SelfCheck, Solver, SolverInversion, Spans, State
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser, select_rows


@dataclass(frozen=True)
class CheckedSolver:
    """A solver that decodes every state it finds once, to measure the error of the round trip.

    Args:
        solver: any solver that inverts.
    """

    solver: Solver

    def invert(self, denoiser: TrackedDenoiser, x: Tensor, spans: Spans) -> SolverInversion:
        """Invert, then decode."""
        state = self.solver.invert(denoiser, x, spans).state
        decoded, nfe = _decode_and_count(self.solver, denoiser, state, spans)
        return SolverInversion(state, SelfCheck(decoded, nfe, torch.ones_like(nfe)))

    def decode(self, denoiser: TrackedDenoiser, state: State, spans: Spans) -> Tensor:
        """Decode as the solver does."""
        return self.solver.decode(denoiser, state, spans)


@dataclass(frozen=True)
class ExactSolver:
    """A solver that repeats another one's inversion until its decode returns the image to a tolerance.

    With G = invert and F = decode of the inner solver it solves F(G(y)) = x by defect correction,

        y <- y + (x - F(G(y))),  from y = x,

    under Anderson acceleration; G(y) is then a latent that decodes to x, whatever the errors of G. A round costs one
    inversion and one decode. Images that have converged cost no more; one that stalls keeps its best latent and is
    reported as not converged. The last decode is a check of the result, not an estimate.

    Args:
        solver: any solver that inverts; latents decode with it alone.
        tol: largest |x - F(G(y))| accepted, of images in [-1, 1].
        limit: largest number of rounds.

    References:
        Stetter, "The Defect Correction Principle and Discretization Methods", Numerische Mathematik 29, 1978.
        Anderson, "Iterative Procedures for Nonlinear Integral Equations", Journal of the ACM 12, 1965.
    """

    solver: Solver
    tol: float
    limit: int = 12

    def invert(self, denoiser: TrackedDenoiser, x: Tensor, spans: Spans) -> SolverInversion:
        """Find the state that decodes to x."""

        def correct(y: Tensor, rows: Tensor) -> tuple[Tensor, State]:
            tracked = denoiser.for_rows(rows)
            state = self.solver.invert(tracked, y, spans).state
            decoded, nfe = _decode_and_count(self.solver, tracked, state, spans)
            return y + (select_rows(x, rows) - decoded), (decoded, nfe, *state)

        # The state at the first level is alpha times the image, and so is its error.
        tol = self.tol * spans[0].here.alpha
        found = fixed_point(correct, x, tol, AndersonAccelerator(), self.limit)
        # The decode decides, not whether the inner solver solved its own equations.
        denoiser.set_converged(found.residual <= tol)
        decoded, nfe, *state = found.outputs
        return SolverInversion(tuple(state), SelfCheck(decoded, nfe, found.evaluations))

    def decode(self, denoiser: TrackedDenoiser, state: State, spans: Spans) -> Tensor:
        """Decode as the solver does."""
        return self.solver.decode(denoiser, state, spans)


def _decode_and_count(solver: Solver, denoiser: TrackedDenoiser, state: State, spans: Spans) -> tuple[Tensor, Tensor]:
    """Return what a state decodes to, and the evaluations [b] that this took."""
    before = denoiser.evaluations
    decoded = solver.decode(denoiser, state, spans)
    return decoded, denoiser.evaluations - before
