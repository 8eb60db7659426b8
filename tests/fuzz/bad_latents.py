"""Latents that no command takes."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import tiny
from .kit import LATENT, Kit, Line, Make, made, retensored
from .spoiling import HEADED, Spoil, with_metadata


def latent(spoil: Spoil) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        (folder / f"a{LATENT}").write_bytes(spoil(kit.latent))
        return ["decode", folder / f"a{LATENT}", "-o", folder / "out"]

    return make


NUMBERS: list[Any] = [None, "much", [], {}, True, 10**400]
TEXTS_WANTED: list[Any] = [None, 3, [], {}, True]
RECIPE: Mapping[str, list[Any]] = {
    "model": TEXTS_WANTED,
    "components": [None, 3, "a", [], {"network": 3}, {"network": None}],
    "schedule": [None, 3, "linear", []],
    "prediction": TEXTS_WANTED,
    "dtype": [*TEXTS_WANTED, "int8"],
    "solver": [*TEXTS_WANTED, "rk45"],
    "grid": TEXTS_WANTED,
    "times": [None, 3, "1", {}, [], [1.0], [1.0, None], [1.0, "2"], [2.0, 1.0], [1.0, 1.0], [-1.0, 5.0], [1.0, 10**400],
              [1.0, True], [[1.0], [2.0]], [0.0, 1e9], [float("nan"), 2.0], [1.0, float("inf")]],
    "condition": [None, 3, "cat", [], [1], {"prompt": 3}, {"label": "cat"}, {"label": -1}, {"label": 1.5},
                  {"guidance_scale": "much"}, {"guidance_scale": float("nan")}, {"negative_prompt": None},
                  {"unknown": 1}],
    "dequantise": [None, 3, {}, "ab", [3], [[1]], [[1, 2, 3]], [["a", 1.0]], [[1, "a"]], [[1.5, 1.0]],
                   [[2**70, 1.0]], [[1, float("nan")]], [[True, 1.0]]],
    "origin": [None, 3, "sample", []],
    "format": [None, 0, 1, 2, 99, "2", 2.5, [], {}],
}  # fmt: skip


def set_entry(*path: str, value: object) -> Spoil:
    def change(record: dict[str, Any]) -> None:
        for name in path[:-1]:
            record = record[name]
        record[path[-1]] = value

    return with_metadata("ddim-edit", change)


def drop_entry(*path: str) -> Spoil:
    def change(record: dict[str, Any]) -> None:
        for name in path[:-1]:
            record = record[name]
        del record[path[-1]]

    return with_metadata("ddim-edit", change)


def latent_cases() -> Iterator[tuple[str, Make]]:
    for name, spoil in HEADED.items():
        yield f"latent {name}", latent(spoil)
    for name, values in RECIPE.items():
        yield f"latent without {name}", latent(drop_entry("recipe", name))
        for value in values:
            yield f"latent {name} {json.dumps(value)[:30]}", latent(set_entry("recipe", name, value=value))
    for value in NUMBERS:
        yield f"latent t {json.dumps(value)[:30]}", latent(set_entry("t", value=value))
    for value in (None, 3, "good", []):
        yield f"latent report {value!r}", latent(set_entry("report", value=value))
        yield f"latent recipe {value!r}", latent(set_entry("recipe", value=value))
    yield "latent an entry too many", latent(set_entry("recipe", "author", value="me"))
    for name in ("t", "recipe", "report"):
        yield f"latent without its {name}", latent(drop_entry(name))
    yield "latent without x", latent(retensored(lambda tensors: tensors.update(y=tensors.pop("x"))))
    for name, change in TENSOR_CHANGES.items():
        yield (
            f"latent x {name}",
            latent(retensored(lambda tensors, change=change: tensors.update(x=change(tensors["x"])))),
        )
    delta = torch.zeros(3, 2, 2, dtype=torch.float64)
    yield "latent delta of another shape", latent(retensored(lambda tensors: tensors.update(delta=delta)))
    yield "latent a folder", lambda kit, folder: ["decode", made(folder / f"a{LATENT}"), "-o", folder / "out"]
    yield "latent a picture", lambda kit, folder: ["decode", tiny.save_picture(folder / "a.png"), "-o", folder / "out"]
    yield "latent absent", lambda kit, folder: ["decode", folder / f"a{LATENT}", "-o", folder / "out"]
    yield "latent shown absent", lambda kit, folder: ["show", folder / f"a{LATENT}"]


TENSOR_CHANGES: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "flat": torch.flatten,
    "a batch": lambda x: x[None].contiguous(),
    "a number": lambda x: x.sum(),
    "empty": lambda x: x[:0].contiguous(),
    "of other channels": lambda x: x[:2].contiguous(),
    "of another size": lambda x: x[:, :8].contiguous(),
    "of whole numbers": lambda x: x.long(),
    "of flags": lambda x: x > 0,
    "complex": lambda x: x.to(torch.complex64),
}
