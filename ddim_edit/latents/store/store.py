"""A store of latents, as one long immutable sequence and as a matrix."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt

from ddim_edit.errors import ArgumentError, LatentError
from ddim_edit.latents.provenance import Recipe
from ddim_edit.latents.store.files import ShardPlan, StoreFiles, is_store
from ddim_edit.latents.store.shard import Shard, ShardHeader

if TYPE_CHECKING:
    from ddim_edit.latents.latent import Latent

Item_co = TypeVar("Item_co", covariant=True)


class RowLocation(NamedTuple):
    """Where a latent is: the index of its shard among those that are there, and its row in it."""

    shard: int
    row: int


class SequenceView(Sequence[Item_co]):
    """A slice of a long sequence, whose items are read on access.

    Args:
        items: the sequence.
        rows: the indices of the slice.
    """

    def __init__(self, items: Sequence[Item_co], rows: range) -> None:
        self._items = items
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Item_co: ...
    @overload
    def __getitem__(self, index: slice) -> SequenceView[Item_co]: ...
    def __getitem__(self, index: int | slice) -> Item_co | SequenceView[Item_co]:
        chosen = self._rows[index]
        return SequenceView(self._items, chosen) if isinstance(chosen, range) else self._items[chosen]


class LatentStore(Sequence["Latent"]):
    """The latents of a store, each read on access.

    Opening it reads only the headers of the shards. Rows are in the order of the shards, and of the images in them; a
    slice is a view. Latents that are added after it was opened are not seen.

    Args:
        path: the folder.

    Attributes:
        path: the folder.
        complete: whether every shard that was planned is there.
        failures: why images have no latent, by name.
        unconverged: number of inversions that did not meet their tolerance.

    Raises:
        LatentError: the folder is not a store, or a shard is broken.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not is_store(self.path):
            raise LatentError(
                f"{path} is not a store of latents. Make one with `ddim-edit invert FOLDER -o NAME.latents`."
            )
        self._files = StoreFiles(self.path)
        self._plan = ShardPlan(self._files.plan)
        if not self._plan and any(self.path.glob("shard-*.safetensors")):
            raise LatentError(f"{self.path} has shards, but no list of their images. Make the store anew.")
        self._shards = [index for index in range(len(self._plan)) if self._files.shard(index).exists()]
        headers = [Shard(self._files.shard(index)).header for index in self._shards]
        self._starts = [0, *accumulate(header.rows for header in headers)]
        self._first = next((header for header in headers if header.rows), None)
        self.complete = len(self._shards) == len(self._plan)
        self.failures = {name: reason for header in headers for name, reason in header.failures.items()}
        self.unconverged = sum(header.unconverged for header in headers)
        self._open: Shard | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}  # an open file cannot be sent to another process

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Latent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Latent]: ...
    def __getitem__(self, index: int | slice) -> Latent | Sequence[Latent]:
        rows = range(len(self))
        if isinstance(index, slice):
            return SequenceView(self, rows[index])
        location = self.locate(rows[index])
        return self.shard(location.shard)[location.row]

    def __iter__(self) -> Iterator[Latent]:
        for index in range(self.shards):
            yield from self.shard(index)

    @property
    def shards(self) -> int:
        """The number of shards that are there."""
        return len(self._shards)

    @property
    def recipe(self) -> Recipe:
        """What the recipes of all latents share: without dequantisation and origin.

        Raises:
            LatentError: the store has no latent.
        """
        return Recipe.from_json({**(self._some_header.recipe or {}), "dequantise": [], "origin": {}})

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one x, (C, H, W).

        Raises:
            LatentError: the store has no latent.
        """
        return self._some_header.shape

    @property
    def names(self) -> Sequence[str]:
        """The name of the image of every row, relative to the folder that was inverted; read on access."""
        return _Names(self, self._plan)

    @property
    def x_rows(self) -> StoreRows:
        """All x as a float32 matrix [n, C * H * W] that is read slice by slice."""
        return StoreRows(self)

    def locate(self, row: int) -> RowLocation:
        """Return where a row is, 0 <= row < len."""
        shard = bisect_right(self._starts, row) - 1
        return RowLocation(shard, row - self._starts[shard])

    def shard(self, index: int) -> Shard:
        """Return one of the shards that are there. The last one used stays open."""
        path = self._files.shard(self.number(index))
        if self._open is None or self._open.path != path:
            self._open = Shard(path)
        return self._open

    def rows(self, index: int) -> int:
        """Return the number of latents in one of the shards that are there, without opening it."""
        return self._starts[index + 1] - self._starts[index]

    def number(self, index: int) -> int:
        """Return the number in the plan of one of the shards that are there."""
        return self._shards[index]

    @property
    def _some_header(self) -> ShardHeader:
        if self._first is None:
            raise LatentError(f"{self.path} has no latent yet. Run the command that makes it to its end.")
        return self._first


class StoreRows:
    """All x of a store, flat, as a float32 matrix [n, d] that is read slice by slice, and never written.

    Estimators of directions fit on it without having it in memory.

    Args:
        store: the store.
    """

    def __init__(self, store: LatentStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d), d = C * H * W."""
        return len(self), prod(self._store.shape)

    def __getitem__(self, rows: slice) -> npt.NDArray[np.float32]:
        """Return some rows as a new float32 array [m, d]; their file is mapped while they are read.

        Raises:
            ArgumentError: a slice with a step other than 1.
        """
        start, end, step = rows.indices(len(self))
        if step != 1:
            raise ArgumentError(f"Rows of a store are read in slices of step 1, not {step}. Slice first, then step.")
        values = np.empty((max(end - start, 0), self.shape[1]), np.float32)
        row = start
        while row < end:
            location = self._store.locate(row)
            read = self._store.shard(location.shard).rows(slice(location.row, location.row + end - row))
            values[row - start : row - start + len(read)] = read
            row += len(read)
        return values


class _Names(Sequence[str]):
    """The names of a store's rows, from its plan: those of a shard without those that failed."""

    def __init__(self, store: LatentStore, plan: ShardPlan) -> None:
        self._store = store
        self._plan = plan
        self._latest: tuple[int, list[str]] = (-1, [])

    def __len__(self) -> int:
        return len(self._store)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        rows = range(len(self))
        if isinstance(index, slice):
            return SequenceView(self, rows[index])
        location = self._store.locate(rows[index])
        return self._names_of(location.shard)[location.row]

    def __iter__(self) -> Iterator[str]:
        for index in range(self._store.shards):
            yield from self._names_of(index)

    def _names_of(self, index: int) -> list[str]:
        if self._latest[0] == index:
            return self._latest[1]
        number = self._store.number(index)
        rows = self._store.rows(index)
        names = [name for name in self._plan[number] if name not in self._store.failures]
        if len(names) != rows:
            raise LatentError(
                f"{self._store.path}: its list has {len(names)} images for the {rows} latents of shard {number}."
                " Make the store anew."
            )
        # Images are written by these names: none may lead out of their folder.
        for name in names:
            path = PurePosixPath(name)
            if not path.name or "\0" in name or path.is_absolute() or ".." in path.parts:
                raise LatentError(
                    f"{self._store.path}: {name!r:.60} in shard {number} is not a name inside of a folder."
                    " Make the store anew."
                )
        self._latest = index, names
        return names
