"""Two-step schemes: algebraically exact inverses whose state is x and a small delta."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ddim_edit.diffusion.solvers.solver import SolverInversion
from ddim_edit.diffusion.solvers.steps import euler_step
from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.diffusion.schedules import Level, Span
    from ddim_edit.diffusion.solvers.solver import Spans, State
    from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser

LATTICE = 2.0**44
"""Points per unit of the lattice that states live on: sums of its points below 512 are exact in float64."""


def round_to_lattice(x: Tensor) -> Tensor:
    """Return the nearest point of the lattice."""
    return (x * LATTICE).round() / LATTICE


class _InnerNode(NamedTuple):
    """An inner time of a two-step scheme, z_{i-1} - z_{i+1} = g(z_i), with z = c y.

    Attributes:
        level: the level i.
        c: c_i.
        c_before: c_{i-1}.
        weight: w.
        step: h_i + w h_{i+1}.
    """

    level: Level
    c: float
    c_before: float
    weight: float
    step: float

    def g(self, denoiser: TrackedDenoiser, z: Tensor) -> Tensor:
        y = z / self.c
        eps = denoiser(self.level.alpha * y, self.level).eps
        return round_to_lattice(self.c_before * ((1 - self.weight) * y - self.step * eps))


@dataclass(frozen=True)
class TwoStepSolver:
    """A two-step scheme that is solved for either end in closed form; returns bit by bit, one evaluation per step.

        y_{i-1} = w y_{i+1} + (1 - w) y_i - (h_i + w h_{i+1}) eps(y_i),  y = x / alpha,  h_i = s_i - s_{i-1}

    The first step up is Euler's. In z_i = c_i y_i with c_{i+1} = w c_{i-1} the scheme is z_{i-1} = z_{i+1} + g(z_i).
    With z and g rounded to a lattice this sum is exact in floating point, so decoding meets the same floats as
    inverting did, for any network.

    The state is (x_S, delta), delta = x_{S-1} - (sigma_{S-1} / sigma_S) x_S: what the last step adds to shrinking the
    noise. x_S may therefore be edited, or drawn afresh with delta = 0.

    Args:
        weight: returns w for two neighbouring spans, the one nearer to the image first.
    """

    weight: Callable[[Span, Span], float]

    def invert(self, denoiser: TrackedDenoiser, x: Tensor, spans: Spans) -> SolverInversion:
        """Integrate towards noise, with as many evaluations as spans."""
        nodes, scale, scale_next = self._plan(spans)
        z = round_to_lattice(x)
        z_next = round_to_lattice(euler_step(denoiser, x, spans[0], ())[0])
        for node in nodes:
            z, z_next = z_next, z - node.g(denoiser, z_next)
        # Kept as delta, the second state is small, so that x alone can be edited or drawn.
        x = z_next / scale_next
        return SolverInversion((x, z / scale - shrink_noise(x, spans[-1])))

    def decode(self, denoiser: TrackedDenoiser, state: State, spans: Spans) -> Tensor:
        """Integrate towards the image, with one evaluation less than spans, as delta stands in for the first."""
        nodes, scale, scale_next = self._plan(spans)
        x, delta = with_delta(state)
        z = round_to_lattice(scale * (shrink_noise(x, spans[-1]) + delta))
        z_next = round_to_lattice(scale_next * x)
        for node in reversed(nodes):
            z, z_next = z_next + node.g(denoiser, z), z
        return z

    def _plan(self, spans: Spans) -> tuple[list[_InnerNode], float, float]:
        """Return the inner times, and z / x at the last two levels.

        Raises:
            ArgumentError: a single span.
        """
        if len(spans) < 2:
            raise ArgumentError(f"A two-state solver needs at least 2 steps, not {len(spans)}.")
        nodes = []
        c_before = spans[0].here.alpha
        c = spans[0].there.alpha
        for near, far in pairwise(spans):
            w = self.weight(near, far)
            nodes.append(_InnerNode(near.there, c, c_before, w, near.h + w * far.h))
            # With this c the factor of z_{i+1} is exactly 1: adding and subtracting g then undo each other.
            c_before, c = c, w * c_before
        return nodes, c_before / spans[-1].here.alpha, c / spans[-1].there.alpha


def shrink_noise(x: Tensor, span: Span) -> Tensor:
    """Return x at the end of a span, taken for pure noise, at the start of the span: (sigma / sigma') x."""
    return (span.here.sigma / span.there.sigma) * x


def with_delta(state: State) -> State:
    """Return the state of a two-state solver; a bare x means delta = 0."""
    return state if len(state) > 1 else (*state, state[0].new_zeros(state[0].shape))
