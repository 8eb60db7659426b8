"""What is measured on, and how much of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from timing.place import Place
from timing.report import Row
from timing.round_trips import MakeRoundTrip, all_round_trips
from timing.sample_images import gather


class BenchScale(NamedTuple):
    """How much to measure.

    Fields: steps of an inversion; batches; seconds that the rounds of one batch may take, three rounds whatever that
    is; ladder of steps to try, those up to `table` in any case; images judged at each number of steps; fresh processes
    started; images in the folder, their batches and their steps; the longest side of a matrix to multiply.
    """

    steps: int = 20
    batches: tuple[int, ...] = (1, 8, 64)
    seconds: float = 240.0
    ladder: tuple[int, ...] = (10, 20, 25, 50, 100, 250, 500, 1000)
    table: int = 100
    judged: int = 4
    starts: int = 5
    folder: int = 128
    folder_batch: int = 8
    folder_steps: int = 10
    matrix: int = 16384


QUICK = BenchScale(
    steps=5, batches=(1, 4), seconds=0.0, ladder=(5, 10, 20), table=10, judged=2, starts=1,
    folder=8, folder_batch=2, folder_steps=2, matrix=1024,
)  # fmt: skip
ON_GPU = BenchScale(judged=32, folder=4096, folder_batch=64, folder_steps=20)
"""For a device that is some hundred times as fast."""


@dataclass(frozen=True)
class Bench:
    """A model folder on a device at a scale; what it takes to measure there is loaded once, when first asked for."""

    folder: Path
    place: Place
    scale: BenchScale
    compiled: bool = False

    @cached_property
    def round_trips(self) -> Mapping[str, MakeRoundTrip]:
        """The round trips to compare, diffusers' first."""
        return all_round_trips(self.folder, self.place, self.compiled)

    @cached_property
    def images(self) -> Tensor:
        """As many as the largest batch needs, [n, 3, H, W] in [-1, 1]."""
        return gather(self.folder, self.place, max(*self.scale.batches, self.scale.judged))


class BenchSection(NamedTuple):
    """One table: its letter, its title, what its columns mean, and what measures it row by row."""

    letter: str
    title: str
    note: str
    measure: Callable[[Bench], Iterator[Row]]
