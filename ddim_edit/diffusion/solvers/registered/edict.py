"""EDICT, two coupled states that take turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_edit.diffusion.solvers.entry import SolverEntry
from ddim_edit.diffusion.solvers.solver import SolverInversion, reverse_spans
from ddim_edit.diffusion.solvers.steps import ddim_step_eps
from ddim_edit.diffusion.solvers.two_state import with_delta

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.diffusion.solvers.solver import Spans, State
    from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser


@dataclass(frozen=True)
class EdictSolver:
    """EDICT: two coupled states that take turns; exact up to rounding, two evaluations per step.

    Decoding takes DDIM steps with the eps of the other state and then mixes the two,

        u = ddim(x, eps(x')),  v = ddim(x', eps(u)),  x <- p u + (1 - p) v,  x' <- p v + (1 - p) x,

    and inverting undoes each. The state is (x, delta) with delta = x' - x. Rounding errors and edits grow by p^-2 per
    step, and it samples poorly: it is here for comparison with papers.

    Args:
        mixing: p in (0.5, 1).

    References:
        Wallace, Gokul, Naik, "EDICT: Exact Diffusion Inversion via Coupled Transformations", CVPR 2023,
        arXiv:2211.12446.
    """

    mixing: float = 0.93

    def invert(self, denoiser: TrackedDenoiser, x: Tensor, spans: Spans) -> SolverInversion:
        """Integrate both states towards noise, starting from the image."""
        p = self.mixing
        twin = x
        for span in spans:
            # Division by p undoes the mixing, and multiplies rounding errors by 1 / p twice per step.
            v = (twin - (1 - p) * x) / p
            u = (x - (1 - p) * v) / p
            twin = ddim_step_eps(v, denoiser(u, span.there).eps, span)
            x = ddim_step_eps(u, denoiser(twin, span.there).eps, span)
        return SolverInversion((x, twin - x))

    def decode(self, denoiser: TrackedDenoiser, state: State, spans: Spans) -> Tensor:
        """Integrate both states towards the image and return the first."""
        p = self.mixing
        x, delta = with_delta(state)
        twin = x + delta
        for span in reverse_spans(spans):
            u = ddim_step_eps(x, denoiser(twin, span.here).eps, span)
            v = ddim_step_eps(twin, denoiser(u, span.here).eps, span)
            x = p * u + (1 - p) * v
            twin = p * v + (1 - p) * x
        return x


ENTRY = SolverEntry(
    name="edict",
    help="EDICT, two coupled states; for comparison",
    solver=EdictSolver(),
    position=70,
    order=None,
    evaluations=(2, 2),
    two_state=True,
)
