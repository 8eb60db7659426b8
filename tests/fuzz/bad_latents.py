"""Latents that no command takes."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import tiny
from .kit import LATENT, Kit, Line, Make, made, retensored
from .spoiling import METADATA, TENSORS, Spoil, share, with_metadata


def latent(spoil: Spoil) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        (folder / f"a{LATENT}").write_bytes(spoil(kit.latent))
        return ["decode", folder / f"a{LATENT}", "-o", folder / "out"]

    return make


RECIPE: Mapping[str, list[Any]] = {
    "model": [None],
    "components": [[], {"network": 3}],
    "schedule": ["linear"],
    "prediction": [3],
    "dtype": ["int8"],
    "solver": ["rk45"],
    "grid": [{}],
    "times": [[], [1.0, None], [2.0, 1.0], [-1.0, 5.0], [1.0, 10**400], [0.0, 1e9], [float("nan"), 2.0]],
    "condition": ["cat", {"prompt": 3}, {"label": -1}, {"guidance_scale": float("nan")}, {"unknown": 1}],
    "dequantise": ["ab", [[1]], [[2**70, 1.0]], [[1, float("nan")]], [[1, 1e300]], [[1, -2000.0]]],
    "origin": ["sample"],
    "detail": ["half", -0.5, 1.5, float("nan")],
    "format": [None, 99, "2"],
}
"""Wrong values of the entries of a recipe; every other type of JSON is tried in tests/io/test_schema.py."""


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
    for name, spoil in {**share(TENSORS, 0, 6), **share(METADATA, 0, 3)}.items():
        yield f"latent {name}", latent(spoil)
    for name in ("components", "times"):
        yield f"latent without {name}", latent(drop_entry("recipe", name))
    for name, values in RECIPE.items():
        for value in values:
            yield f"latent {name} {json.dumps(value)[:30]}", latent(set_entry("recipe", name, value=value))
    for value in (None, "much", 10**400):
        yield f"latent t {json.dumps(value)[:30]}", latent(set_entry("t", value=value))
    for value in (None, "good"):
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
