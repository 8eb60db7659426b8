"""(e): whole folders of images through the command line, by one worker and by several."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from timing.bench import Bench, BenchSection
from timing.process import Cost, run
from timing.report import Row
from timing.sample_images import fill
from timing.startup import COMMAND

Words = Sequence[object]


class WorkerSetup(NamedTuple):
    """How many workers invert a folder, and the commands that start them, made of the common one."""

    name: str
    workers: int
    commands: Callable[[Words], Sequence[Words]]


def worker_setups(on_gpu: bool) -> Sequence[WorkerSetup]:
    """Return one process, two that each fill every second shard, and two of Ray where it is installed."""
    ray_options = ("--engine", "ray", "--workers", 2, *(("--gpus-per-worker", 0.5) if on_gpu else ()))
    setups = [
        WorkerSetup("one process", 1, lambda command: [command]),
        WorkerSetup("two processes, --shard", 2, lambda command: [(*command, "--shard", f"{i}/2") for i in range(2)]),
    ]
    if find_spec("ray"):
        setups.append(WorkerSetup("Ray, two workers", 2, lambda command: [(*command, *ray_options)]))
    return setups


def throughput(bench: Bench) -> Iterator[Row]:
    """Yield images a second from start to end, and without what a folder half as large takes."""
    with tempfile.TemporaryDirectory() as scratch:
        sizes = bench.scale.folder // 2, bench.scale.folder
        folders = [Path(scratch) / f"{count}-images" for count in sizes]
        for folder, count in zip(folders, sizes, strict=True):
            fill(folder, bench.images, count)
        base: float | None = None
        for setup in worker_setups(bench.place.device.type == "cuda"):
            small, large = (_fill_store(bench, setup, folder) for folder in folders)
            rate = marginal_rate(sizes, (small.wall, large.wall))
            base = base or rate
            yield {
                "workers": setup.name,
                "images": sizes[1],
                "wall s": large.wall,
                "images/s in all": sizes[1] / large.wall,
                "images/s once started": rate,
                "scaling": rate / base if rate and base else None,
            }


def marginal_rate(counts: Sequence[int], walls: Sequence[float]) -> float | None:
    """Return images a second between two folders, without what starting takes; None where noise hides it."""
    longer = walls[1] - walls[0]
    return (counts[1] - counts[0]) / longer if longer > 0 else None


def _fill_store(bench: Bench, setup: WorkerSetup, folder: Path) -> Cost:
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store.latents"
        model_options = ("--model", bench.folder, "--device", bench.place.name, "--steps", bench.scale.folder_steps)
        # Shards of one batch, for there must be an even number of them.
        sizes = ("--batch-size", bench.scale.folder_batch, "--shard-size", bench.scale.folder_batch)
        command = (*COMMAND, "invert", folder, "-o", store, *model_options, *sizes)
        # The same threads in all, however many share them.
        threads = max(1, torch.get_num_threads() // setup.workers)
        return run(*setup.commands(command), threads=threads)


SECTIONS = (
    BenchSection(
        "e",
        "Folders and workers",
        "`ddim-edit invert DIR -o X.latents`, {folder_steps} steps, batches of {folder_batch}; workers share the "
        'threads that one process has. "Once started" leaves out what a folder of half the images takes.',
        throughput,
    ),
)
