"""One shard of a store: many latents in one memory-mapped file."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ddim_edit.errors import LatentError
from ddim_edit.io import schema
from ddim_edit.io.schema import find_problem, parse_json
from ddim_edit.latents.latent import Latent
from ddim_edit.latents.provenance import Recipe
from ddim_edit.latents.store.layout import FORMAT

KEY = "ddim-edit store"
OWN = ("dequantise", "origin")
"""What a latent's recipe has of its own; the rest is the same in all of a store."""


_ENTRIES = {
    "recipe": schema.optional(schema.table),
    "failures": schema.map_of(schema.text),
    "unconverged": schema.count,
}
_RECORD = {"t": schema.number, "report": schema.table, **dict.fromkeys(OWN, schema.anything)}
_KINDS = {"x": "F64", "delta": "F64", "offsets": "I64", "records": "U8"}


class Header(NamedTuple):
    """What a shard says of itself.

    Attributes:
        rows: how many latents.
        shape: of one x.
        paired: whether they have a delta.
        extent: bytes of all records.
        recipe: what their recipes share, or None without a latent.
        failures: why pictures are missing, by name.
        unconverged: how many inversions did not meet their tolerance.
    """

    rows: int
    shape: tuple[int, ...]
    paired: bool
    extent: int
    recipe: Mapping[str, Any] | None
    failures: Mapping[str, str]
    unconverged: int


class Shard:
    """The latents of one file, each read when asked for; opening it reads the header alone.

    Args:
        path: a file that `stack` or `join` wrote.

    Raises:
        LatentError: another kind of file, or one that is cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "pt") as file:
                self.header = _header(file)
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            given = f"{path} ({'no such file' if isinstance(error, FileNotFoundError) else str(error).rstrip('.')})"
            raise LatentError("a whole shard of a store", given, "delete it and run the same command again") from error

    def __len__(self) -> int:
        return self.header.rows

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one x."""
        return self.header.shape

    def __getitem__(self, row: int) -> Latent:
        """The latent of a row, 0 <= row < len."""
        record = self.record(row)
        recipe = Recipe.from_json({**(self.header.recipe or {}), **{name: record[name] for name in OWN}})
        # Copied, so that a latent neither keeps the whole file mapped nor can change in it.
        delta = self._file.get_slice("delta")[row].clone() if self.header.paired else None
        return Latent(self._file.get_slice("x")[row].clone(), record["t"], recipe, delta, record["report"])

    def __iter__(self) -> Iterator[Latent]:
        return (self[row] for row in range(len(self)))

    def record(self, row: int) -> dict[str, Any]:
        """What a latent says of itself: name, t, report, and its part of the recipe.

        Raises:
            LatentError: it is damaged.
        """
        start, end = self._file.get_slice("offsets")[row : row + 2].tolist()
        try:
            record = parse_json(self._bytes(start, end))
        except ValueError:
            record = None
        if not isinstance(record, dict) or find_problem(record, _RECORD):
            remedy = "delete it and run the same command again"
            raise LatentError("the record of a latent", f"{self.path}, whose row {row} has none", remedy)
        return record

    def _bytes(self, start: int, end: int) -> bytes:
        """Part of the records; nothing where there is no such part."""
        if not 0 <= start <= end <= self.header.extent:
            return b""
        found: Tensor = self._file.get_slice("records")[start:end]
        return found.numpy().tobytes()

    def array(self, name: str) -> npt.NDArray[Any]:
        """All of x, delta, offsets or records, as a view of the memory-mapped file."""
        tensor: Tensor = self._file.get_tensor(name)
        return tensor.numpy()

    def rows(self, rows: slice) -> npt.NDArray[np.float32]:
        """The x of some rows, flat, as float32 [m, d]."""
        x: Tensor = self._file.get_slice("x")[rows]
        return x.flatten(1).float().numpy()

    @cached_property
    def _file(self) -> Any:
        return safe_open(self.path, "pt")


def _header(file: Any) -> Header:
    record, names = parse_json(file.metadata()[KEY]), set(file.keys())
    if record["format"] != FORMAT:
        given = f"one of format {record['format']}"
        raise LatentError(f"a shard of format {FORMAT}", given, "use the version of ddim-edit that wrote it")
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    kinds = {name: file.get_slice(name).get_dtype() for name in names}
    count, *shape = shapes["x"]
    (extent,) = shapes["records"]
    same = shapes.get("delta", shapes["x"]) == shapes["x"] and shapes["offsets"] == (count + 1,)
    wrong = find_problem(record, _ENTRIES)
    if wrong or not same or any(_KINDS.get(name) != kind for name, kind in kinds.items()):
        given = f"one with {wrong or 'tensors of other kinds or shapes'}"
        raise LatentError("a shard as this program writes them", given, "delete it and run the same command again")
    told = record["recipe"], record["failures"], record["unconverged"]
    return Header(count, tuple(shape), "delta" in names, extent, *told)
