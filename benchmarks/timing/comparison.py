"""(a) and (b): this package against a plain diffusers loop, step for step and to the same accuracy."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from math import inf
from typing import NamedTuple

from torch import Tensor

from ddim_edit import metrics
from timing.bench import Bench, BenchScale, BenchSection
from timing.report import Row
from timing.round_trips import THEIRS, MakeRoundTrip, TimedRoundTrip, time_round_trip
from timing.spread import interleaved, ratio, rounds_in, spread

GOAL = 50.0
"""Decibels of a round trip from which no difference can be seen, and edits start from the image itself."""


def step_for_step(bench: Bench) -> Iterator[Row]:
    """Yield times of inversions and round trips at the same steps and evaluations, batch by batch."""
    for batch in bench.scale.batches:
        images = bench.images[:batch]
        runs: dict[str, Callable[[], TimedRoundTrip]] = {}
        first: dict[str, TimedRoundTrip] = {}
        for name, make in bench.round_trips.items():
            runs[name] = partial(time_round_trip, make(bench.scale.steps), images, bench.place)
        for name, run in runs.items():
            # The first run is not counted, because it makes kernels, graphs and buffers; PSNR is that of its images.
            timed = bench.place.tried(run)
            if timed is not None:
                first[name] = timed
        rounds = rounds_in(bench.scale.seconds, sum(timed.total for timed in first.values()))
        measured = interleaved({name: runs[name] for name in first}, rounds)
        for name in runs:
            row: Row = {"batch": batch, "variant": name, "rounds": rounds if name in first else "does not fit"}
            if name in first:
                psnr = metrics.psnr(images, first[name].decoded)
                scores = {"PSNR dB": float(psnr.mean()), "worst dB": float(psnr.min()), "first s": first[name].total}
                row = {**row, **_compared(measured, name), **scores}
            yield row


def _compared(measured: Mapping[str, Sequence[TimedRoundTrip]], name: str) -> Row:
    """Return the median milliseconds, and how many times faster they are than diffusers'."""
    inverting = [timed.inverting for timed in measured[name]]
    total = [timed.total for timed in measured[name]]
    row: Row = {"invert ms": 1000 * spread(inverting).median, "round trip ms": 1000 * spread(total).median}
    if THEIRS not in measured or name == THEIRS:
        return row
    theirs = measured[THEIRS]
    return {
        **row,
        "invert ratio": ratio([timed.inverting for timed in theirs], inverting),
        "round trip ratio": ratio([timed.total for timed in theirs], total),
    }


class PsnrAtSteps(NamedTuple):
    """A number of steps, and the mean and the lowest PSNR of the round trip in them."""

    steps: int
    mean: float
    worst: float


def error_by_evaluations(bench: Bench) -> Iterator[Row]:
    """Yield the PSNR of the round trip at more and more steps."""
    for name, found in raise_all_steps(bench).items():
        for steps, mean, worst in found:
            yield {"variant": name, "steps": steps, "evaluations": 2 * steps, "PSNR dB": mean, "worst dB": worst}


@cache
def raise_all_steps(bench: Bench) -> Mapping[str, Sequence[PsnrAtSteps]]:
    """Return the PSNR of every round trip at more and more steps."""
    images = bench.images[: bench.scale.judged]

    def psnr(make: MakeRoundTrip, steps: int) -> Tensor:
        return metrics.psnr(images, time_round_trip(make(steps), images, bench.place).decoded)

    return {name: list(raise_steps(bench.scale, partial(psnr, make))) for name, make in bench.round_trips.items()}


def raise_steps(scale: BenchScale, psnr: Callable[[int], Tensor]) -> Iterator[PsnrAtSteps]:
    """Yield PSNRs at the steps of the table, and on until the goal is reached or more steps have not brought 1 dB."""
    best = -inf
    for steps in scale.ladder:
        found = psnr(steps)
        mean = float(found.mean())
        yield PsnrAtSteps(steps, mean, float(found.min()))
        if steps >= scale.table and (max(best, mean) >= GOAL or mean < best + 1):
            return
        best = max(best, mean)


def fewest_steps(found: Sequence[PsnrAtSteps]) -> PsnrAtSteps:
    """Return the first that reaches the goal, or else the last."""
    return next((each for each in found if each.mean >= GOAL), found[-1])


def time_to_goal(bench: Bench) -> Iterator[Row]:
    """Yield how long the round trip of one image takes in the fewest steps that reach the goal, side by side."""
    chosen = {name: fewest_steps(found) for name, found in raise_all_steps(bench).items()}
    image, place, low = bench.images[:1], bench.place, bench.scale.ladder[0]
    runs: dict[str, Callable[[], TimedRoundTrip]] = {}
    expected = 0.0
    for name, found in chosen.items():
        make = bench.round_trips[name]
        runs[name] = partial(time_round_trip, make(found.steps), image, place)
        # A few steps warm up, and tell how long all of them will take.
        expected += time_round_trip(make(low), image, place).total / low * found.steps
    measured = interleaved(runs, rounds_in(bench.scale.seconds, expected, least=1))
    seconds = {}
    for name, rounds in measured.items():
        seconds[name] = [timed.total for timed in rounds]
    for name, found in chosen.items():
        reached = found.mean >= GOAL
        yield {
            "variant": name,
            "reached": "yes" if reached else f"not by {found.steps} steps",
            "steps": found.steps,
            "PSNR dB": found.mean,
            "seconds": spread(seconds[name]).median,
            "ratio": ratio(seconds[THEIRS], seconds[name]) if name != THEIRS and reached else None,
        }


SECTIONS = (
    BenchSection(
        "a",
        "Step for step against diffusers",
        "Images in memory to latents and back with {steps} steps and as many evaluations each way. Diffusers: "
        "`UNet2DModel`, float32, `no_grad`, default flags, `DDIMInverseScheduler` and `DDIMScheduler`, both without "
        "clipping. One interleaved run, A B A B; medians, and ratios with an interval of order statistics.",
        step_for_step,
    ),
    BenchSection(
        "b",
        "Error against evaluations",
        f"Mean PSNR of the round trip of {{judged}} images. Steps are raised until it reaches {GOAL:g} dB, or until "
        "more of them bring no more.",
        error_by_evaluations,
    ),
    BenchSection(
        "b",
        f"Time to {GOAL:g} dB",
        "One image there and back in the fewest steps of the table above that reach the goal; where diffusers does "
        "not, the ratio is a lower bound.",
        time_to_goal,
    ),
)
