"""DPM-Solver++(2M), the default solver."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from ddim_edit.diffusion.solvers.entry import SolverEntry
from ddim_edit.diffusion.solvers.solver import SingleStateSolver
from ddim_edit.diffusion.solvers.steps import HistoryEntry, ddim_step_x0

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.diffusion.schedules import Span
    from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
    from ddim_edit.diffusion.solvers.steps import History


def dpm2m_step(denoiser: TrackedDenoiser, x: Tensor, span: Span, history: History) -> tuple[Tensor, History]:
    """Take a step of DPM-Solver++(2M): order 2, one evaluation.

    With lambda = -log s, h = lambda' - lambda and the step before, h_prev, x0 is extrapolated linearly in lambda to the
    middle of the step,

        x0~ = x0 + (x0 - x0_prev) h / (2 h_prev),

    and a DDIM step is taken with x0~ and the eps~ that belongs to it at x. The first step, and any from or to s = 0
    where lambda is infinite, is DDIM's own.

    References:
        Lu, Zhou, Bao, Chen, Li, Zhu, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
        2022, arXiv:2211.01095, algorithm 2.
    """
    x0, eps = denoiser(x, span.here)
    remembered = (HistoryEntry(span.here, x0),)
    # lambda is infinite at s = 0, at the end of this step or where the step before came from.
    if not history or not span.there.s or not history[-1].level.s:
        return ddim_step_x0(x0, eps, span.there), remembered
    previous = history[-1]
    ratio = log(span.there.s / span.here.s) / log(span.here.s / previous.level.s) / 2
    change = ratio * (x0 - previous.value)
    # x0 + s eps stays as it was, because x does.
    return ddim_step_x0(x0 + change, eps - change / span.here.s, span.there), remembered


ENTRY = SolverEntry(
    name="dpm2m",
    help="DPM-Solver++(2M), a multistep solver",
    solver=SingleStateSolver(up=dpm2m_step, down=dpm2m_step),
    position=10,
    order=2,
    evaluations=(1, 1),
    uses_x0=True,
)
