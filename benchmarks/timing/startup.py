"""(d): how long commands take to start."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ddim_edit import images
from timing.bench import Bench, BenchSection
from timing.process import Cost, run
from timing.report import Row
from timing.sample_images import gather

COMMAND = ("-m", "ddim_edit")


def startup(bench: Bench) -> Iterator[Row]:
    """Yield times of commands first, then those of one inversion, whole and in parts."""
    starts = bench.scale.starts
    with tempfile.TemporaryDirectory() as scratch:
        image, latent = Path(scratch) / "image.png", Path(scratch) / "image.latent.safetensors"
        images.write(image, images.to_uint8(gather(bench.folder, bench.place, 1)[0]))
        model_options = ("--model", bench.folder, "--device", bench.place.name, "--overwrite")
        invert: tuple[object, ...] = ("invert", image, "-o", scratch, *model_options)
        for words in (("--help",), ("--version",), invert):
            costs = repeated(partial(run, (*COMMAND, *words)), starts)
            what = f"ddim-edit {words[0]}{', one image' if words is invert else ''}"
            yield {"what": what, "wall s": median(c.wall for c in costs), "CPU s": median(c.cpu for c in costs)}
        first = ("-m", "timing.first", bench.folder, bench.place.name, bench.place.dtypes[0], image, latent)
        # The time of the start is an argument of the process, so it is taken anew for each.
        costs = repeated(lambda: run((*first, time.monotonic()), folder=Path(__file__).parents[1]), starts)
        splits = [split(ProcessTimes(**json.loads(cost.output)), cost.wall) for cost in costs]
    for part in splits[0]:
        yield {"what": f"one inversion: {part}", "wall s": median(each[part] for each in splits), "CPU s": None}


def repeated(start: Callable[[], Cost], times: int) -> list[Cost]:
    """Return the costs of so many starts; several follow one that brings all files into the page cache."""
    warm_up = 1 if times > 1 else 0
    return [start() for _ in range(warm_up + times)][warm_up:]


class ProcessTimes(NamedTuple):
    """Seconds of a process of `timing.first`: until it had imported, for loading, and of every evaluation."""

    imports: float
    loading: float
    calls: Sequence[float]


def split(times: ProcessTimes, wall: float) -> dict[str, float]:
    """Split the wall time of a process into parts, and return the part outside the network.

    The network's part is the number of its calls times their median: what its first call takes longer is start-up.
    """
    network = len(times.calls) * median(times.calls)
    rest = wall - times.imports - times.loading - network
    return {
        "interpreter and imports": times.imports,
        "loading the model": times.loading,
        f"{len(times.calls)} network evaluations": network,
        "the rest": rest,
        "all outside the network": wall - network,
    }


SECTIONS = (
    BenchSection(
        "d",
        "Start-up",
        "Medians of {starts} fresh processes with the files in the page cache; commands run as `python -m ddim_edit`. "
        "The network's part is the number of its evaluations times their median.",
        startup,
    ),
)
