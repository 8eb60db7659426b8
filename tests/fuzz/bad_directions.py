"""Directions that no command takes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import tiny
from .kit import DIRECTION, Kit, Line, Make, made, retensored
from .spoiling import METADATA, TENSORS, Spoil, share, with_metadata


def direction(spoil: Spoil) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        (folder / "shelf").mkdir()
        (folder / "shelf" / f"old{DIRECTION}").write_bytes(spoil(kit.direction))
        return ["directions", folder / "shelf"]

    return make


def edited(spoil: Spoil) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        file = folder / f"old{DIRECTION}"
        file.write_bytes(spoil(kit.direction))
        return ["edit", tiny.save_picture(folder / "a.png"), "--set", f"{file}=1", "-o", folder / "out"]

    return make


DIRECTION_FIELDS: Mapping[str, list[Any]] = {
    "format": [2],
    "name": [3],
    "intercept": [None, float("nan")],
    "mean": ["much"],
    "sd": [0.0, -1.0, 10**400],
    "recipe": ["r"],
    "times": [["a"], [[1.0]], [float("nan")]],
    "report": [{"auc": "high"}],
}


def direction_cases() -> Iterator[tuple[str, Make]]:
    key = "ddim-edit direction"
    for name, spoil in {**share(TENSORS, 1, 6), **share(METADATA, 1, 3)}.items():
        yield f"direction {name}", direction(spoil)
    yield "direction without a name", direction(with_metadata(key, lambda record: record.pop("name")))
    for name, values in DIRECTION_FIELDS.items():
        for value in values:
            changed = with_metadata(key, lambda record, name=name, value=value: record.update({name: value}))
            yield f"direction {name} {json.dumps(value)[:30]}", direction(changed)
    for name, value in (("times", None), ("schedule", 3), ("condition", [None]), ("origin", "a")):
        changed = with_metadata(key, lambda record, name=name, value=value: record["recipe"].update({name: value}))
        yield f"direction recipe {name} {value!r}", edited(changed)
    zeros = retensored(lambda tensors: tensors.update(vector=torch.zeros_like(tensors["vector"])))
    yield "direction of zeros", edited(zeros)
    nan = retensored(lambda tensors: tensors["vector"].fill_(float("nan")))
    yield "direction of nan", edited(nan)
    whole = retensored(lambda tensors: tensors.update(vector=tensors["vector"].flatten()))
    yield "direction flat", edited(whole)
    yield "direction of integers", edited(retensored(lambda tensors: tensors.update(vector=tensors["vector"].int())))
    yield "direction of another shape", edited(retensored(lambda tensors: tensors.update(vector=torch.ones(3, 2, 2))))
    yield "direction nowhere", lambda kit, folder: ["directions", folder / "absent"]
    yield "direction a folder of none", lambda kit, folder: ["directions", made(folder / "empty")]
    yield "direction of an unknown name", lambda kit, folder: [
        "edit", tiny.save_picture(folder / "a.png"), "--set", "beard=1", "-o", folder / "out"
    ]  # fmt: skip
