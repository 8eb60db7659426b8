"""What the registry knows of a solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddim_edit.diffusion.solvers.solver import Solver


@dataclass(frozen=True)
class SolverEntry:
    """A registered solver.

    Args:
        name: for `solver=` and `--solver`; latents record it.
        help: one line for the command line and the documentation.
        solver: what integrates.
        position: place among the solvers in lists.
        order: order of convergence: the error of N steps falls as N^-order. None for solvers whose rounding errors grow
            with N.
        evaluations: network evaluations per step, inverting and decoding; None where a tolerance decides.
        two_state: whether a latent is x_T and a second state, without which it decodes to another image.
        for_exact: the variant that exact inversion repeats, where it is another one.
        uses_x0: whether steps of decoding use the predicted x0 and eps as they are. Asymmetric edits of the bottleneck
            change x0 alone, so solvers that derive x0 from eps would miss them.
    """

    name: str
    help: str
    solver: Solver
    position: int
    order: int | None
    evaluations: tuple[int, int] | None
    two_state: bool = False
    for_exact: Solver | None = None
    uses_x0: bool = False
