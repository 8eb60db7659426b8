"""A direction: a fitted unit vector in one space of one model, and the file that holds it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.grids import Grid
from ddim_edit.errors import DirectionError, DirectionMismatchError, LatentError
from ddim_edit.io import schema
from ddim_edit.io.tensorfile import TensorFormat
from ddim_edit.latents.latent import draw_latents
from ddim_edit.latents.provenance import LatentArrayOrigin, Recipe, are_same_times
from ddim_edit.latents.spaces import GUIDED, parse_level
from ddim_edit.models.identity import find_difference
from ddim_edit.tables import html_summary

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".direction.safetensors"
COMPATIBLE = ("components", "schedule", "prediction", "condition", "times")
"""What a latent's recipe must share with a direction's. Solver and dtype may differ: they move latents too little.

Of the times only those above 0 count: dequantisation adds the noise of the first level, so decoding goes one step
further, to t = 0.
"""
LONGEST_STEP = 0.3
"""Length of the longest steps that docs/directions.md measures, as a part of that of the latent."""
GUIDED_STEPS = 8
"""Gradients that an edit along a guided direction follows; see docs/directions.md."""
_SCORES = ("auc", "auc_sd", "permuted_auc", "permuted_sd")
DIRECTION_FILE = TensorFormat(
    kind="direction file",
    key="ddim-edit direction",
    error=DirectionError,
    remedy="Fit the direction again.",
    schema={
        "name": schema.text,
        **dict.fromkeys(("intercept", "mean", "sd"), schema.number),
        "recipe": schema.table,
        "times": schema.list_of(schema.number),
        "report": schema.table_of({**dict.fromkeys(_SCORES, schema.optional(schema.number)), "method": schema.text}),
    },
    version=1,
)


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector along which latents of one space change an attribute.

    A latent z has the projection p = z . vector; p + intercept is its distance from the hyperplane that separates the
    attribute; (p - mean) / sd says where it stands among the training latents, so a strength of s moves it by s sd.

    Attributes:
        name: of the attribute.
        vector: float64 [C, H, W], or [K, C, h, w] for bottlenecks at K times; of length 1.
        intercept: of the hyperplane.
        mean, sd: of the projections of the training latents.
        recipe: of the inversion that made these latents; its last time is the level.
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
            raise DirectionError(
                "A direction must be a vector of length 1 with a positive sd and finite numbers, but "
                f"{self.name} has length {length:g} and sd {self.sd:g}. Fit it to latents that differ."
            )

    @property
    def t(self) -> float:
        """Time of the latents that it moves."""
        return self.recipe.times[-1]

    @property
    def guided(self) -> bool:
        """Whether x is moved along the gradient of the score, which is one of the bottleneck at the time of x.

        Other directions of the bottleneck shift it while latents are decoded from x_T.
        """
        return _is_guided(self.recipe, self.times)

    @property
    def evaluations(self) -> int:
        """Evaluations of the network that moving one latent takes: 0 unless the direction is guided."""
        return GUIDED_STEPS if self.guided else 0

    @property
    def level(self) -> str:
        """Level as a short text: its time, "h", or "guided:" and its time."""
        return _level(self.recipe, self.times)

    def summary(self) -> dict[str, Any]:
        """Return name, model, level, sd and report as JSON types."""
        return _summarize(self.name, self.recipe, self.times, self.sd, self.report)

    def __repr__(self) -> str:
        shown = {"model": self.recipe.model, "level": self.level, "shape": list(self.vector.shape), "sd": self.sd}
        shown |= {name: self.report[name] for name in ("method", "auc") if self.report.get(name) is not None}
        return f"Direction({self.name!r}, {', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def _repr_html_(self) -> str:
        summary = {name: value for name, value in self.summary().items() if not isinstance(value, dict | list)}
        png = None
        if not self.times:
            # Scaled so that its largest number has the brightest colour.
            png = draw_latents([3 * self.vector / self.vector.abs().max()])
        return html_summary("Direction", summary, png)

    @staticmethod
    def read_summary(path: str | Path) -> dict[str, Any]:
        """Return the `summary` of a file without reading its vector or importing torch.

        Raises:
            DirectionError: not such a file, or of another format.
        """
        header, tensors = DIRECTION_FILE.read_header(path)
        vector = tensors.get("vector")
        if vector is None or not vector.is_floating_point or not header["sd"] > 0:
            problem = "it needs a vector of real numbers and an sd above 0. Fit the direction again."
            raise DirectionError(f"{Path(path).name}: {problem}")
        try:
            recipe = Recipe.from_json(header["recipe"])
        except LatentError as error:
            raise DirectionError(f"{Path(path).name}: {error}") from error
        return _summarize(header["name"], recipe, header["times"], header["sd"], header["report"])

    @property
    def config(self) -> InversionConfig:
        """How to invert an image to where this direction moves latents."""
        recipe = self.recipe
        origin = self._origin
        return InversionConfig(
            recipe.solver,
            Grid(recipe.grid, recipe.times),
            dequantise=origin.dequantise,
            condition=recipe.condition,
            refine=origin.refine,
        )

    @property
    def _origin(self) -> LatentArrayOrigin:
        """How the latents that it was fitted to were read; the defaults where that is not recorded."""
        origin = self.recipe.origin
        return origin if isinstance(origin, LatentArrayOrigin) else LatentArrayOrigin()

    @property
    def strongest(self) -> float:
        """Strength up to which edits along it are measured, in either direction; see docs/directions.md.

        In x, that of a step of 0.3 of a latent's typical length sqrt(d); in h, 6; along gradients of h, 4.
        """
        if self.guided:
            return 4.0
        return 6.0 if self.times else LONGEST_STEP * math.sqrt(self.vector.numel()) / self.sd

    def score(self, latents: Tensor) -> Tensor:
        """Return where latents [B, ...] stand among the training latents, in standard deviations from the mean: [B]."""
        return (latents.double().flatten(1) @ self.vector.flatten() - self.mean) / self.sd

    def require_fits(self, recipe: Recipe) -> None:
        """Refuse latents of a recipe that are not where this direction was fitted.

        Raises:
            DirectionMismatchError: another model, level or grid; the message names both.
        """
        if made_with := find_difference(recipe.components, self.recipe.components):
            raise DirectionMismatchError(
                f"The direction {self.name} was fitted to latents of {self.recipe.model}, which has {made_with} than "
                f"{recipe.model}. Fit it again, or load the model that it was fitted to."
            )
        for name in COMPATIBLE[1:]:
            if not _agree(name, self.recipe, recipe):
                raise DirectionMismatchError(
                    f"The direction {self.name} was fitted to latents of {_describe(name, self.recipe)}, not of "
                    f"{_describe(name, recipe)}. Invert the image there, or fit the direction again."
                )

    def require_level(self, level: str | float | None) -> None:
        """Refuse a level, as `parse_level` reads it, that is not the fitted one.

        A time may be off by a twentieth of T. None asks for nothing.

        Raises:
            DirectionMismatchError: another level; ArgumentError: a text that is no level.
        """
        if level is None or str(level) == self._origin.level:
            return
        T = int(self.recipe.schedule.get("T", self.t))
        asked = parse_level(level, T)
        times = self.times if asked.bottleneck else (self.t,)
        far = asked.t is not None and any(abs(asked.t - t) > T / 20 for t in times)
        if (asked.bottleneck, asked.guided) != (bool(self.times), self.guided) or far:
            raise DirectionMismatchError(
                f"The direction {self.name} is of level {self.level}, not {level}. Leave the level out, or fit a "
                "direction there."
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file whose header holds all the rest as sorted JSON; the vector in float32.

        Raises:
            DirectionError: the place cannot be written; nothing half-written is left there.
        """
        header = {
            "name": self.name,
            "intercept": self.intercept,
            "mean": self.mean,
            "sd": self.sd,
            "recipe": self.recipe.to_json(),
            "times": list(self.times),
            "report": dict(self.report),
        }
        DIRECTION_FILE.save(path, {"vector": self.vector.float()}, header)

    @classmethod
    def load(cls, path: str | Path) -> Direction:
        """Read a file that `save` wrote.

        Raises:
            DirectionError: not such a file, or of another format.
        """
        tensors, header = DIRECTION_FILE.load(path)
        vector = tensors.get("vector")
        if vector is None or not vector.is_floating_point():
            raise DirectionError(f"{Path(path).name}: it has no vector of real numbers. Fit the direction again.")
        try:
            recipe = Recipe.from_json(header.pop("recipe"))
            times = tuple(header.pop("times"))
            # float32 on disk leaves the length off 1 by its rounding.
            return cls(vector=to_unit(vector), recipe=recipe, times=times, **header)
        except (LatentError, DirectionError) as error:
            raise DirectionError(f"{Path(path).name}: {error}") from error


def _summarize(
    name: str, recipe: Recipe, times: Sequence[float], sd: float, report: Mapping[str, Any]
) -> dict[str, Any]:
    return {"name": name, "model": recipe.model, "level": _level(recipe, times), "sd": sd, **report}


def _is_guided(recipe: Recipe, times: Sequence[float]) -> bool:
    return bool(times) and times[-1] == recipe.times[-1]


def _level(recipe: Recipe, times: Sequence[float]) -> str:
    if times and not _is_guided(recipe, times):
        return "h"
    return f"{GUIDED if times else ''}{recipe.times[-1]:g}"


def _agree(name: str, a: Recipe, b: Recipe) -> bool:
    if name == "times":
        return are_same_times([t for t in a.times if t], [t for t in b.times if t])
    return bool(getattr(a, name) == getattr(b, name))


def _describe(name: str, recipe: Recipe) -> str:
    value = getattr(recipe, name)
    if name == "times":
        return f"level {value[-1]:g} on a grid {recipe.grid} of {len(value) - 1} steps up to there"
    text = json.dumps(value) if isinstance(value, Mapping) else str(value)
    return f"{name} {text}"


def to_unit(vector: Tensor) -> Tensor:
    """Return the vector scaled to length 1, in float64; zeros stay as they are."""
    import torch

    exact: Tensor = vector.double()
    scaled: Tensor = exact / exact.norm().clamp_min(torch.finfo(torch.float64).tiny)
    return scaled
