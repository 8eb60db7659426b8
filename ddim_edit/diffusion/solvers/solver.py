"""Solvers: a way to integrate from the image to noise, and the way back that belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.diffusion.schedules import Span
    from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
    from ddim_edit.diffusion.solvers.steps import History, Step

Spans: TypeAlias = "Sequence[Span]"
"""The steps of a grid, from the image towards noise."""

State: TypeAlias = "tuple[Tensor, ...]"
"""What a solver integrates: x [B, ...] and, in two-state solvers, a second tensor delta of the same shape."""


class SelfCheck(NamedTuple):
    """What decoding a state that was just found gave.

    Attributes:
        decoded: x [B, ...] at the first level.
        nfe: evaluations for it [B].
        rounds: inversions made before it [B].
    """

    decoded: Tensor
    nfe: Tensor
    rounds: Tensor


class SolverInversion(NamedTuple):
    """The state at the last level, and what it decodes to where the solver has tried."""

    state: State
    check: SelfCheck | None = None


class Solver(Protocol):
    """Integrates in both directions over the same spans, which are given from the image towards noise."""

    def invert(self, denoiser: TrackedDenoiser, x: Tensor, spans: Spans) -> SolverInversion:
        """Integrate x [B, ...] from the first level to the last."""
        ...

    def decode(self, denoiser: TrackedDenoiser, state: State, spans: Spans) -> Tensor:
        """Integrate from the last level to the first, and return x [B, ...] there."""
        ...


def integrate(denoiser: TrackedDenoiser, step: Step, x: Tensor, spans: Spans) -> Tensor:
    """Return x [B, ...] at the end of the last span: the loop over time of all single-state solvers.

    Args:
        denoiser: evaluated by the steps.
        step: taken once per span.
        x: state [B, ...] at the start of the first span.
        spans: in the direction of integration.
    """
    history: History = ()
    for span in spans:
        x, history = step(denoiser, x, span, history)
    return x


def reverse_spans(spans: Spans) -> Spans:
    """Return the same spans from noise towards the image."""
    return [span.flipped() for span in reversed(spans)]


@dataclass(frozen=True)
class SingleStateSolver:
    """A solver whose state is x alone.

    Args:
        up: the step towards noise.
        down: the step towards the image.
    """

    up: Step
    down: Step

    def invert(self, denoiser: TrackedDenoiser, x: Tensor, spans: Spans) -> SolverInversion:
        """Integrate towards noise."""
        return SolverInversion((integrate(denoiser, self.up, x, spans),))

    def decode(self, denoiser: TrackedDenoiser, state: State, spans: Spans) -> Tensor:
        """Integrate towards the image."""
        return integrate(denoiser, self.down, state[0], reverse_spans(spans))


@dataclass(frozen=True)
class SamplingOnlySolver:
    """A solver that cannot invert, because its steps draw noise or lose some.

    Args:
        down: the step towards the image.
    """

    down: Step

    def invert(self, denoiser: TrackedDenoiser, x: Tensor, spans: Spans) -> SolverInversion:
        """Refuse.

        Raises:
            ArgumentError: always.
        """
        raise ArgumentError("This solver can only sample: its steps draw noise or lose some. Invert with eta = 0.")

    def decode(self, denoiser: TrackedDenoiser, state: State, spans: Spans) -> Tensor:
        """Integrate towards the image."""
        return integrate(denoiser, self.down, state[0], reverse_spans(spans))
