"""(a) and (b): this package against a plain diffusers loop, step for step and to the same accuracy."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from math import inf
from typing import NamedTuple

from torch import Tensor

from ddim_edit import metrics
from timing.bench import Bench, Scale, Section
from timing.cells import Row
from timing.spread import Spread, interleaved, ratio, rounds_in, spread
from timing.ways import THEIRS, Lap, WayIn, lap

GOAL = 50.0
"""Decibels of a round trip at which a difference is past seeing, and an edit starts from the picture itself."""


def step_for_step(bench: Bench) -> Iterator[Row]:
    """Inversion and round trip at the same steps and evaluations, batch by batch."""
    for batch in bench.scale.batches:
        yield from _one_batch(bench, batch)


def _one_batch(bench: Bench, batch: int) -> Iterator[Row]:
    pictures = bench.pictures[:batch]
    laps = {name: partial(lap, way(bench.scale.steps), pictures, bench.place) for name, way in bench.ways.items()}
    # The first lap of each is not counted: it makes kernels, graphs and buffers, and what comes back is judged by it.
    tried = {name: bench.place.tried(run) for name, run in laps.items()}
    first = {name: found for name, found in tried.items() if found is not None}
    rounds = rounds_in(bench.scale.seconds, sum(found.trip for found in first.values()))
    measured = interleaved({name: laps[name] for name in first}, rounds)
    for name in laps:
        row: Row = {"batch": batch, "way": name, "rounds": rounds if name in first else "does not fit"}
        yield {**row, **_compared(measured, name), **_judged(pictures, first[name])} if name in first else row


def _compared(measured: Mapping[str, Sequence[Lap]], name: str) -> Row:
    """Median milliseconds, and how many times faster than diffusers."""
    up, trip = ([lap.up for lap in measured[name]], [lap.trip for lap in measured[name]])
    row: dict[str, float | Spread] = {
        "invert ms": 1000 * spread(up).median,
        "round trip ms": 1000 * spread(trip).median,
    }
    if THEIRS in measured and name != THEIRS:
        base = measured[THEIRS]
        row |= {"invert ratio": ratio([lap.up for lap in base], up)}
        row |= {"round trip ratio": ratio([lap.trip for lap in base], trip)}
    return row


def _judged(pictures: Tensor, first: Lap) -> Row:
    psnr = metrics.psnr(pictures, first.back)
    return {"PSNR dB": float(psnr.mean()), "worst dB": float(psnr.min()), "first s": first.trip}


class Rung(NamedTuple):
    """Steps, and the mean and the lowest PSNR of the round trip in them."""

    steps: int
    mean: float
    worst: float


def error_by_evaluations(bench: Bench) -> Iterator[Row]:
    """PSNR of the round trip at more and more steps."""
    for name, rungs in climbs(bench).items():
        for steps, mean, worst in rungs:
            yield {"way": name, "steps": steps, "evaluations": 2 * steps, "PSNR dB": mean, "worst dB": worst}


@cache
def climbs(bench: Bench) -> Mapping[str, Sequence[Rung]]:
    """Return the rungs of every variant."""
    return {name: list(climb(bench.scale, partial(_psnr, bench, way))) for name, way in bench.ways.items()}


def _psnr(bench: Bench, way: WayIn, steps: int) -> Tensor:
    pictures = bench.pictures[: bench.scale.judged]
    return metrics.psnr(pictures, lap(way(steps), pictures, bench.place).back)


def climb(scale: Scale, psnr: Callable[[int], Tensor]) -> Iterator[Rung]:
    """Up the ladder: the table in any case, and on until the goal is reached or a rung has not brought a decibel."""
    best = -inf
    for steps in scale.ladder:
        found = psnr(steps)
        yield Rung(steps, mean := float(found.mean()), float(found.min()))
        if steps >= scale.table and (max(best, mean) >= GOAL or mean < best + 1):
            return
        best = max(best, mean)


def fewest(rungs: Sequence[Rung]) -> Rung:
    """Return the first rung that reaches the goal, or else the last."""
    return next((rung for rung in rungs if rung.mean >= GOAL), rungs[-1])


def time_to_goal(bench: Bench) -> Iterator[Row]:
    """How long one picture takes there and back in the fewest steps that reach the goal, side by side."""
    chosen = {name: fewest(rungs) for name, rungs in climbs(bench).items()}
    picture, place = bench.pictures[:1], bench.place
    laps = {name: partial(lap, bench.ways[name](rung.steps), picture, place) for name, rung in chosen.items()}
    low = bench.scale.ladder[0]
    warm = {name: lap(bench.ways[name](low), picture, place).trip / low * chosen[name].steps for name in laps}
    measured = interleaved(laps, rounds_in(bench.scale.seconds, sum(warm.values()), least=1))
    trips = {name: [each.trip for each in found] for name, found in measured.items()}
    for name, rung in chosen.items():
        reached = "yes" if rung.mean >= GOAL else f"not by {rung.steps} steps"
        row: Row = {"way": name, "reached": reached, "steps": rung.steps, "PSNR dB": rung.mean}
        times = ratio(trips[THEIRS], trips[name]) if name != THEIRS and rung.mean >= GOAL else None
        yield {**row, "seconds": spread(trips[name]).median, "ratio": times}


SECTIONS = (
    Section(
        "a",
        "Step for step against diffusers",
        "Pictures in memory to codes and back with {steps} steps and as many evaluations each way. Diffusers: "
        "`UNet2DModel`, float32, `no_grad`, default flags, `DDIMInverseScheduler` and `DDIMScheduler`, both without "
        "clipping. One interleaved run, A B A B; medians, and ratios with an interval of order statistics.",
        step_for_step,
    ),
    Section(
        "b",
        "Error against evaluations",
        f"Mean PSNR of the round trip of {{judged}} pictures. A way climbs until it reaches {GOAL:g} dB, or until more "
        "steps bring no more.",
        error_by_evaluations,
    ),
    Section(
        "b",
        f"Time to {GOAL:g} dB",
        "One picture there and back in the fewest steps of the table above that reach the goal; where diffusers does "
        "not, the ratio is a lower bound.",
        time_to_goal,
    ),
)
