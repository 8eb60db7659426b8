"""A store of latents, as one long immutable sequence and as a matrix."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
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

    Rows are checked against the list of images when their shard is opened, so that none comes under another name.

    Args:
        path: the folder.
        on_damage: called with the file of a shard that cannot be read and the error; the shard is then left out.
            Without it, the error is raised.

    Attributes:
        path: the folder.
        missing: the numbers of the shards that were planned and are not there.
        complete: whether every shard that was planned is there and can be read, and no other is there.
        failures: why images have no latent, by name.
        unconverged: number of inversions that did not meet their tolerance.

    Raises:
        LatentError: the folder is not a store, or a shard is broken.
    """

    def __init__(self, path: str | Path, on_damage: Callable[[Path, LatentError], object] | None = None) -> None:
        self.path = Path(path)
        if not is_store(self.path):
            raise LatentError(
                f"{path} is not a store of latents. Make one with `ddim-edit invert FOLDER -o NAME.latents`."
            )
        self._files = StoreFiles(self.path)
        # Looked for before the list is read, which a run extends before it writes what was added.
        present = sorted(self.path.glob("shard-[0-9]*.safetensors"))
        self._plan = ShardPlan(self._files.plan)
        if not self._plan and present:
            raise LatentError(f"{self.path} has shards, but no list of their images. Make the store anew.")
        self._shards: list[int] = []
        self.missing: list[int] = []
        headers: list[ShardHeader] = []
        for index in range(len(self._plan)):
            file = self._files.shard(index)
            if not file.exists():
                self.missing.append(index)
                continue
            try:
                header = Shard(file).header
                self._require_planned(index, header)
                if headers:
                    _require_alike(file, header, headers)
            except LatentError as error:
                if on_damage is None:
                    raise
                on_damage(file, error)
            else:
                self._shards.append(index)
                headers.append(header)
        planned = {self._files.shard(index) for index in range(len(self._plan))}
        strangers = [file for file in present if file not in planned]
        if strangers:
            more = f", nor {len(strangers) - 1:,} more" if len(strangers) > 1 else ""
            unknown = LatentError(
                f"{strangers[0]}: the list of images has no such shard{more}. Was the list cut short, or is the file of"
                " another store? Run the command that makes the store again, or move the file away."
            )
            if on_damage is None:
                raise unknown
            on_damage(strangers[0], unknown)
        self._starts = [0, *accumulate(header.rows for header in headers)]
        self._first = next((header for header in headers if header.rows), None)
        self.complete = len(self._shards) == len(self._plan) and not strangers
        self.failures = {name: reason for header in headers for name, reason in header.failures.items()}
        self.unconverged = sum(header.unconverged for header in headers)
        self._open: Shard | None = None
        self._checked: dict[int, set[int]] = {}
        self._latest_names: tuple[int, list[str]] = (-1, [])

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
    def paired(self) -> bool:
        """Whether its latents have a second state, delta.

        Raises:
            LatentError: the store has no latent.
        """
        return "delta" in self._some_header.parts

    @property
    def names(self) -> Sequence[str]:
        """The name of the image of every row, relative to the folder that was inverted; read on access."""
        return _Names(self)

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
        path = self.file(index)
        if self._open is None or self._open.path != path:
            shard = Shard(path, self._checked.setdefault(index, set()))
            for row, wanted in enumerate(self.shard_names(index)):
                try:
                    name = shard.record(row)["name"]
                    if name != wanted:
                        shard.require_whole(row)
                except LatentError:
                    continue  # only this row is damaged, and refused when it is read
                if name != wanted:
                    raise LatentError(
                        f"{path}: row {row} is of {name!r:.80}, where the list of images has {wanted!r:.80}. Was the"
                        " file exchanged with another? Delete it and run the command that makes the store again."
                    )
            self._open = shard
        return self._open

    def file(self, index: int) -> Path:
        """Return the file of one of the shards that are there."""
        return self._files.shard(self.number(index))

    def shard_names(self, index: int) -> list[str]:
        """Return the names of the images of one of the shards that are there: those of the plan that did not fail.

        Raises:
            LatentError: the list does not fit the shard, or a name leads out of the folder.
        """
        if self._latest_names[0] != index:
            number = self.number(index)
            names = [name for name in self._plan[number] if name not in self.failures]
            # Images are written by these names: none may lead out of their folder.
            for name in names:
                path = PurePosixPath(name)
                if not path.name or "\0" in name or path.is_absolute() or ".." in path.parts:
                    raise LatentError(
                        f"{self.path}: {name!r:.60} in shard {number} is not a name inside of a folder."
                        " Make the store anew."
                    )
            self._latest_names = index, names
        return self._latest_names[1]

    def rows(self, index: int) -> int:
        """Return the number of latents in one of the shards that are there, without opening it."""
        return self._starts[index + 1] - self._starts[index]

    def number(self, index: int) -> int:
        """Return the number in the plan of one of the shards that are there."""
        return self._shards[index]

    def _require_planned(self, index: int, header: ShardHeader) -> None:
        """Refuse a shard that has another number of images than were planned for it."""
        planned = self._plan[index]
        foreign = sorted(header.failures.keys() - set(planned))
        if foreign or len(planned) - len(header.failures) != header.rows:
            found = f"{header.rows} latents" + (f" and a failure of {foreign[0]!r:.80}" if foreign else "")
            raise LatentError(
                f"{self._files.shard(index)}: it has {found}, which do not fit the {len(planned)} images that the list"
                " has for it. Delete it and run the command that makes the store again."
            )

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
    """The names of a store's rows, read on access."""

    def __init__(self, store: LatentStore) -> None:
        self._store = store

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
        return self._store.shard_names(location.shard)[location.row]

    def __iter__(self) -> Iterator[str]:
        for index in range(self._store.shards):
            yield from self._store.shard_names(index)


def _require_alike(file: Path, header: ShardHeader, others: Sequence[ShardHeader]) -> None:
    """Refuse a shard whose latents were made in another way than those of the others, as one of another store is."""
    first = next((other for other in others if other.rows), None)
    if first is None or not header.rows:
        return
    same = (header.recipe, header.shape, header.parts) == (first.recipe, first.shape, first.parts)
    if not same:
        mine, theirs = header.recipe or {}, first.recipe or {}
        differing = next((name for name in mine if mine[name] != theirs.get(name)), "shape")
        raise LatentError(
            f"{file}: its latents differ in {differing} from those of the other shards. Is it of another store? Delete"
            " it and run the command that makes the store again."
        )
