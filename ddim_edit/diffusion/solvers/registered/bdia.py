"""BDIA, a two-step solver with an exact inverse on any grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_edit.diffusion.solvers.entry import SolverEntry
from ddim_edit.diffusion.solvers.two_state import TwoStepSolver

if TYPE_CHECKING:
    from ddim_edit.diffusion.schedules import Span


def bdia_weight(near: Span, far: Span) -> float:
    """Return the weight of y_{i+1} in BDIA with gamma = 1, w = alpha_{i+1} / alpha_{i-1}; stable on any grid.

    References:
        Zhang, Lewis, Kleijn, "Exact Diffusion Inversion via Bi-directional Integration Approximation", 2023,
        arXiv:2307.10829.
    """
    return far.there.alpha / near.here.alpha


ENTRY = SolverEntry(
    name="bdia",
    help="BDIA, lossless in two states on any grid",
    solver=TwoStepSolver(bdia_weight),
    position=60,
    order=2,
    evaluations=(1, 1),
    two_state=True,
)
