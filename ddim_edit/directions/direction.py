"""A direction: a fitted unit vector in one space of one model, with the file that holds it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.grids import Grid
from ddim_edit.errors import DirectionError, DirectionMismatchError, LatentError
from ddim_edit.io.schema import Check, find_invalid, is_number, is_table, is_text, is_whole, list_of, maybe, table_of
from ddim_edit.io.tensorfile import TensorFile
from ddim_edit.latents.latent import Recipe
from ddim_edit.latents.spaces import parse_time

SUFFIX = ".direction.safetensors"
FORMAT = 1
HOME = ("model", "weights", "schedule", "prediction", "condition", "times")
"""What a latent's recipe must share with a direction's; solver and dtype may differ, they move codes too little.

Of the times only those of noisy states count: fresh noise is decoded one step further, to t = 0.
"""
_HEADER = "ddim-edit direction"
_MEASURED = ("auc", "auc_sd", "permuted_auc", "permuted_sd")
_ENTRIES: Mapping[str, Check] = {
    "name": is_text,
    **dict.fromkeys(("intercept", "mean", "sd"), is_number),
    "recipe": is_table,
    "times": list_of(is_number),
    "report": table_of({**dict.fromkeys(_MEASURED, maybe(is_number)), "method": is_text}),
}
_ORIGIN: Mapping[str, Check] = {"dequantise": maybe(is_whole), "refine": maybe(is_text)}
_UNREADABLE = (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector along which codes of one space change an attribute; moves nothing by itself, see `move`.

    A code z has the projection p = z . vector; p + intercept is its distance from the hyperplane that separates the
    attribute; (p - mean) / sd says where it stands among the training codes, so strength s moves it by s sd.

    Attributes:
        name: of the attribute.
        vector: float64 [C, H, W], or [K, C, h, w] for bottlenecks at K times; of length 1.
        intercept: of the hyperplane.
        mean, sd: of the projections of the training codes.
        recipe: of the inversion whose codes they are; its last time is the level.
        times: of the K bottlenecks; empty for a direction of x.
        report: how it was fitted and how well: method, auc, auc_sd, permuted_auc, permuted_sd, counts and so on.

    Raises:
        DirectionError: a vector that is not finite and of length 1, or an sd that is not positive.
    """

    name: str
    vector: Tensor
    intercept: float
    mean: float
    sd: float
    recipe: Recipe
    times: tuple[float, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        length = float(self.vector.double().norm())
        finite = math.isfinite(self.intercept) and math.isfinite(self.mean) and math.isfinite(self.sd)
        if not abs(length - 1) < 1e-6 or not finite or not self.sd > 0:
            given = f"length {length:g} and sd {self.sd:g}"
            raise DirectionError("a vector of length 1 with a positive sd", given, "fit it on codes that differ")

    @property
    def t(self) -> float:
        """The time of the codes that it moves."""
        return self.recipe.times[-1]

    @property
    def level(self) -> str:
        """Where it lives, as a short text: "h" or its time."""
        return "h" if self.times else f"{self.t:g}"

    @property
    def method(self) -> InversionConfig:
        """How to invert a picture to where this direction moves codes."""
        recipe = self.recipe
        grid, dequantise = Grid(recipe.grid, recipe.times), recipe.origin.get("dequantise", 0)
        refine = recipe.origin.get("refine")
        return InversionConfig(recipe.solver, grid, dequantise=dequantise, condition=recipe.condition, refine=refine)

    def score(self, codes: Tensor) -> Tensor:
        """Where codes [B, ...] stand among the training codes, in standard deviations from their mean: [B]."""
        return (codes.double().flatten(1) @ self.vector.flatten() - self.mean) / self.sd

    def require_fits(self, recipe: Recipe) -> None:
        """Insist that latents of a recipe live where this direction was fitted.

        Raises:
            DirectionMismatchError: another model, level or grid; the message names both.
        """
        for name in HOME:
            if _of_home(name, self.recipe) != _of_home(name, recipe):
                wanted = f"latents of {_described(name, self.recipe)}, where the direction {self.name} was fitted"
                remedy = "invert the picture there, or fit the direction again"
                raise DirectionMismatchError(wanted, f"ones of {_described(name, recipe)}", remedy)

    def require_level(self, level: str | float | None) -> None:
        """Insist on a level as `find_space` reads it: the one it was fitted for, or a twentieth of T from where it is.

        None asks for nothing.

        Raises:
            DirectionMismatchError: another level; ArgumentError: a text that is no level.
        """
        if level is None or str(level) == self.recipe.origin.get("level"):
            return
        T, text = int(self.recipe.schedule.get("T", self.t)), str(level)
        in_h, time = text.partition(":")[0] == "h", text.removeprefix("h:")
        times = self.times if in_h else (self.t,)
        far = time != "h" and any(abs(parse_time(time, T) - t) > T / 20 for t in times)
        if in_h != bool(self.times) or far:
            remedy = "leave the level out, or fit it there"
            raise DirectionMismatchError(f"a direction of level {level}", f"{self.name} of level {self.level}", remedy)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file whose header holds all the rest as sorted JSON; the vector in float32.

        Raises:
            DirectionError: a place that cannot be written; nothing half-written is left there.
        """
        header = {
            "format": FORMAT,
            "name": self.name,
            "intercept": self.intercept,
            "mean": self.mean,
            "sd": self.sd,
            "recipe": self.recipe.as_dict(),
            "times": list(self.times),
            "report": dict(self.report),
        }
        try:
            TensorFile({"vector": self.vector.float()}, header).save(Path(path), _HEADER)
        except (OSError, SafetensorError) as error:
            given = f"{path} ({getattr(error, 'strerror', None) or error})"
            raise DirectionError("a direction file that can be written", given, "choose another place") from error

    @classmethod
    def load(cls, path: str | Path) -> "Direction":
        """Read a file that `save` wrote.

        Raises:
            DirectionError: not such a file, or of another format.
        """
        try:
            file = TensorFile.load(Path(path), _HEADER)
            return _of_file(file.tensors["vector"], dict(file.header))
        except (*_UNREADABLE, DirectionError, LatentError) as error:
            reasons = {FileNotFoundError: "no such file", DirectionError: str(error)}
            given = f"{Path(path).name} ({reasons.get(type(error), 'it cannot be read as one')})"
            raise DirectionError("a direction file written by ddim-edit", given, "fit it again") from error


def _of_file(vector: Tensor, header: dict[str, Any]) -> Direction:
    if (version := header.pop("format")) != FORMAT:
        given = f"format {version}"
        raise DirectionError(f"a direction of format {FORMAT}", given, "use the version of ddim-edit that wrote it")
    if wrong := find_invalid(header, _ENTRIES) or _odd(header, vector):
        raise DirectionError("a direction whose entries make sense", f"one with {wrong}", "fit it again")
    # float32 on disk leaves the length off 1 by its rounding.
    recipe, times = Recipe.from_dict(header.pop("recipe")), tuple(header.pop("times"))
    return Direction(vector=unit(vector), recipe=recipe, times=times, **header)


def _odd(header: Mapping[str, Any], vector: Tensor) -> str | None:
    """What is wrong with a direction whose entries are each of the right kind."""
    if set(header) != set(_ENTRIES):
        return "entries of another format"
    if not vector.is_floating_point():
        return f"a vector of {vector.dtype}"
    origin = header["recipe"].get("origin")
    return None if table_of(_ORIGIN)(origin) else "an origin that is none of a direction"


def _of_home(name: str, recipe: Recipe) -> Any:
    value = getattr(recipe, name)
    return tuple(t for t in value if t) if name == "times" else value


def _described(name: str, recipe: Recipe) -> str:
    value = getattr(recipe, name)
    if name == "times":
        return f"level {value[-1]:g} on a grid {recipe.grid} of {len(value) - 1} steps up to there"
    text = json.dumps(value) if isinstance(value, Mapping) else str(value)
    return f"{name} {text[:12] if name == 'weights' else text}"


def unit(vector: Tensor) -> Tensor:
    """The vector at length 1, in float64; zeros stay as they are."""
    exact: Tensor = vector.double()
    scaled: Tensor = exact / exact.norm().clamp_min(torch.finfo(torch.float64).tiny)
    return scaled
