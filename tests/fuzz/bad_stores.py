"""Stores that can be neither read nor gone on with."""

import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from .. import tiny
from .kit import Kit, Line, Make, Tensors, retensored
from .spoiling import METADATA, TENSORS, TEXTS, Spoil, share, with_metadata


def store(file: str, spoil: Spoil, command: str = "decode") -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        copied = Path(shutil.copytree(kit.store, folder / "s.latents"))
        (copied / file).write_bytes(spoil((copied / file).read_bytes()))
        return [command, copied, *(("-o", folder / "out") if command == "decode" else ())]

    return make


SHARD = "shard-00000.safetensors"
SHARD_FIELDS: Mapping[str, Any] = {"format": 1, "recipe": [], "failures": [1], "unconverged": "u"}


def store_cases() -> Iterator[tuple[str, Make]]:
    key = "ddim-edit store"
    for name, spoil in {**share(TENSORS, 2, 6), **share(METADATA, 2, 3)}.items():
        yield f"shard {name}", store(SHARD, spoil, "show")
    yield "shard without a recipe", store(SHARD, with_metadata(key, lambda record: record.pop("recipe")), "show")
    for name, value in SHARD_FIELDS.items():
        change = with_metadata(key, lambda record, name=name, value=value: record.update({name: value}))
        yield f"shard {name} {value!r}", store(SHARD, change, "show")
    for name, change in SHARD_TENSORS.items():
        yield f"shard with {name}", store(SHARD, retensored(with_checksums(change)))
    for name, spoil in PLANS.items():
        yield f"store's pictures {name}", store("pictures.jsonl", spoil)


PLANS: Mapping[str, Spoil] = {
    **share(TEXTS, 0, 6),
    "too few": lambda text: b'["a.png"]\n',
    "too many": lambda text: b'["a.png", "b.png", "c.png"]\n',
    "above the folder": lambda text: b'["../a.png", "b.png"]\n',
    "anywhere": lambda text: b'["/a/b.png", "b.png"]\n',
    "with NUL": lambda text: b'["a\\u0000.png", "b.png"]\n',
    "without names": lambda text: b'["", "b.png"]\n',
    "in lists": lambda text: b'[["a.png"], ["b.png"]]\n',
}


def record_of(change: Callable[[dict[str, Any]], object]) -> Callable[[Tensors], None]:
    """Spoils what the latents of a shard say of themselves."""

    def spoil(tensors: Tensors) -> None:
        blob = bytes(tensors["records"].numpy())
        offsets, records = [0], b""
        for start, end in pairwise(tensors["offsets"].tolist()):
            record = json.loads(blob[start:end])
            change(record)
            records += json.dumps(record).encode()
            offsets.append(len(records))
        tensors["offsets"] = torch.tensor(offsets)
        tensors["records"] = torch.frombuffer(bytearray(records), dtype=torch.uint8)

    return spoil


def with_checksums(change: Callable[[Tensors], object]) -> Callable[[Tensors], None]:
    """Spoils a shard as a wrong program would, which makes its checksums of what it writes."""

    def spoil(tensors: Tensors) -> None:
        change(tensors)
        if {"x", "offsets", "records", "checksums"} <= tensors.keys():
            blob = bytes(tensors["records"].numpy().astype("uint8"))
            for row, x in enumerate(tensors["x"][: len(tensors["checksums"]) - 1]):
                start, end = [*tensors["offsets"].long().tolist(), 0, 0][row : row + 2]
                record = blob[start:end] if 0 <= start <= end <= len(blob) else b""
                tensors["checksums"][row + 1] = zlib.crc32(record, zlib.crc32(x.contiguous().numpy().tobytes()))

    return spoil


SHARD_TENSORS: Mapping[str, Callable[[Tensors], object]] = {
    "no x": lambda tensors: tensors.pop("x"),
    "no offsets": lambda tensors: tensors.pop("offsets"),
    "no records": lambda tensors: tensors.pop("records"),
    "x flat": lambda tensors: tensors.update(x=tensors["x"].flatten()),
    "x of another size": lambda tensors: tensors.update(x=tensors["x"][..., :8].contiguous()),
    "x of whole numbers": lambda tensors: tensors.update(x=tensors["x"].long()),
    "offsets beyond the end": lambda tensors: tensors["offsets"].add_(10**9),
    "offsets below zero": lambda tensors: tensors["offsets"].sub_(10**6),
    "offsets backwards": lambda tensors: tensors.update(offsets=tensors["offsets"].flip(0).contiguous()),
    "offsets of fractions": lambda tensors: tensors.update(offsets=tensors["offsets"].double()),
    "more rows than names": lambda tensors: tensors.update(
        x=tensors["x"].repeat(2, 1, 1, 1), offsets=tensors["offsets"][[0, 1, 2, 2, 2]].contiguous()
    ),
    "no checksums": lambda tensors: tensors.pop("checksums"),
    "too few checksums": lambda tensors: tensors.update(checksums=tensors["checksums"][:1].clone()),
    "checksums of fractions": lambda tensors: tensors.update(checksums=tensors["checksums"].double()),
    "too few offsets": lambda tensors: tensors.update(offsets=tensors["offsets"][:1].clone()),
    "records of zeros": lambda tensors: tensors["records"].zero_(),
    "records no JSON": lambda tensors: tensors["records"].fill_(ord("[")),
    "records of fractions": lambda tensors: tensors.update(records=tensors["records"].float()),
    "a record without t": record_of(lambda record: record.pop("t")),
    "a record without origin": record_of(lambda record: record.pop("origin")),
    "a record whose t is a text": record_of(lambda record: record.update(t="T")),
    "a record whose report is a list": record_of(lambda record: record.update(report=[1])),
}


def settings_cases() -> Iterator[tuple[str, Make]]:
    """What a run that goes on reads."""
    for index, file in enumerate(("store.json", "model.json", "pictures.jsonl"), 1):
        for name, spoil in share(TEXTS, index, 6).items():
            yield f"going on with {file} {name}", going_on(file, spoil)


def going_on(file: str, spoil: Spoil) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        copied = Path(shutil.copytree(kit.store, folder / "s.latents"))
        (copied / file).write_bytes(spoil((copied / file).read_bytes()))
        files = [tiny.save_picture(folder / f"{name}.png", seed) for seed, name in enumerate("abc")]
        return ["invert", *files, "-o", copied, "--steps", "2"]

    return make
