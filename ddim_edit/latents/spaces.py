"""Spaces: where along an inversion, and where in the network, the code of a picture is read."""

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.grids import Grid
from ddim_edit.errors import ArgumentError

H_FROM = 0.35
"""The part of T below which "h" leaves the bottleneck alone: there the network only paints detail."""


class Trace(NamedTuple):
    """What an inversion passes through: x [B, ...] and bottlenecks h [B, C, h, w], each by its time."""

    states: MutableMapping[float, Tensor]
    bottlenecks: MutableMapping[float, Tensor]


class Space(Protocol):
    """A place to read codes at, once the grid of the inversion is known."""

    @property
    def name(self) -> str:
        """What to call it in tables and files."""
        ...

    @property
    def times(self) -> tuple[float, ...]:
        """The times of the bottlenecks that it reads; none where it reads x."""
        ...

    @property
    def last(self) -> float:
        """The time up to which one must invert to read it."""
        ...

    def read(self, trace: Trace) -> Tensor:
        """Its codes [B, ...]."""
        ...


@dataclass(frozen=True)
class StateSpace:
    """The state x at one time of the grid: x_T where t = T, a half-noised picture before."""

    t: float

    @property
    def name(self) -> str:
        """The time, in full."""
        return f"x t={self.t!r}"

    @property
    def times(self) -> tuple[float, ...]:
        """None."""
        return ()

    @property
    def last(self) -> float:
        """Its time."""
        return self.t

    def read(self, trace: Trace) -> Tensor:
        """Codes [B, C, H, W]."""
        return trace.states[self.t]


@dataclass(frozen=True)
class BottleneckSpace:
    """The bottlenecks h of the network at several times of the grid, one below the other; not for every network.

    Kwon, Jeong, Uh (2023).
    """

    times: tuple[float, ...]
    last: float

    @property
    def name(self) -> str:
        """The times, in full."""
        return f"h t={','.join(map(repr, self.times))}"

    def read(self, trace: Trace) -> Tensor:
        """Codes [B, K, C, h, w] at K times.

        Raises:
            ArgumentError: the trace of a solver that asks the network between the times of its grid.
        """
        if any(t not in trace.bottlenecks for t in self.times):
            wanted = "a solver that asks the network at the times of its grid"
            raise ArgumentError(wanted, "one that asks in between", "use dpm2m, ddim or heun")
        return torch.stack([trace.bottlenecks[t] for t in self.times], 1)


def find_space(level: str | float, grid: Grid, T: int) -> Space:
    """The space that a level names, on a grid; times are moved to the nearest one of the grid.

    A level is a time in (0, T] as a number or text ("400"), a part of T ("0.4T"), "xT" for the end of the grid, "h" for
    the bottlenecks from 0.35 T on, or "h:LEVEL" for the bottleneck at one time.

    Raises:
        ArgumentError: a text of another form, or a time outside (0, T].
    """
    text, inner = str(level), grid.times[1:-1]
    if text == "h":
        return _bottlenecks(grid, *(t for t in inner if t >= H_FROM * T))
    kind, colon, time = text.rpartition(":")
    if colon and kind == "h":
        asked = parse_time(time, T)
        return _bottlenecks(grid, *sorted(inner, key=lambda t: abs(t - asked))[:1])
    t = grid.times[-1] if text == "xT" else grid.nearest(parse_time(text, T))
    return StateSpace(t)


def _bottlenecks(grid: Grid, *times: float) -> BottleneckSpace:
    if not times:
        wanted = "a grid that has times inside to read bottlenecks at"
        raise ArgumentError(
            wanted, f"one of {grid.steps} steps up to {grid.times[-1]:g}", "take more steps, or a state"
        )
    # The network is asked at a time on the way to the next one, so that is how far one must go.
    return BottleneckSpace(times, min(t for t in grid.times if t > times[-1]))


def parse_time(text: str, T: int) -> float:
    """The time in (0, T] of a text such as "400", "0.4T" or "xT".

    Raises:
        ArgumentError: another text, or a time outside.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)( ?T)?", text)
    t = T if text == "xT" else float(found[1]) * (T if found[2] else 1) if found else 0
    if not 0 < t <= T:
        wanted = f"a level above 0 and up to {T}, a part of T such as 0.4T, xT, h or h:LEVEL"
        raise ArgumentError(wanted, text or "nothing", "0.4T is a good start")
    return float(t)
