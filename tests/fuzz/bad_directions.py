"""Directions that no command takes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import tiny
from .bad_latents import NUMBERS, TEXTS_WANTED
from .kit import DIRECTION, Kit, Line, Make, made, retensored
from .spoiling import HEADED, Spoil, with_metadata


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
    "format": [None, 0, 2, "1", []],
    "name": TEXTS_WANTED,
    "intercept": [*NUMBERS, float("nan"), float("inf")],
    "mean": [*NUMBERS, float("nan")],
    "sd": [*NUMBERS, 0.0, -1.0, float("nan"), float("inf")],
    "recipe": [None, 3, "r", [], {}],
    "times": [None, 3, "t", {}, ["a"], [None], [[1.0]], [float("nan")]],
    "report": [None, 3, "good", [], {"auc": "high"}, {"auc": [0.9]}],
}


def direction_cases() -> Iterator[tuple[str, Make]]:
    key = "ddim-edit direction"
    for name, spoil in HEADED.items():
        yield f"direction {name}", direction(spoil)
    for name, values in DIRECTION_FIELDS.items():
        without = with_metadata(key, lambda record, name=name: record.pop(name))
        yield f"direction without {name}", direction(without)
        for value in values:
            changed = with_metadata(key, lambda record, name=name, value=value: record.update({name: value}))
            yield f"direction {name} {json.dumps(value)[:30]}", direction(changed)
    for name in ("times", "schedule", "condition", "origin"):
        for value in (None, 3, [None], "a"):
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
