"""Heun's method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_edit.diffusion.solvers.entry import SolverEntry
from ddim_edit.diffusion.solvers.solver import SingleStateSolver
from ddim_edit.diffusion.solvers.steps import ddim_step_eps

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.diffusion.schedules import Span
    from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
    from ddim_edit.diffusion.solvers.steps import History


def heun_step(denoiser: TrackedDenoiser, x: Tensor, span: Span, history: History) -> tuple[Tensor, History]:
    """Take a step of Heun's method in (y, s), with the mean of eps at both ends: order 2, two evaluations.

    A step down to s = 0 is DDIM's, since networks have no eps there.

    References:
        Heun, "Neue Methoden zur approximativen Integration der Differentialgleichungen einer unabhängigen
        Veränderlichen", Zeitschrift für Mathematik und Physik 45, 1900.
        Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
        arXiv:2206.00364, algorithm 1.
    """
    eps_here = denoiser(x, span.here).eps
    if not span.there.s:
        return ddim_step_eps(x, eps_here, span), history
    eps_there = denoiser(ddim_step_eps(x, eps_here, span), span.there).eps
    return ddim_step_eps(x, (eps_here + eps_there) / 2, span), history


ENTRY = SolverEntry(
    name="heun",
    help="Heun's method, as in EDM",
    solver=SingleStateSolver(up=heun_step, down=heun_step),
    position=30,
    order=2,
    evaluations=(2, 2),
)
