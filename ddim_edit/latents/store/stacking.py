"""Writing shards: latents into a file, and files into a larger one, piece by piece."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ddim_edit.io.atomic import atomic
from ddim_edit.latents.latent import Latent
from ddim_edit.latents.store.layout import FORMAT
from ddim_edit.latents.store.shard import KEY, OWN, Header, Shard

Blocks = Iterable[npt.NDArray[Any]]
_BYTES = {"F64": 8, "I64": 8, "U8": 1}


def stack(path: Path, latents: Mapping[str, Latent], failures: Mapping[str, str], shape: Sequence[int]) -> None:
    """Write latents of one recipe to one file, whole or not at all; reads back bit by bit.

    Args:
        path: where.
        latents: by the names of their pictures.
        failures: why other pictures have none, by name.
        shape: of one x, for a file without any.

    Errors: OSError as it comes.
    """
    rows, whole = list(latents.values()), [latent.recipe.to_json() for latent in latents.values()]
    records = [_record(name, latent, recipe) for (name, latent), recipe in zip(latents.items(), whole, strict=True)]
    shared = {name: value for name, value in whole[0].items() if name not in OWN} if whole else None
    unconverged = sum(not latent.report.get("converged", True) for latent in rows)
    paired = any(latent.delta is not None for latent in rows)
    header = Header(len(rows), tuple(shape), paired, sum(map(len, records)), shared, dict(failures), unconverged)
    blocks: dict[str, Blocks] = {
        "x": (latent.x.cpu().numpy() for latent in rows),
        "delta": (latent.delta.cpu().numpy() for latent in rows if latent.delta is not None),
        "offsets": [_offsets(list(map(len, records)))],
        "records": (np.frombuffer(record, np.uint8) for record in records),
    }
    _write(path, header, blocks)


def join(path: Path, parts: Sequence[Path]) -> Header:
    """Write the latents of several files, in order, to one; in memory there is one of them at a time.

    Errors: LatentError for a part that is broken, OSError as it comes.
    """
    headers = [Shard(part).header for part in parts]
    full = [part for part, header in zip(parts, headers, strict=True) if header.rows]

    def column(name: str) -> Iterator[npt.NDArray[Any]]:
        return (Shard(part).array(name) for part in full)

    lengths = [length for offsets in column("offsets") for length in np.diff(offsets)]
    header = _joined(headers)
    blocks: dict[str, Blocks] = {name: column(name) for name in ("x", "delta", "records")}
    _write(path, header, blocks | {"offsets": [_offsets(lengths)]})
    return header


def _joined(headers: Sequence[Header]) -> Header:
    return Header(
        rows=sum(header.rows for header in headers),
        shape=headers[0].shape,
        paired=any(header.paired for header in headers),
        extent=sum(header.extent for header in headers),
        recipe=next((header.recipe for header in headers if header.recipe is not None), None),
        failures={name: reason for header in headers for name, reason in header.failures.items()},
        unconverged=sum(header.unconverged for header in headers),
    )


def _record(name: str, latent: Latent, recipe: Mapping[str, Any]) -> bytes:
    own = {field: recipe[field] for field in OWN}
    return json.dumps({"name": name, "t": latent.t, "report": dict(latent.report), **own}, sort_keys=True).encode()


def _offsets(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _write(path: Path, header: Header, blocks: Mapping[str, Blocks]) -> None:
    """One safetensors file by its own layout; its writers want all tensors in memory at once."""
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {
        "x": ("F64", (header.rows, *header.shape)),
        "delta": ("F64", (header.rows, *header.shape)),
        "offsets": ("I64", (header.rows + 1,)),
        "records": ("U8", (header.extent,)),
    }
    names = [name for name in kinds if header.paired or name != "delta"]
    text = _preamble(header, {name: kinds[name] for name in names})
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for block in blocks[name]:
                file.write(np.ascontiguousarray(block).tobytes())


def _preamble(header: Header, kinds: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    told = {
        "format": FORMAT,
        "recipe": header.recipe,
        "failures": header.failures,
        "unconverged": header.unconverged,
    }
    table: dict[str, Any] = {"__metadata__": {KEY: json.dumps(told, sort_keys=True)}}
    end = 0
    for name, (dtype, shape) in kinds.items():
        start, end = end, end + _BYTES[dtype] * prod(shape)
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(table).encode()
    return text + b" " * (-len(text) % 8)
