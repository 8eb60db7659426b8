"""A store of latents, as one long immutable sequence."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar, overload

from ddim_edit.errors import LatentError
from ddim_edit.latents.latent import Latent
from ddim_edit.latents.provenance import Recipe
from ddim_edit.latents.store.layout import Layout, is_store
from ddim_edit.latents.store.plan import Plan
from ddim_edit.latents.store.rows import StoreRows
from ddim_edit.latents.store.shard import Header, Shard

Item_co = TypeVar("Item_co", covariant=True)


class Place(NamedTuple):
    """Where a latent is: the number of its shard, and its row there."""

    shard: int
    row: int


class Picked(Sequence[Item_co]):
    """Some items of a long sequence, in an order of their own, each read when asked for."""

    def __init__(self, items: Sequence[Item_co], rows: range) -> None:
        self._items, self._rows = items, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Item_co: ...
    @overload
    def __getitem__(self, index: slice) -> "Picked[Item_co]": ...
    def __getitem__(self, index: int | slice) -> "Item_co | Picked[Item_co]":
        chosen = self._rows[index]
        return Picked(self._items, chosen) if isinstance(chosen, range) else self._items[chosen]


class LatentStore(Sequence[Latent]):
    """The latents of a store, each read when asked for; does not see what is added after it was opened.

    Opening reads the headers of the shards alone. Rows are in the order of shards, and of pictures in them; a slice is
    a view that reads as lazily.

    Args:
        path: the folder.

    Attributes:
        path: the folder.
        complete: whether every shard that was planned is there.
        failures: why pictures have no latent, by name.
        unconverged: how many inversions did not meet their tolerance.

    Raises:
        LatentError: no store, or a shard that is broken.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not is_store(self.path):
            wanted = "a store of latents"
            raise LatentError(
                wanted, f"{path}, which is none", "make one with `ddim-edit invert FOLDER -o NAME.latents`"
            )
        self._layout = Layout(self.path)
        self._plan = Plan(self._layout.plan)
        if not self._plan and any(self.path.glob("shard-*.safetensors")):
            given = f"none in {self.path}, whose shards are there"
            raise LatentError("the list of a store's pictures", given, "make the store anew")
        self._shards = [index for index in range(len(self._plan)) if self._layout.shard(index).exists()]
        headers = [Shard(self._layout.shard(index)).header for index in self._shards]
        self._starts = [0, *accumulate(header.rows for header in headers)]
        self._first = next((header for header in headers if header.rows), None)
        self.complete = len(self._shards) == len(self._plan)
        self.failures = {name: reason for header in headers for name, reason in header.failures.items()}
        self.unconverged = sum(header.unconverged for header in headers)
        self._open: Shard | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}  # an open file cannot be sent anywhere

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Latent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Latent]: ...
    def __getitem__(self, index: int | slice) -> Latent | Sequence[Latent]:
        rows = range(len(self))
        if isinstance(index, slice):
            return Picked(self, rows[index])
        place = self.place(rows[index])
        return self.shard(place.shard)[place.row]

    def __iter__(self) -> Iterator[Latent]:
        for index in range(self.shards):
            yield from self.shard(index)

    @property
    def shards(self) -> int:
        """How many shards are there."""
        return len(self._shards)

    @property
    def recipe(self) -> Recipe:
        """What the recipes of all its latents share: without dequantisation and origin.

        Raises:
            LatentError: a store without a latent.
        """
        return Recipe.from_json({**(self._some.recipe or {}), "dequantise": [], "origin": {}})

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one x, (C, H, W).

        Raises:
            LatentError: a store without a latent.
        """
        return self._some.shape

    @property
    def names(self) -> Sequence[str]:
        """The name of the picture of every row, relative to the folder that was inverted; read when asked for."""
        return _Names(self, self._plan)

    @property
    def x_rows(self) -> StoreRows:
        """All x as a float32 matrix [n, C * H * W] that is read slice by slice."""
        return StoreRows(self)

    def place(self, row: int) -> Place:
        """Where a row is, 0 <= row < len."""
        shard = bisect_right(self._starts, row) - 1
        return Place(shard, row - self._starts[shard])

    def shard(self, index: int) -> Shard:
        """One of the shards that are there, by its place among them; the latest one stays open."""
        path = self._layout.shard(self.number(index))
        if self._open is None or self._open.path != path:
            self._open = Shard(path)
        return self._open

    def rows(self, index: int) -> int:
        """How many latents one of the shards that are there has; opens nothing."""
        return self._starts[index + 1] - self._starts[index]

    def number(self, index: int) -> int:
        """The number in the plan of one of the shards that are there."""
        return self._shards[index]

    @property
    def _some(self) -> Header:
        if self._first is None:
            remedy = "run the command that makes it to its end"
            raise LatentError("a store with a latent in it", f"{self.path}, which has none", remedy)
        return self._first


class _Names(Sequence[str]):
    """The names of a store's rows, from its plan: those of a shard without those that failed."""

    def __init__(self, store: LatentStore, plan: Plan) -> None:
        self._store, self._plan = store, plan
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
            return Picked(self, rows[index])
        place = self._store.place(rows[index])
        return self._of(place.shard)[place.row]

    def __iter__(self) -> Iterator[str]:
        for index in range(self._store.shards):
            yield from self._of(index)

    def _of(self, index: int) -> list[str]:
        if self._latest[0] != index:
            failed = self._store.failures
            names = self._plan[self._store.number(index)]
            self._latest = index, [name for name in names if name not in failed]
            self._require_names(index, self._latest[1])
        return self._latest[1]

    def _require_names(self, index: int, names: Sequence[str]) -> None:
        wanted, remedy = "a name inside the folder for every latent", "make the store anew"
        rows, where = self._store.rows(index), f"shard {self._store.number(index)}"
        if len(names) != rows:
            raise LatentError(wanted, f"{len(names)} for the {rows} of {where}", remedy)
        if odd := [name for name in names if not _is_inside(name)]:
            raise LatentError(wanted, f"{odd[0]!r} in {where}", remedy)


def _is_inside(name: str) -> bool:
    """Whether it names a file below a folder: pictures are written by these names, and never elsewhere."""
    path = PurePosixPath(name)
    return bool(path.name) and "\0" not in name and not path.is_absolute() and ".." not in path.parts
