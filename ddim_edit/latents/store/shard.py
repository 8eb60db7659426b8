"""Shards of a store: many latents in one memory-mapped safetensors file.

A shard has the tensors x [N, C, H, W] and, for two-state solvers, delta in float64, for grids that start above the
image detail in float32, the JSON records of its latents as bytes, one after the other, and the offsets [N + 1] at
which they begin. What their recipes share is in the header. The checksums [N + 1] are those of the header's text and
of each row, that is of its tensors and record. A row is checked when it is read, so that a damaged one costs no other.
They are CRC-32, which took 0.5 seconds for a gigabyte where it was measured; SHA-256 took 1.1 and BLAKE2b 3.4, and
reading from disk 0.8.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ddim_edit.errors import LatentError
from ddim_edit.io import schema
from ddim_edit.io.atomic import atomic
from ddim_edit.io.regular import require_regular
from ddim_edit.io.schema import parse_json
from ddim_edit.latents.provenance import Recipe
from ddim_edit.latents.store.files import FORMAT

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.latents.latent import Latent

KEY = "ddim-edit store"
PARTS = ("x", "delta", "detail")
"""The tensors of latents, all of one shape."""
OWN = ("dequantise", "origin")
"""The entries of a recipe that each latent has for itself; the others are the same in all of a store."""
_REMEDY = "Delete it and run the same command again."
_HEADER = {
    "format": schema.one_of(FORMAT),
    "recipe": schema.optional(schema.table),
    "failures": schema.map_of(schema.text),
    "unconverged": schema.count,
}
_RECORD = {"name": schema.text, "t": schema.number, "report": schema.table, **dict.fromkeys(OWN, schema.anything)}
_DTYPES = {"x": "F64", "delta": "F64", "detail": "F32", "offsets": "I64", "records": "U8", "checksums": "I64"}
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "U8": 1}

Blocks = Iterable[npt.NDArray[Any]]


class ShardHeader(NamedTuple):
    """What a shard says of itself.

    Attributes:
        rows: number of latents.
        shape: of one x, (C, H, W).
        parts: the names of the latents' tensors, in the order of `PARTS`.
        extent: number of bytes of all records.
        recipe: what their recipes share, or None without a latent.
        failures: why images are missing, by name.
        unconverged: number of inversions that did not meet their tolerance.
    """

    rows: int
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    extent: int
    recipe: Mapping[str, Any] | None
    failures: Mapping[str, str]
    unconverged: int


class Shard:
    """The latents of one file, each read on access; opening it reads the header alone.

    Args:
        path: a file that `write_shard` or `join_shards` wrote.
        checked: the rows that were found to be whole before, to which those are added that are read.

    Raises:
        LatentError: another kind of file, or one that is cut short.
    """

    def __init__(self, path: Path, checked: set[int] | None = None) -> None:
        self.path = path
        self._checked = set[int]() if checked is None else checked
        require_regular(path, LatentError)
        try:
            with safe_open(path, "np") as file:  # the header alone, for which torch is not needed
                self.header = _read_header(file)
        except FileNotFoundError as error:
            raise LatentError(f"{path}: no such file. {_REMEDY}") from error
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, LatentError) as error:
            raise LatentError(f"{path}: not a shard of a store: {str(error).rstrip('.')}. {_REMEDY}") from error

    def __len__(self) -> int:
        return self.header.rows

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one x."""
        return self.header.shape

    def __getitem__(self, row: int) -> Latent:
        """Return the latent of a row, 0 <= row < len."""
        from ddim_edit.latents.latent import Latent, find_contradiction

        self.require_whole(row)
        record = self.record(row)
        try:
            recipe = Recipe.from_json({**(self.header.recipe or {}), **{name: record[name] for name in OWN}})
        except LatentError as error:
            raise LatentError(f"{self.path}: row {row}: {error}") from error
        if problem := find_contradiction(recipe, record["t"], self.header.parts):
            raise LatentError(f"{self.path}: row {row}: {problem} {_REMEDY}")
        # Copied, so that a latent neither keeps the whole file mapped nor can change in it.
        parts: dict[str, Tensor] = {name: self._file.get_slice(name)[row].clone() for name in self.header.parts}
        return Latent(t=record["t"], recipe=recipe, report=record["report"], **parts)

    def __iter__(self) -> Iterator[Latent]:
        return (self[row] for row in range(len(self)))

    def require_whole(self, row: int) -> None:
        """Refuse a row whose numbers or record are not those that were written; each is checked once.

        Raises:
            LatentError: it is damaged.
        """
        if row in self._checked:
            return
        tensors = [self.array(name)[row] for name in self.header.parts]
        if _checksum(tensors, self._record_bytes(row)) != self.array("checksums")[row + 1]:
            raise LatentError(
                f"{self.path}: row {row} is damaged: its checksum is another one. Run the command that makes the store"
                " again, with --verify."
            )
        self._checked.add(row)

    def record(self, row: int) -> dict[str, Any]:
        """Return the record of a latent: name, t, report, and its part of the recipe.

        Raises:
            LatentError: it is damaged.
        """
        try:
            record = parse_json(self._record_bytes(row))
        except ValueError as error:
            raise LatentError(f"{self.path}: the record of row {row} is damaged. {_REMEDY}") from error
        return schema.validate(record, _RECORD, f"{self.path}: row {row}", LatentError, _REMEDY)

    def _record_bytes(self, row: int) -> bytes:
        start, end = self.array("offsets")[row : row + 2].tolist()
        if not 0 <= start <= end <= self.header.extent:
            return b""
        return self.array("records")[start:end].tobytes()

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return all of x, delta, detail, offsets, records or checksums, as a view of the memory-mapped file."""
        if name not in self._arrays:
            tensor: Tensor = self._file.get_tensor(name)
            self._arrays[name] = tensor.numpy()
        return self._arrays[name]

    def rows(self, rows: slice) -> npt.NDArray[np.float32]:
        """Return the x of some rows, flat, as float32 [m, d].

        Raises:
            LatentError: one of them is damaged.
        """
        for row in range(*rows.indices(len(self))):
            self.require_whole(row)
        x: Tensor = self._file.get_slice("x")[rows]
        return x.flatten(1).float().numpy()

    @cached_property
    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {}

    @cached_property
    def _file(self) -> Any:
        return safe_open(self.path, "pt")


def _read_header(file: Any) -> ShardHeader:
    text = file.metadata()[KEY]
    record = schema.validate(parse_json(text), _HEADER, "its header", LatentError)
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name in shapes:
        if _DTYPES.get(name) != file.get_slice(name).get_dtype():
            raise LatentError(f"it has a tensor {name} of another kind")
    count, *shape = shapes["x"]
    (extent,) = shapes["records"]
    parts = tuple(name for name in PARTS if name in shapes)
    if any(shapes[name] != shapes["x"] for name in parts) or shapes["offsets"] != (count + 1,):
        raise LatentError("its tensors are of different lengths")
    if shapes["checksums"] != (count + 1,) or file.get_slice("checksums")[:1].item() != zlib.crc32(text.encode()):
        raise LatentError("its header is damaged: its checksum is another one")
    return ShardHeader(
        rows=count,
        shape=tuple(shape),
        parts=parts,
        extent=extent,
        recipe=record["recipe"],
        failures=record["failures"],
        unconverged=record["unconverged"],
    )


def write_shard(path: Path, latents: Mapping[str, Latent], failures: Mapping[str, str], shape: Sequence[int]) -> None:
    """Write latents of one recipe to one file, whole or not at all; they read back bit by bit.

    Args:
        path: the file.
        latents: by the names of their images.
        failures: why other images have none, by name.
        shape: of one x, for a file without any.

    Raises:
        OSError: the file cannot be written.
    """
    rows = list(latents.values())
    recipes = [latent.recipe.to_json() for latent in rows]
    records: list[bytes] = []
    checksums: list[int] = []
    for (name, latent), recipe in zip(latents.items(), recipes, strict=True):
        own = {entry: recipe[entry] for entry in OWN}
        record = {"name": name, "t": latent.t, "report": dict(latent.report), **own}
        records.append(json.dumps(record, sort_keys=True).encode())
        checksums.append(_checksum([part.cpu().numpy() for part in latent.parts.values()], records[-1]))
    lengths = [len(record) for record in records]
    header = ShardHeader(
        rows=len(rows),
        shape=tuple(shape),
        parts=tuple(rows[0].parts) if rows else PARTS[:1],
        extent=sum(lengths),
        recipe={name: value for name, value in recipes[0].items() if name not in OWN} if recipes else None,
        failures=dict(failures),
        unconverged=sum(not latent.report.get("converged", True) for latent in rows),
    )
    blocks: dict[str, Blocks] = {
        "offsets": [_offsets(lengths)],
        "records": (np.frombuffer(record, np.uint8) for record in records),
        "checksums": [np.array(checksums, np.int64)],
    }
    for name in header.parts:
        blocks[name] = [latent.parts[name].cpu().numpy() for latent in rows]
    _write(path, header, blocks)


def join_shards(path: Path, parts: Sequence[Path]) -> ShardHeader:
    """Write the latents of several files, in order, to one; one of them at a time is in memory.

    Returns:
        The header of the joined file.

    Raises:
        LatentError: a part is broken.
        OSError: the file cannot be written.
    """
    headers = [Shard(part).header for part in parts]
    full = [part for part, header in zip(parts, headers, strict=True) if header.rows]

    def column(name: str) -> Iterator[npt.NDArray[Any]]:
        return (Shard(part).array(name) for part in full)

    joined = ShardHeader(
        rows=sum(header.rows for header in headers),
        shape=headers[0].shape,
        parts=next((header.parts for header in headers if header.rows), PARTS[:1]),
        extent=sum(header.extent for header in headers),
        recipe=next((header.recipe for header in headers if header.recipe is not None), None),
        failures={name: reason for header in headers for name, reason in header.failures.items()},
        unconverged=sum(header.unconverged for header in headers),
    )
    lengths = [length for offsets in column("offsets") for length in np.diff(offsets)]
    blocks: dict[str, Blocks] = {name: column(name) for name in (*joined.parts, "records")}
    # Not computed anew, so that what was damaged since it was written is found to be.
    checksums = (each[1:] for each in column("checksums"))
    _write(path, joined, {**blocks, "offsets": [_offsets(lengths)], "checksums": checksums})
    return joined


def _checksum(tensors: Iterable[npt.NDArray[Any]], record: bytes) -> int:
    """Return the checksum of a row."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(np.ascontiguousarray(tensor).data, found)
    return zlib.crc32(record, found)


def _offsets(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _write(path: Path, header: ShardHeader, blocks: Mapping[str, Blocks]) -> None:
    """Write a safetensors file block by block: the writers of that package want all tensors in memory at once.

    Args:
        path: the file.
        header: its header.
        blocks: of each tensor; the checksums are those of the rows, and that of the header is put before them.
    """
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(header.parts, (header.rows, *header.shape))
    shapes["offsets"] = (header.rows + 1,)
    shapes["records"] = (header.extent,)
    shapes["checksums"] = (header.rows + 1,)
    entries = {"recipe": header.recipe, "failures": header.failures, "unconverged": header.unconverged}
    metadata = json.dumps({"format": FORMAT, **entries}, sort_keys=True)
    table: dict[str, Any] = {"__metadata__": {KEY: metadata}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + _BYTES[_DTYPES[name]] * prod(shape)
        table[name] = {"dtype": _DTYPES[name], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned when the file is mapped
    first = np.array([zlib.crc32(metadata.encode())], np.int64)
    blocks = {**blocks, "checksums": chain([first], blocks["checksums"])}
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in shapes:
            for block in blocks[name]:
                file.write(np.ascontiguousarray(block).tobytes())
