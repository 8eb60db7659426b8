"""Levels and spaces: where along an inversion, and where in the network, the latents of images are read.

Importing this module does not import torch, so that the command line can check levels early.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.diffusion.grids import Grid

H_FROM = 0.35
"""The part of T below which "h" leaves the bottleneck alone: there the network only paints detail."""

GUIDED = "guided:"
"""What a level begins with whose directions move x along the gradient of the bottleneck."""


class ParsedLevel(NamedTuple):
    """Where latents are read or edited.

    Attributes:
        t: the time in (0, T]; None for all bottlenecks from 0.35 T on.
        bottleneck: whether the bottleneck of the network is meant (h-space), not the state x.
        guided: whether the state x is moved along gradients of the bottleneck, and not the bottleneck shifted.
    """

    t: float | None
    bottleneck: bool
    guided: bool = False

    def stop(self, T: int) -> float:
        """Return the time up to which an image is inverted: a shift of the bottleneck decodes from x_T."""
        shifted = self.bottleneck and not self.guided
        return T if shifted or self.t is None else self.t


def parse_level(level: str | float, T: int) -> ParsedLevel:
    """Return what a level means, in the one syntax that is accepted everywhere.

    Args:
        level: a time in (0, T] as a number or text (400, "400"), a part of T ("0.4T"), "xT" for the noise end, "h" for
            the bottlenecks from 0.35 T on, "h:LEVEL" for the bottleneck at one time ("h:0.2T"), or "guided:LEVEL" for
            the same bottleneck as a function of x there, along whose gradient x is moved ("guided:0.2T").
        T: number of trained times of the noise schedule.

    Raises:
        ArgumentError: a text of another form, or a time outside (0, T].

    Examples:
        >>> parse_level("0.4T", 1000)
        ParsedLevel(t=400.0, bottleneck=False, guided=False)
        >>> parse_level("h:200", 1000)
        ParsedLevel(t=200.0, bottleneck=True, guided=False)
    """
    if level == "h":
        return ParsedLevel(None, True)
    text = str(level)
    guided = text.startswith(GUIDED)
    time = text.removeprefix("h:").removeprefix(GUIDED)
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)( ?T)?", time)
    if time == "xT":
        t = float(T)
    elif isinstance(level, int | float):
        t = float(level)
    elif found:
        t = float(found[1]) * (T if found[2] else 1)
    else:
        t = 0.0
    if not 0 < t <= T:
        raise ArgumentError(
            f"{text!r:.40} is not a level. Give a time above 0 and up to {T}, a part of T such as 0.4T, xT,"
            " h, h:0.2T or guided:0.2T."
        )
    return ParsedLevel(t, guided or text.startswith("h:"), guided)


class Trajectory(NamedTuple):
    """What an inversion passes through: states x [B, ...] and bottlenecks h [B, C, h, w], each by its time."""

    states: MutableMapping[float, Tensor]
    bottlenecks: MutableMapping[float, Tensor]


class Space(Protocol):
    """A place to read latents at, once the grid of the inversion is known."""

    @property
    def name(self) -> str:
        """The name in tables and cache keys."""
        ...

    @property
    def times(self) -> tuple[float, ...]:
        """The times of the bottlenecks that it reads; empty where it reads x."""
        ...

    @property
    def last(self) -> float:
        """The time up to which one must invert to read it."""
        ...

    @property
    def edited_at(self) -> float | None:
        """The time of the latents that its directions move; None for the end of the grid."""
        ...

    def read(self, trajectory: Trajectory) -> Tensor:
        """Return its latents [B, ...]."""
        ...


@dataclass(frozen=True)
class StateSpace:
    """The state x at one time of the grid: x_T where t = T, a partly noised image before.

    Args:
        t: the time.
    """

    t: float

    @property
    def name(self) -> str:
        """The kind of space and its time, in full."""
        return f"x t={self.t!r}"

    @property
    def times(self) -> tuple[float, ...]:
        """Empty: no bottleneck is read."""
        return ()

    @property
    def last(self) -> float:
        """The time up to which one must invert to read it."""
        return self.t

    @property
    def edited_at(self) -> float | None:
        """The same time."""
        return self.t

    def read(self, trajectory: Trajectory) -> Tensor:
        """Return the states [B, C, H, W]."""
        return trajectory.states[self.t]


@dataclass(frozen=True)
class BottleneckSpace:
    """The bottlenecks h of the network at several times of the grid, stacked (h-space).

    Args:
        times: of the bottlenecks.
        last: the time up to which one must invert to read them.
        edited_at: the time of the latents that its directions move: their own, where x is moved along gradients of the
            bottleneck; None for the end of the grid, where the bottleneck is shifted all the way down.

    References:
        Kwon, Jeong, Uh, "Diffusion Models Already Have a Semantic Latent Space", ICLR 2023, arXiv:2210.10960.
    """

    times: tuple[float, ...]
    last: float
    edited_at: float | None = None

    @property
    def name(self) -> str:
        """The kind of space and its times, in full."""
        return f"h t={','.join(map(repr, self.times))}"

    def read(self, trajectory: Trajectory) -> Tensor:
        """Return the bottlenecks [B, K, C, h, w] at K times.

        Raises:
            ArgumentError: the trajectory of a solver that evaluates the network between the times of its grid.
        """
        import torch

        if any(t not in trajectory.bottlenecks for t in self.times):
            raise ArgumentError(
                "This solver evaluates the network between the times of its grid, where no bottleneck can be read."
                " Use dpm2m, ddim or heun."
            )
        return torch.stack([trajectory.bottlenecks[t] for t in self.times], 1)


def find_space(level: str | float, grid: Grid, T: int) -> Space:
    """Return the space that a level names on a grid; times are moved to the nearest one of the grid.

    Args:
        level: as for `parse_level`. "xT" is the end of the grid, wherever that is.
        grid: the grid of the inversion.
        T: number of trained times of the noise schedule.

    Raises:
        ArgumentError: no level, one below the start of the grid, or a bottleneck on a grid without times inside.
    """
    parsed = parse_level(level, T)
    # No step of an inversion starts at the last time, and at the first one the image is clean or nearly so, except on
    # grids that start higher.
    inner = grid.times[:-1] if grid.times[0] > 1 else grid.times[1:-1]
    if not parsed.bottleneck:
        return StateSpace(grid.times[-1] if level == "xT" or parsed.t is None else grid.nearest(parsed.t))
    if parsed.t is None:
        times = tuple(t for t in inner if t >= H_FROM * T)
    else:
        wanted = parsed.t
        grid.require_reached(wanted)
        # Latents that are moved stand at the end of a step, so not at the first time.
        among = grid.times[1:-1] if parsed.guided else inner
        times = tuple(sorted(among, key=lambda t: abs(t - wanted))[:1])
    if not times:
        raise ArgumentError(
            f"A grid of {grid.steps} steps up to t = {grid.times[-1]:g} has no times inside to read bottlenecks at."
            " Take more steps, or read the state x."
        )
    # The network is evaluated at a time on the way to the next one, so that is how far one must invert.
    last = min(t for t in grid.times if t > times[-1])
    return BottleneckSpace(times, last, edited_at=times[0] if parsed.guided else None)
