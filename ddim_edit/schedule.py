"""Noise schedules and the grids of times that solvers walk along, as plain data.

The DDIM paper's alpha *is* alpha_bar; here alpha = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar), so that
x_t = alpha_t x_0 + sigma_t eps. Times run from 0 (the clean image) to T; s = sigma / alpha orders them by noise.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ddim_edit.errors import ArgumentError

Floats = npt.NDArray[np.float64]


class Level(NamedTuple):
    """One noise level as plain numbers; it knows nothing of the schedule that it came from.

    Fields: time t in 0..T, alpha in (0, 1], sigma in [0, 1), alpha^2 + sigma^2 = 1.
    """

    t: float
    alpha: float
    sigma: float

    @property
    def s(self) -> float:
        """Noise-to-signal ratio sigma / alpha; 0 at the clean image."""
        return self.sigma / self.alpha


class Span(NamedTuple):
    """One step of a grid, in either direction: where it starts, where it ends and the level half-way in s."""

    here: Level
    there: Level
    middle: Level

    @property
    def h(self) -> float:
        """Signed step in s, positive towards noise."""
        return self.there.s - self.here.s

    def flipped(self) -> "Span":
        """The same step walked the other way."""
        return Span(self.there, self.here, self.middle)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Variance-preserving noise schedule of T discrete levels, extended to fractional times; terminal SNR above zero.

    alpha_bar_t = prod_{k<=t} (1 - beta_k), alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar). Between whole
    times log s is linear in t; between t = 0 and t = 1, where log s is infinite, s itself is.

    Args:
        betas: shape [T], each in (0, 1).
        description: what to call it in a recipe; made from a hash of the betas when left out.

    Raises:
        ArgumentError: betas empty, outside (0, 1) or not finite.

    Ho, Jain, Abbeel (2020); Kingma, Salimans, Poole, Ho (2021) for s.
    """

    betas: Floats
    description: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        betas = np.array(self.betas, dtype=np.float64)
        if betas.ndim != 1 or not betas.size or not ((betas > 0) & (betas < 1)).all():
            raise ArgumentError(
                "a list of betas strictly between 0 and 1",
                f"{betas.size} values from {betas.min(initial=1):.3g} to {betas.max(initial=0):.3g}",
                "a schedule with zero terminal SNR (beta = 1) has no latent to invert to",
            )
        object.__setattr__(self, "betas", betas)
        if not self.description:
            digest = hashlib.sha256(betas.astype("<f8").tobytes()).hexdigest()
            object.__setattr__(self, "description", {"kind": "betas", "T": betas.size, "sha256": digest})

    @classmethod
    def linear(cls, start: float = 1e-4, end: float = 0.02, T: int = 1000) -> "NoiseSchedule":
        """Betas evenly spaced from start to end, as in Ho et al. (2020)."""
        return cls(np.linspace(start, end, T), {"kind": "linear", "start": start, "end": end, "T": T})

    @classmethod
    def scaled_linear(cls, start: float = 8.5e-4, end: float = 0.012, T: int = 1000) -> "NoiseSchedule":
        """Betas whose square roots are evenly spaced, as in Rombach et al. (2022)."""
        betas = np.linspace(math.sqrt(start), math.sqrt(end), T) ** 2
        return cls(betas, {"kind": "scaled_linear", "start": start, "end": end, "T": T})

    @classmethod
    def cosine(cls, T: int = 1000, max_beta: float = 0.999) -> "NoiseSchedule":
        """Squared-cosine alpha_bar with offset 0.008 and capped betas, as in Nichol and Dhariwal (2021)."""
        alpha_bar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)
        return cls(betas, {"kind": "cosine", "max_beta": max_beta, "T": T})

    @property
    def T(self) -> int:
        """Number of discrete levels, and the last time."""
        return len(self.betas)

    @cached_property
    def _log_s(self) -> Floats:
        log_alpha_bar = np.cumsum(np.log1p(-self.betas))
        sigma_squared = -np.expm1(log_alpha_bar)
        log_s: Floats = 0.5 * (np.log(sigma_squared) - log_alpha_bar)
        return log_s

    def s(self, t: float) -> float:
        """Noise-to-signal ratio at time t in [0, T], increasing from 0."""
        if not 0 <= t <= self.T:
            raise ArgumentError(f"a time from 0 to {self.T}", f"{t:g}", "use a time of this schedule")
        if t < 1:
            return t * math.exp(self._log_s[0])
        return math.exp(np.interp(t, np.arange(1, self.T + 1), self._log_s))

    def time(self, s: float) -> float:
        """Time in [0, T] at which the noise-to-signal ratio is s; the inverse of `s`."""
        lowest = math.exp(self._log_s[0])
        if s < lowest:
            return s / lowest
        return float(np.interp(math.log(s), self._log_s, np.arange(1, self.T + 1)))

    def level(self, t: float) -> Level:
        """Alpha and sigma at time t in [0, T]."""
        return self._level(t, self.s(t))

    def _level(self, t: float, s: float) -> Level:
        alpha = 1 / math.hypot(1, s)
        return Level(t, alpha, s * alpha)

    def span(self, here: float, there: float) -> Span:
        """The step between two times."""
        here_level, there_level = self.level(here), self.level(there)
        s = (here_level.s + there_level.s) / 2
        return Span(here_level, there_level, self._level(self.time(s), s))

    def spans(self, grid: "Grid") -> tuple[Span, ...]:
        """Every step of a grid, from the image towards noise."""
        return tuple(self.span(here, there) for here, there in pairwise(grid.times))


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
        return _from_indices("leading", indices, 0.0 if self.clean else 1.0)


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


GRIDS: Mapping[str, GridMaker] = {
    "karras": Karras(),
    "logsnr": logsnr,
    "uniform": uniform,
    "quad": quad,
    "leading": Leading(),
    "trailing": trailing,
    "linspace": linspace,
}


def make_grid(name: str, schedule: NoiseSchedule, steps: int) -> Grid:
    """The grid of a name in `GRIDS`, or of "karras:RHO".

    Raises:
        ArgumentError: an unknown name, a rho below 1, or steps outside 1..10,000.
    """
    kind, colon, option = name.partition(":")
    if kind not in GRIDS or (colon and kind != "karras"):
        raise ArgumentError(f"a grid out of {', '.join(GRIDS)}", name, "choose one of these, or karras:RHO")
    if not 1 <= steps <= 10_000:
        raise ArgumentError("a number of steps from 1 to 10000", str(steps), "20 is a good start")
    maker = Karras(_rho(option)) if colon else GRIDS[kind]
    return maker(schedule, steps)


def _rho(text: str) -> float:
    try:
        rho = float(text)
    except ValueError:
        rho = math.nan
    if not 1 <= rho < math.inf:
        raise ArgumentError("karras:RHO with a number of at least 1", f"karras:{text}", "karras:7 is usual")
    return rho
