"""Solvers that keep the states an inversion passes through."""

from collections.abc import MutableMapping
from dataclasses import dataclass, replace

from torch import Tensor

from ddim_edit.diffusion.schedules import Span
from ddim_edit.diffusion.solvers.registry import SOLVER_ENTRIES
from ddim_edit.diffusion.solvers.solver import SingleStateSolver, Solver
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.steps import History, Step
from ddim_edit.errors import ArgumentError


@dataclass(frozen=True)
class RecordingStep:
    """A step that keeps every state it leads to, by its time; for one integration only.

    Args:
        step: what is taken.
        states: where x [B, ...] is kept, by the time at which it stands.
    """

    step: Step
    states: MutableMapping[float, Tensor]

    def __call__(self, denoiser: TrackedDenoiser, x: Tensor, span: Span, history: History) -> tuple[Tensor, History]:
        """Take the step."""
        x, history = self.step(denoiser, x, span, history)
        self.states[span.there.t] = x
        return x, history


def record_states(solver: Solver, states: MutableMapping[float, Tensor]) -> Solver:
    """Return the same solver, which writes the states of its next inversion into `states`.

    Raises:
        ArgumentError: a solver with more than one state, or one that repeats its inversion.
    """
    if not isinstance(solver, SingleStateSolver):
        names = [name for name, entry in SOLVER_ENTRIES.items() if not entry.two_state]
        raise ArgumentError(f"States on the way exist for {', '.join(names)} alone, and not for exact inversions.")
    return replace(solver, up=RecordingStep(solver.up, states))
