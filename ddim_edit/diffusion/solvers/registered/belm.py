"""O-BELM, a two-step solver of order 2 with an exact inverse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_edit.diffusion.solvers.entry import SolverEntry
from ddim_edit.diffusion.solvers.two_state import TwoStepSolver

if TYPE_CHECKING:
    from ddim_edit.diffusion.schedules import Span


def belm_weight(near: Span, far: Span) -> float:
    """Return the weight of y_{i+1} in O-BELM, w = (h_i / h_{i+1})^2, for the spans next to and after the image.

    It makes the scheme one of order 2, but its states grow where neighbouring steps differ much in size.

    References:
        Wang et al., "BELM: Bidirectional Explicit Linear Multi-step Sampler for Exact Inversion in Diffusion Models",
        NeurIPS 2024, arXiv:2410.07273.
    """
    return (near.h / far.h) ** 2


ENTRY = SolverEntry(
    name="belm",
    help="O-BELM, lossless in two states; for grids of slowly varying steps",
    solver=TwoStepSolver(belm_weight),
    position=50,
    order=2,
    evaluations=(1, 1),
    two_state=True,
)
