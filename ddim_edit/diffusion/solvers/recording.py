"""Walks that are watched: what an inversion passes through on its way."""

from collections.abc import MutableMapping
from dataclasses import dataclass, replace

from torch import Tensor

from ddim_edit.diffusion.schedules import Span
from ddim_edit.diffusion.solvers.base import SingleStateSolver, Solver
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.steps import History, Step
from ddim_edit.errors import ArgumentError


@dataclass(frozen=True)
class RecordingStep:
    """A step that keeps every state it leads to, by its time; of a single walk only."""

    step: Step
    states: MutableMapping[float, Tensor]

    def __call__(self, account: TrackedDenoiser, x: Tensor, span: Span, past: History) -> tuple[Tensor, History]:
        """Take the step."""
        x, past = self.step(account, x, span, past)
        self.states[span.there.t] = x
        return x, past


def recording(solver: Solver, states: MutableMapping[float, Tensor]) -> Solver:
    """The same solver, which writes the states of its next way up into `states`; not for two-state schemes.

    Raises:
        ArgumentError: a solver whose code is more than x.
    """
    if not isinstance(solver, SingleStateSolver):
        raise ArgumentError("a solver with one state", "one with two, or an exact one", "use dpm2m, ddim or heun")
    return replace(solver, up=RecordingStep(solver.up, states))
