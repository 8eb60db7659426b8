"""Grids: the times that solvers visit, as plain data."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ddim_edit.diffusion.schedules import FAINTEST, Floats, NoiseSchedule
from ddim_edit.errors import ArgumentError


@dataclass(frozen=True)
class Grid:
    """The increasing times that a solver visits, as data; both directions walk the same one.

    Times are in 0..T and may be fractional; t = 0 is the clean image. A grid that does not end at T is legal
    (diffusers' leading spacing does not) and its latents say at which t they stand.

    Raises:
        ArgumentError: fewer than two times, a negative one, or times that do not increase strictly.
    """

    name: str
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in pairwise(self.times))
        if len(self.times) < 2 or not increasing or not self.times[0] >= 0:
            shown = ", ".join(f"{t:g}" for t in self.times[:4])
            raise ArgumentError(
                "at least two times from 0 upwards, each larger than the one before",
                f"{len(self.times)} times ({shown}{', ...' if len(self.times) > 4 else ''})",
                "ask for more steps, or for fewer than the schedule has levels",
            )

    @property
    def steps(self) -> int:
        """Number of steps, one less than the times."""
        return len(self.times) - 1

    def until(self, t: float) -> "Grid":
        """The part of the grid up to time t, with t itself as its last time."""
        return Grid(self.name, (*(time for time in self.times if time < t), t))

    def nearest(self, t: float) -> float:
        """The time of the grid that is closest to t, the first one excepted: no step leads there."""
        return min(self.times[1:], key=lambda time: abs(time - t))

    def to_clean(self) -> "Grid":
        """The grid with the clean image, t = 0, as its first time."""
        return self if not self.times[0] else Grid(self.name, (0.0, *self.times))


GridMaker = Callable[[NoiseSchedule, int], Grid]


def _from_indices(name: str, indices: npt.NDArray[Any], first: float = 0.0) -> Grid:
    """The grid of a list of network indices (index = t - 1), starting at time `first`."""
    times = [float(index) + 1 for index in indices]
    return Grid(name, tuple([first, *times] if first < times[0] else times))


def uniform(schedule: NoiseSchedule, steps: int) -> Grid:
    """Evenly spaced times from 0 to T, fractional where T / steps is."""
    return Grid("uniform", tuple(float(t) for t in np.linspace(0, schedule.T, steps + 1)))


def quad(schedule: NoiseSchedule, steps: int) -> Grid:
    """Times T (i / steps)^2: the quadratic subsequence of Song, Meng, Ermon (2021), carried on to T."""
    return Grid("quad", tuple(schedule.T * (i / steps) ** 2 for i in range(steps + 1)))


@dataclass(frozen=True)
class Leading:
    """Diffusers' leading spacing, indices i * (T // steps) + offset; it stops short of T by almost one step.

    Args:
        offset: diffusers' steps_offset.
        clean: whether the walk ends at the clean image (set_alpha_to_one) or at the first index.
    """

    offset: int = 0
    clean: bool = True

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """The grid for that many steps."""
        indices = np.arange(steps) * (schedule.T // steps) + self.offset
        # With an offset and as many steps as levels the last index would lie beyond T.
        return _from_indices("leading", indices[indices < schedule.T], 0.0 if self.clean else 1.0)


def trailing(schedule: NoiseSchedule, steps: int) -> Grid:
    """Diffusers' trailing spacing, round(T - i T / steps) - 1; reaches T."""
    return _from_indices("trailing", np.round(np.arange(schedule.T, 0, -schedule.T / steps))[::-1] - 1)


def linspace(schedule: NoiseSchedule, steps: int) -> Grid:
    """Diffusers' linspace spacing, indices from 0 to T - 1 rounded; reaches T, its first step is one index."""
    return _from_indices("linspace", np.round(np.linspace(0, schedule.T - 1, steps)))


def logsnr(schedule: NoiseSchedule, steps: int) -> Grid:
    """Evenly spaced in log s from index 0 (t = 1) to T; never visits the clean image itself."""
    s = np.geomspace(schedule.s(1), schedule.s(schedule.T), steps + 1)
    return _spaced_in_s("logsnr", schedule, s)


@dataclass(frozen=True)
class Karras:
    """Evenly spaced in s^(1/rho) from index 0 (t = 1) to T; never visits the clean image itself.

    Args:
        rho: how strongly steps crowd at low noise; 1 is uniform in s, infinity is `logsnr`.

    Karras, Aittala, Aila, Laine (2022).
    """

    rho: float = 7.0

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """The grid for that many steps."""
        low, high = schedule.s(1) ** (1 / self.rho), schedule.s(schedule.T) ** (1 / self.rho)
        return _spaced_in_s(f"karras:{self.rho:g}", schedule, np.linspace(low, high, steps + 1) ** self.rho)


def _spaced_in_s(name: str, schedule: NoiseSchedule, s: Floats) -> Grid:
    inner = [schedule.time(value) for value in s[1:-1]]
    return Grid(name, (1.0, *inner, float(schedule.T)))


@dataclass(frozen=True)
class Flow:
    """Diffusers' spacing for straight paths: even in the share of noise tau = s / (1 + s), pushed up, from t = 0 to T.

    tau' = shift tau / (1 + (shift - 1) tau) for tau evenly spaced from the pushed 1 / T to the last one, pure noise
    on a straight path.

    Args:
        shift: how far towards noise; 1 is not at all.

    Esser et al. (2024), eq. 23.
    """

    shift: float = 1.0

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """The grid for that many steps."""
        # Pure noise on a straight path; as much less as a schedule that ends earlier has.
        last = 1 - max(0.0, 1 / (1 + schedule.s(schedule.T)) - 1 / (1 + 1 / FAINTEST))
        tau = last * self._pushed(np.linspace(self._pushed(np.array(1 / schedule.T)), 1, steps))
        inner = [schedule.time(each / (1 - each)) for each in tau[:-1]]
        return Grid(f"flow:{self.shift:g}", (0.0, *inner, float(schedule.T)))

    def _pushed(self, tau: Floats) -> Floats:
        pushed: Floats = self.shift * tau / (1 + (self.shift - 1) * tau)
        return pushed


GRIDS: Mapping[str, GridMaker] = {
    "karras": Karras(),
    "logsnr": logsnr,
    "uniform": uniform,
    "quad": quad,
    "leading": Leading(),
    "trailing": trailing,
    "linspace": linspace,
    "flow": Flow(),
}
_OPTIONED: Mapping[str, Callable[[float], GridMaker]] = {"karras": Karras, "flow": Flow}


def make_grid(name: str, schedule: NoiseSchedule, steps: int) -> Grid:
    """The grid of a name in `GRIDS`, or of "karras:RHO" or "flow:SHIFT".

    Raises:
        ArgumentError: an unknown name, a rho or shift below 1, or steps outside 1..10,000.
    """
    kind, colon, option = name.partition(":")
    if kind not in GRIDS or (colon and kind not in _OPTIONED):
        remedy = "choose one of these, karras:RHO or flow:SHIFT"
        raise ArgumentError(f"a grid out of {', '.join(GRIDS)}", name, remedy)
    if not 1 <= steps <= 10_000:
        raise ArgumentError("a number of steps from 1 to 10000", str(steps), "20 is a good start")
    maker = _OPTIONED[kind](_number(kind, option)) if colon else GRIDS[kind]
    return maker(schedule, steps)


def _number(kind: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 1 <= number < math.inf:
        usual = {"karras": "karras:7", "flow": "flow:3"}[kind]
        raise ArgumentError(f"{kind}:NUMBER with a number of at least 1", f"{kind}:{text}", f"{usual} is usual")
    return number
