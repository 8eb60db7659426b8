"""What there is to do, as plain data that any process can be sent, and what comes back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ddim_edit.config import InversionConfig
from ddim_edit.images import CentreSquare, Crop

PLAIN, CENTRE = InversionConfig(), CentreSquare()


@dataclass(frozen=True)
class Job:
    """How pictures are to be inverted, and into which store; plain data.

    Attributes:
        root: the folder that the pictures' names are relative to.
        store: the folder of the store.
        model, device, dtype, size, offline, compiled: as for `load_model`.
        batch_size: how many pictures go through the network at once.
        config: how to invert.
        crop: what to keep of a picture whose shape is not the model's.
        threads: of the network on a CPU, which decide the last bits there; None for as many as the process has.
    """

    root: Path
    store: Path
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    size: tuple[int, int] | None = None
    offline: bool = False
    compiled: bool = False
    batch_size: int = 8
    config: InversionConfig = PLAIN
    crop: Crop = CENTRE
    threads: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What of it decides the bytes of the store, whatever the model turns out to be, as JSON types."""
        grid = self.config.grid
        plain = {
            "grid": grid if isinstance(grid, str) else {"name": grid.name, "times": list(grid.times)},
            "condition": self.config.condition.as_dict(),
        }
        told = {} if self.threads is None else {"threads": self.threads}
        crop = self.crop.as_dict()
        return {"batch_size": self.batch_size, "crop": crop, "method": asdict(self.config) | plain, **told}


@dataclass(frozen=True)
class Filled:
    """A shard that is finished: its index, its rows, why pictures are missing, and how many did not converge."""

    index: int
    rows: int
    failures: Mapping[str, str]
    unconverged: int = 0


Engine: TypeAlias = Callable[[Job, Sequence[int]], Iterator[Filled]]
"""Fills the shards of these indices, in any order, and tells of each once it is there."""
