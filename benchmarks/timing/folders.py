"""(e): whole folders of pictures through the command line, by one worker and by several."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from timing.bench import Bench, Section
from timing.cells import Row
from timing.pictures import fill
from timing.process import Cost, run
from timing.startup import COMMAND

Words = Sequence[object]


class Crew(NamedTuple):
    """Who inverts a folder: a name, how many work at once, and the commands that start them, given the common one."""

    name: str
    workers: int
    commands: Callable[[Words], Sequence[Words]]


def alone(command: Words) -> Sequence[Words]:
    """One process."""
    return [command]


def by_hand(count: int, command: Words) -> Sequence[Words]:
    """Start processes that fill every count-th shard each."""
    return [(*command, "--shard", f"{index}/{count}") for index in range(count)]


def by_ray(count: int, command: Words) -> Sequence[Words]:
    """One process that has Ray start its workers."""
    return [(*command, "--engine", "ray", "--workers", count)]


def sharing_a_card(command: Words) -> Sequence[Words]:
    """Two workers of Ray on one card."""
    return [(*each, "--gpus-per-worker", 0.5) for each in by_ray(2, command)]


def crews(on_card: bool) -> Sequence[Crew]:
    """Who can work here: Ray only where it is installed."""
    ray = Crew("Ray, two workers", 2, sharing_a_card if on_card else partial(by_ray, 2))
    pair = Crew("two processes, --shard", 2, partial(by_hand, 2))
    return (Crew("one process", 1, alone), pair, *([ray] if find_spec("ray") else []))


def throughput(bench: Bench) -> Iterator[Row]:
    """Pictures a second from start to end, and with what a folder half as large takes subtracted."""
    with tempfile.TemporaryDirectory() as scratch:
        sizes = bench.scale.folder // 2, bench.scale.folder
        folders = [Path(scratch) / f"{count}-pictures" for count in sizes]
        for folder, count in zip(folders, sizes, strict=True):
            fill(folder, bench.pictures, count)
        base: float | None = None
        for crew in crews(bench.place.device.type == "cuda"):
            small, large = (_filled(bench, crew, folder) for folder in folders)
            rate = marginal_rate(sizes, (small.wall, large.wall))
            base = base or rate
            yield {
                "workers": crew.name,
                "pictures": sizes[1],
                "wall s": large.wall,
                "pictures/s in all": sizes[1] / large.wall,
                "pictures/s once started": rate,
                "scaling": rate / base if rate and base else None,
            }


def marginal_rate(counts: Sequence[int], walls: Sequence[float]) -> float | None:
    """Pictures a second between two folders, which leaves out what starting takes; None where noise hides it."""
    longer = walls[1] - walls[0]
    return (counts[1] - counts[0]) / longer if longer > 0 else None


def _filled(bench: Bench, crew: Crew, folder: Path) -> Cost:
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store.latents"
        placed = ("--model", bench.folder, "--device", bench.place.name, "--steps", bench.scale.folder_steps)
        # Shards of one batch, for there must be an even number of them.
        sized = ("--batch-size", bench.scale.folder_batch, "--shard-size", bench.scale.folder_batch)
        command = (*COMMAND, "invert", folder, "-o", store, *placed, *sized)
        # The same threads in all, however many share them.
        threads = max(1, torch.get_num_threads() // crew.workers)
        return run(*crew.commands(command), threads=threads)


SECTIONS = (
    Section(
        "e",
        "Folders and workers",
        "`ddim-edit invert DIR -o X.latents`, {folder_steps} steps, batches of {folder_batch}; workers share the "
        'threads that one process has. "Once started" leaves out what a folder of half the pictures takes.',
        throughput,
    ),
)
