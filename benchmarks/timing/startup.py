"""(d): how long it takes until something happens."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ddim_edit import images
from timing.bench import Bench, Section
from timing.cells import Row
from timing.pictures import gather
from timing.process import Cost, run

COMMAND = ("-m", "ddim_edit")


def startup(bench: Bench) -> Iterator[Row]:
    """Commands first, then one inversion, whole and in parts."""
    with tempfile.TemporaryDirectory() as scratch:
        picture, latent = Path(scratch) / "picture.png", Path(scratch) / "picture.latent.safetensors"
        images.write(picture, images.to_uint8(gather(bench.folder, bench.place, 1)[0]))
        placed = ("--model", bench.folder, "--device", bench.place.name, "--overwrite")
        invert: tuple[object, ...] = ("invert", picture, "-o", scratch, *placed)
        for words in (("--help",), ("--version",), invert):
            costs = repeated(partial(run, (*COMMAND, *words)), bench.scale.starts)
            what = f"ddim-edit {words[0]}{', one picture' if words is invert else ''}"
            yield {"what": what, "wall s": median(c.wall for c in costs), "CPU s": median(c.cpu for c in costs)}
        costs = repeated(partial(_first, bench, picture, latent), bench.scale.starts)
        splits = [split(Told(**json.loads(cost.output)), cost.wall) for cost in costs]
    for part in splits[0]:
        yield {"what": f"one inversion: {part}", "wall s": median(each[part] for each in splits), "CPU s": None}


def repeated(start: Callable[[], Cost], times: int) -> list[Cost]:
    """Return the costs of so many starts; several follow one that brings all files into the page cache."""
    warm_up = 1 if times > 1 else 0
    return [start() for _ in range(warm_up + times)][warm_up:]


def _first(bench: Bench, picture: Path, latent: Path) -> Cost:
    words = (bench.folder, bench.place.name, bench.place.dtypes[0], picture, latent, time.monotonic())
    return run(("-m", "timing.first", *words), folder=Path(__file__).parents[1])


class Told(NamedTuple):
    """What `timing.first` says of itself, in seconds: until it had imported, for loading, and of every evaluation."""

    imports: float
    loading: float
    calls: Sequence[float]


def split(told: Told, wall: float) -> dict[str, float]:
    """Split the wall time of a process into parts, and return the part outside the network.

    The network's part is the number of its calls times their median: what its first call takes longer is start-up.
    """
    network = len(told.calls) * median(told.calls)
    rest = wall - told.imports - told.loading - network
    return {
        "interpreter and imports": told.imports,
        "loading the model": told.loading,
        f"{len(told.calls)} network evaluations": network,
        "the rest": rest,
        "all outside the network": wall - network,
    }


SECTIONS = (
    Section(
        "d",
        "Start-up",
        "Medians of {starts} fresh processes with the files in the page cache; commands run as `python -m ddim_edit`. "
        "The network's part is the number of its evaluations times their median.",
        startup,
    ),
)
