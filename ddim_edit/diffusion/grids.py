"""Grids: the times that solvers visit, as plain data.

The grid is made before the loop and given to the solver. Inversion and decoding visit the same times, one in reverse,
so that no index arithmetic can make them differ. Where steps should be small depends on the data: errors are made where
eps changes fast along the path, which for images is at low noise, so the default grid (`Karras`) has most steps there.

Importing this module does not import torch, so that the command line can list the grids quickly.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ddim_edit.diffusion.schedules import SMALLEST_ALPHA, Floats, NoiseSchedule
from ddim_edit.errors import ArgumentError

MOST_TIMES = 10_002
"""The times of the longest grid: 10,000 steps, and t = 0."""
STANDARD = "standard"
"""The grid that is used where none is named; `StandardGrid` makes it, and the grids have names of their own."""
AUTO = "auto"
"""What stands for the grid that `tune_grid` finds for a model; no grid has this name."""


@dataclass(frozen=True)
class Grid:
    """The increasing times that a solver visits; both directions visit the same ones.

    A grid need not end at T (diffusers' leading spacing does not); its latents say at which t they stand.

    Args:
        name: for the recipe.
        times: in [0, T], possibly fractional; t = 0 is the clean image.

    Raises:
        ArgumentError: fewer than two times or more than 10,002, a negative one, or times that do not increase strictly.
    """

    name: str
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in pairwise(self.times))
        if len(self.times) > MOST_TIMES:
            raise ArgumentError(f"A grid has at most {MOST_TIMES:,} times, not {len(self.times):,}. Take fewer steps.")
        if len(self.times) < 2 or not increasing or not self.times[0] >= 0:
            shown = ", ".join(f"{t:g}" for t in self.times[:4])
            if len(self.times) > 4:
                shown += ", ..."
            raise ArgumentError(
                "A grid needs at least two times from 0 upwards, each larger than the one before, not "
                f"{len(self.times)} times ({shown}). Use more steps, or fewer than the schedule has levels."
            )

    @property
    def steps(self) -> int:
        """Number of steps, one less than the times."""
        return len(self.times) - 1

    def until(self, t: float) -> "Grid":
        """Return the part of the grid up to time t, with t itself as its last time."""
        return Grid(self.name, (*(time for time in self.times if time < t), t))

    def nearest(self, t: float) -> float:
        """Return the time of the grid that is closest to t, the first one excepted, to which no step leads.

        Raises:
            ArgumentError: as `require_reached`.
        """
        self.require_reached(t)
        return min(self.times[1:], key=lambda time: abs(time - t))

    def require_reached(self, t: float) -> None:
        """Refuse a level below the start of a grid that starts above the image.

        Raises:
            ArgumentError: nothing can be read there; the message says what to do.
        """
        start = self.times[0]
        if t < start and start > 1:
            raise ArgumentError(
                f"The grid {self.name} starts at t = {start:g}, so nothing can be read at t = {t:g}. Take a higher "
                "level, or a grid that starts at the image, such as karras:14."
            )

    def to_clean(self) -> "Grid":
        """Return the grid with the clean image, t = 0, as its first time."""
        return self if not self.times[0] else Grid(self.name, (0.0, *self.times))


GridMaker = Callable[[NoiseSchedule, int], Grid]
"""Makes the grid of a number of steps through a schedule."""


def _from_indices(name: str, indices: npt.NDArray[Any], first: float = 0.0) -> Grid:
    """Return the grid of increasing network indices (index = t - 1), starting at time `first`."""
    times = [float(index) + 1 for index in indices]
    if not times or first < times[0]:
        times.insert(0, first)
    return Grid(name, tuple(times))


def uniform(schedule: NoiseSchedule, steps: int) -> Grid:
    """Return evenly spaced times from 0 to T, fractional where T / steps is."""
    return Grid("uniform", tuple(float(t) for t in np.linspace(0, schedule.T, steps + 1)))


def quad(schedule: NoiseSchedule, steps: int) -> Grid:
    """Return the times T (i / steps)^2: the quadratic subsequence of the DDIM paper, carried on to T.

    References:
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502, appendix D.2.
    """
    return Grid("quad", tuple(schedule.T * (i / steps) ** 2 for i in range(steps + 1)))


@dataclass(frozen=True)
class Leading:
    """Maker of diffusers' leading spacing, indices i * (T // steps) + offset; it stops short of T by almost one step.

    Args:
        offset: diffusers' steps_offset; None for that of the schedule's sampler.
        clean: whether the grid starts at the clean image (set_alpha_to_one) or at the first index; None as the
            schedule's sampler.
    """

    offset: int | None = None
    clean: bool | None = None

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """Return the grid of that many steps."""
        sampler = schedule.sampler
        if sampler.distilled_steps:
            return _consistency_grid(schedule, steps)
        offset = sampler.offset if self.offset is None else self.offset
        if sampler.one_more:
            indices = np.arange(1, steps + 1) * (schedule.T // (steps + 1)) + offset
        else:
            indices = np.arange(steps) * (schedule.T // steps) + offset
        clean = sampler.ends_clean if self.clean is None else self.clean
        # With an offset and as many steps as levels the last index would lie beyond T.
        return _from_indices("leading", indices[indices < schedule.T], 0.0 if clean else 1.0)


def _consistency_grid(schedule: NoiseSchedule, steps: int) -> Grid:
    """Return the times of a consistency model: some of those of the sampler that it was distilled from.

    References:
        Luo, Tan, Huang, Li, Zhao, "Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step
        Inference", 2023, arXiv:2310.04378.
    """
    count = schedule.sampler.distilled_steps
    descending = np.arange(count, 0, -1) * (schedule.T // count) - 1
    chosen = np.floor(np.linspace(0, count, steps, endpoint=False)).astype(int)
    return _from_indices("leading", descending[chosen][::-1])


def trailing(schedule: NoiseSchedule, steps: int) -> Grid:
    """Return diffusers' trailing spacing, indices round(T - i T / steps) - 1; it reaches T."""
    indices = np.round(np.arange(schedule.T, 0, -schedule.T / steps))[::-1] - 1
    return _from_indices("trailing", indices, 0.0 if schedule.sampler.ends_clean else 1.0)


def linspace(schedule: NoiseSchedule, steps: int) -> Grid:
    """Return diffusers' linspace spacing, indices from 0 to T - 1 rounded; it reaches T and has t = 1 after t = 0."""
    if schedule.sampler.one_more:
        indices = np.round(np.linspace(0, schedule.T - 1, steps + 1))[1:]
    else:
        indices = np.round(np.linspace(0, schedule.T - 1, steps))
    return _from_indices("linspace", indices, 0.0 if schedule.sampler.ends_clean else 1.0)


def logsnr(schedule: NoiseSchedule, steps: int) -> Grid:
    """Return times evenly spaced in log s from index 0 (t = 1) to T; they leave the clean image out."""
    s = np.geomspace(schedule.s(1), schedule.s(schedule.T), steps + 1)
    return _grid_of_levels("logsnr", schedule, s)


@dataclass(frozen=True)
class Karras:
    """Maker of grids evenly spaced in s^(1/rho) from a start time to T; they leave the clean image out.

    Args:
        rho: how strongly steps crowd at low noise: 1 is uniform in s, infinity is `logsnr`, and from there it goes on
            through the negative numbers to -1, uniform in 1 / s. They suit schedules that end in far more noise than
            the x0 that a network predicts there could need, as cosine schedules and flows do.
        start: the first time, at least 1, which is index 0 of the network; as text it may be a part of T ("0.08T"). An
            image is brought to its level by seeded noise.

    References:
        Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
        arXiv:2206.00364, eq. 5.
        Staniszewski et al., "There and Back Again: On the relation between Noise and Image Inversions in Diffusion
        Models", ICLR 2026, arXiv:2410.23530 (start: forward diffusion in place of the first steps).
    """

    rho: float = 7.0
    start: float | str = 1.0

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """Return the grid of that many steps.

        Raises:
            ArgumentError: a start that is not from 1 to below T.
        """
        start = _parse_start(self.start, schedule.T)
        low, high = schedule.s(start) ** (1 / self.rho), schedule.s(schedule.T) ** (1 / self.rho)
        text = self.start if isinstance(self.start, str) else f"{start:g}"
        name = f"karras:{self.rho:g}" if start == 1 else f"karras:{self.rho:g}@{text}"
        return _grid_of_levels(name, schedule, np.linspace(low, high, steps + 1) ** self.rho, start)


@dataclass(frozen=True)
class StandardGrid:
    """Maker of the default grids: `karras:14@0.16T`, or where a schedule ends in more noise, with another rho.

    rho = 14 was tuned on DDPM's schedule, which ends at s = 157 and has 46 % of its steps at s < 10. Cosine schedules
    and flows end at 4,000 to 20,000, where it would leave half of that for them, and most for noise at which nothing is
    decided. There rho is the one that keeps the 46 % (docs/explanation/grids.md has the measurements).

    Args:
        start: as of `Karras`; rho is chosen for the default one.

    Examples:
        >>> from ddim_edit import NoiseSchedule
        >>> for schedule in (NoiseSchedule.linear(), NoiseSchedule.cosine(), NoiseSchedule.flow()):
        ...     print(StandardGrid()(schedule, 20).name)
        karras:14@0.16T
        karras:-9.16@0.16T
        karras:-18.6@0.16T
    """

    start: float | str = "0.16T"

    RHO: ClassVar[float] = 14.0
    SHARE: ClassVar[float] = 0.462
    """Of the steps of DDPM's schedule, those at s < LOW."""
    LOW: ClassVar[float] = 10.0
    FAR: ClassVar[float] = 200.0
    """Schedules that end below this s have RHO."""

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """Return the grid of that many steps."""
        return Karras(self._rho(schedule), self.start)(schedule, steps)

    def _rho(self, schedule: NoiseSchedule) -> float:
        start, end = schedule.s(0.16 * schedule.T), schedule.s(schedule.T)
        if end <= self.FAR:
            return self.RHO

        def share(power: float) -> float:
            """Return the share of the steps at s < LOW if they are even in s^power."""
            return float((self.LOW**power - start**power) / (end**power - start**power))

        # It falls as the power 1 / rho grows. Zero itself, which is log s, is never hit.
        low, high = -1.0, 1 / self.RHO
        for _ in range(40):
            middle = (low + high) / 2
            if share(middle) > self.SHARE:
                low = middle
            else:
                high = middle
        return float(f"{1 / low:.3g}")


def grid_below(start: float, schedule: NoiseSchedule) -> Grid:
    """Return the steps from the start of a grid down to the clean image: even in log s to t = 1, and one to t = 0.

    They are at most a factor of 1.75 in s apart, about as those of the default grid are at its start.

    Args:
        start: above 1.
        schedule: of the model.
    """
    low, high = schedule.s(1), schedule.s(start)
    steps = math.ceil(math.log(high / low) / math.log(1.75))
    inner = [schedule.time(value) for value in np.geomspace(low, high, steps + 1)[1:-1]]
    return Grid("below", (0.0, 1.0, *inner, start))


def _parse_start(start: float | str, T: int) -> float:
    """Return the time of a start.

    Raises:
        ArgumentError: one that is no time from 1 to below T.
    """
    number, part, rest = str(start).partition("T")
    try:
        t = float(number) * (T if part else 1)
    except ValueError:
        t = math.nan
    if rest or not 1 <= t < T:
        raise ArgumentError(
            f"A grid starts at a time from 1 to below {T}, or at a part of T such as 0.08T, not at {str(start)!r:.40}."
            " Leave the start out to begin right above the image."
        )
    return t


def _grid_of_levels(name: str, schedule: NoiseSchedule, s: Floats, start: float = 1.0) -> Grid:
    """Return the grid from a start time to T whose inner levels are those of s."""
    # The ends are written down, because going through s and back would round them.
    inner = [schedule.time(value) for value in s[1:-1]]
    return Grid(name, (float(start), *inner, float(schedule.T)))


@dataclass(frozen=True)
class Flow:
    """Maker of diffusers' spacing for straight paths, even in the share of noise tau = s / (1 + s), from t = 0 to T.

        tau' = shift tau / (1 + (shift - 1) tau)

    for tau as the sampler spaces them that the model was released with; without one, from the shifted 1 / T to pure
    noise.

    Args:
        shift: how far to move steps towards noise; 1 is not at all, None as the schedule's sampler.

    References:
        Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", ICML 2024,
        arXiv:2403.03206, eq. 23.
    """

    shift: float | None = None

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """Return the grid of that many steps."""
        sampler = schedule.sampler
        shares = sampler.noise_shares(schedule.T, steps, self.shift)
        # tau = 1 is pure noise on a straight path, less what the schedule lacks of that.
        pure = 1 - max(0.0, 1 / (1 + schedule.s(schedule.T)) - 1 / (1 + 1 / SMALLEST_ALPHA))
        times = [0.0]
        for tau in pure * shares:
            # Rounded sums may be above 1 by the last bit.
            times.append(float(schedule.T) if tau >= pure * (1 - 1e-12) else schedule.time(tau / (1 - tau)))
        return Grid(f"flow:{sampler.shift_of(steps) if self.shift is None else self.shift:g}", tuple(times))


@dataclass(frozen=True)
class Times:
    """Maker of a grid of given times, whatever the number of steps.

    Args:
        times: in any order, from 0 to T.
    """

    times: tuple[float, ...]

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Grid:
        """Return the grid.

        Raises:
            ArgumentError: fewer than two times, one twice, or one beyond T.
        """
        times = tuple(sorted(self.times))
        if times and times[-1] > schedule.T:
            raise ArgumentError(f"Times of this model go from 0 to {schedule.T}. There is no time {times[-1]:g}.")
        return Grid("times", times)


@dataclass(frozen=True)
class GridEntry:
    """A registered grid.

    Args:
        name: for `grid=` and `--grid`.
        help: one line for the command line and the documentation.
        maker: makes the grid, with its parameter at the default where it has one.
        parameter: what the NUMBER of "name:NUMBER" is called; None for grids without a parameter.
        with_parameter: returns the maker for a parameter of at least 1.
        usual: a usual parameter.
        signed: whether it may be negative too, -1 at most.
        with_start: returns the maker for a parameter and a start; None for grids without a start.
    """

    name: str
    help: str
    maker: GridMaker
    parameter: str | None = None
    with_parameter: Callable[[float], GridMaker] | None = None
    usual: float = 1.0
    signed: bool = False
    with_start: Callable[[float, str], GridMaker] | None = None

    @property
    def form(self) -> str:
        """The name, with what may follow it in brackets."""
        if self.parameter is None:
            return self.name
        return f"{self.name}[:{self.parameter}{'[@START]' if self.with_start else ''}]"


GRID_ENTRIES: Mapping[str, GridEntry] = {
    entry.name: entry
    for entry in (
        GridEntry(STANDARD, "karras:14@0.16T; with another rho for cosine schedules and flows", StandardGrid()),
        GridEntry("karras", "even in s^(1/rho), as in EDM", Karras(), "RHO", Karras, 7.0, True, Karras),
        GridEntry("logsnr", "even in log s", logsnr),
        GridEntry("uniform", "even in time", uniform),
        GridEntry("quad", "even in the square root of time", quad),
        GridEntry("leading", "diffusers' leading spacing, as the model's sampler has it; stops short of T", Leading()),
        GridEntry("trailing", "diffusers' trailing spacing", trailing),
        GridEntry("linspace", "diffusers' linspace spacing", linspace),
        GridEntry("flow", "as samplers of rectified flows, with the model's own shift", Flow(), "SHIFT", Flow, 3.0),
    )
}
"""All grids by name, the default first. To add one, write its function and its entry here."""

GRIDS: Mapping[str, GridMaker] = {name: entry.maker for name, entry in GRID_ENTRIES.items()}
"""What makes the grids, by name."""


def find_grid(name: str) -> GridMaker:
    """Return what makes the grid of a name in `GRIDS`, or of "karras:RHO", "flow:SHIFT" or "times:T,T,...".

    "karras:RHO@START" begins at the time START, or at a part of T ("karras:10@0.08T"), to which an image is brought by
    seeded noise, and not at t = 1.

    Raises:
        ArgumentError: an unknown name, a rho between -1 and 1, a shift below 1, or times that are no numbers; or
            "auto", which depends on the model.
    """
    if name == AUTO:
        raise ArgumentError(
            "The grid auto is found for a model with some of its images. In Python call tune_grid(editor, images) and "
            "take its grid; on the command line it is for commands that invert images."
        )
    kind, colon, text = name.partition(":")
    if kind == "times" and colon:
        return Times(_parse_times(text))
    entry = GRID_ENTRIES.get(kind)
    if entry is None or (colon and entry.with_parameter is None):
        forms = ", ".join(each.form for each in GRID_ENTRIES.values())
        raise ArgumentError(f"There is no grid {name!r}. Use {forms} or times:T,T,... of your own.")
    if not colon or entry.with_parameter is None:
        return entry.maker
    parameter, at, start = text.partition("@")
    if at and entry.with_start is not None:
        return entry.with_start(_parse_parameter(entry, parameter), start)
    return entry.with_parameter(_parse_parameter(entry, text))


def _parse_parameter(entry: GridEntry, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    size = abs(number) if entry.signed else number
    if not 1 <= size < math.inf:
        wanted = "at least 1, or at most -1" if entry.signed else "at least 1"
        raise ArgumentError(
            f"{entry.parameter} of {entry.name}:{entry.parameter} must be a number of {wanted}, not {text!r}."
            f" {entry.name}:{entry.usual:g} is usual."
        )
    return number


def _parse_times(text: str) -> tuple[float, ...]:
    words = [word for word in text.split(",") if word.strip()]
    try:
        times = tuple(float(word) for word in words)
    except ValueError:
        times = ()
    if len(times) < 2 or not all(0 <= time < math.inf for time in times):
        raise ArgumentError(
            f"Times must be two or more numbers from 0 with commas between them, as in 1,251,501,751, not {text!r:.60}."
        )
    return times


def make_grid(grid: str | GridMaker, schedule: NoiseSchedule, steps: int) -> Grid:
    """Return the grid of a name, as `find_grid` takes it, or of a maker.

    Args:
        grid: a name as for `find_grid`, or a maker: `Karras(5.0)`, or a function of a schedule and a number of steps.
        schedule: whose times the grid visits.
        steps: number of steps, from 1 to 10,000; ignored by "times:T,T,...".

    Raises:
        ArgumentError: as `find_grid`, another number of steps, times that the schedule does not have, or something that
            is neither a name nor a maker.

    Examples:
        >>> from ddim_edit import NoiseSchedule
        >>> make_grid("uniform", NoiseSchedule.linear(), 4).times
        (0.0, 250.0, 500.0, 750.0, 1000.0)
    """
    maker = find_grid(grid) if isinstance(grid, str) else grid
    if not callable(maker):
        raise ArgumentError(
            f"A grid is a name, a Grid, or a function of a schedule and a number of steps, not {grid!r:.60}. The names "
            f"are {', '.join(GRID_ENTRIES)}."
        )
    if not 1 <= steps <= 10_000:
        raise ArgumentError(f"The number of steps must be from 1 to 10000, not {steps}. 20 is a good start.")
    return maker(schedule, steps)
