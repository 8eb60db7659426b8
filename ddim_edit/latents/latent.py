"""Latents: the code of an image, with the recipe that made it, in one safetensors file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError
from torch import Tensor

from ddim_edit.diffusion.noise import NoiseMix, interpolate_mixes
from ddim_edit.errors import LatentError, LatentMismatchError
from ddim_edit.io.schema import (
    Check,
    find_invalid,
    is_count,
    is_number,
    is_table,
    is_text,
    is_whole,
    list_of,
    maybe,
    table_of,
)
from ddim_edit.io.tensorfile import TensorFile
from ddim_edit.latents.interpolation import find_interpolation
from ddim_edit.models.condition import NOTHING, Condition

SUFFIX = ".latent.safetensors"
FORMAT = 2
_UNCONDITIONAL = 1  # the format before conditions
WALK = ("model", "weights", "schedule", "dtype", "condition", "solver", "times")
_HEADER = "ddim-edit"


def _is_seeded(pair: object) -> bool:
    """Whether it is a seed with a weight."""
    return isinstance(pair, list) and len(pair) == 2 and is_whole(pair[0]) and is_number(pair[1])


_CONDITION: Mapping[str, Check] = {
    "prompt": is_text,
    "negative_prompt": is_text,
    "label": maybe(is_count),
    "guidance_scale": is_number,
}
_ENTRIES: Mapping[str, Check] = {
    **dict.fromkeys(("model", "weights", "prediction", "dtype", "solver", "grid"), is_text),
    "schedule": table_of({"T": is_count}),
    "times": list_of(is_number),
    "condition": table_of(_CONDITION),
    "dequantise": list_of(_is_seeded),
    "origin": is_table,
}


@dataclass(frozen=True)
class Recipe:
    """All that it takes to decode a latent, and where it came from; no paths, no time stamps.

    Attributes:
        model, weights: name and SHA-256 of the network.
        schedule: description of the noise schedule.
        prediction: what the network predicts, in diffusers' words.
        dtype: what the network computed in.
        solver: name of the solver that decodes.
        grid: name of the grid.
        times: its times, from the image up to the latent's t.
        condition: the prompt or class that it was inverted under, and is decoded under.
        dequantise: what to take off at the first time, as seeds and weights of noise.
        origin: how the latent came to be, as plain data: an inversion's options and source, a seed, a mixture.
        format: version of this record.
    """

    model: str
    weights: str
    schedule: Mapping[str, Any]
    prediction: str
    dtype: str
    solver: str
    grid: str
    times: tuple[float, ...]
    condition: Condition = NOTHING
    dequantise: NoiseMix = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON types."""
        pairs = [list(pair) for pair in self.dequantise]
        return asdict(self) | {
            "times": list(self.times),
            "condition": self.condition.as_dict(),
            "dequantise": pairs,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Recipe":
        """The recipe of such a record.

        Raises:
            LatentError: fields are missing, unknown or of another kind, or the format is newer than this program.
        """
        if record.get("format") == _UNCONDITIONAL:
            record = {**record, "condition": {}, "format": FORMAT}
        if record.get("format") != FORMAT:
            given = f"format {record.get('format')}"
            raise LatentError(f"a recipe of format {FORMAT}", given, "use the version of ddim-edit that wrote it")
        names = {each.name for each in fields(cls)}
        if set(record) != names:
            odd = ", ".join(sorted(set(record) ^ names)[:5])
            raise LatentError("a recipe with the fields of its format", f"one that differs in {odd}", "write it anew")
        if wrong := find_invalid(record, _ENTRIES):
            raise LatentError("a recipe as in a latent file written by ddim-edit", f"one with {wrong}", "write it anew")
        mix = tuple((seed, weight) for seed, weight in record["dequantise"])
        condition = Condition.from_dict(record["condition"])
        return cls(**{**record, "times": tuple(record["times"]), "condition": condition, "dequantise": mix})

    @property
    def walk(self) -> tuple[Any, ...]:
        """What two latents must share to be decoded together or mixed, in the order of `WALK`."""
        return tuple(getattr(self, name) for name in WALK)


@dataclass(frozen=True, eq=False)
class Latent:
    """The code of one image: x at time t, and delta where the solver has two states.

    Attributes:
        x: float64 [C, H, W].
        t: the time at which x stands; T unless the grid stops short of it.
        recipe: what made it and what decodes it.
        delta: float64 [C, H, W], or None.
        report: what the inversion said of itself: nfe, residual, converged and so on, as JSON types.
    """

    x: Tensor
    t: float
    recipe: Recipe
    delta: Tensor | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """What a solver decodes, as a batch of one."""
        return (self.x[None],) if self.delta is None else (self.x[None], self.delta[None])

    def with_condition(self, condition: Condition) -> "Latent":
        """The same code, to be decoded under another condition than it was inverted under: an edit by words or class.

        Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or (2023) for prompts.
        """
        return replace(self, recipe=replace(self.recipe, condition=condition))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file whose header holds the recipe as sorted JSON; reads back bit by bit.

        Raises:
            LatentError: a place that cannot be written; nothing half-written is left there.
        """
        tensors = {"x": self.x} if self.delta is None else {"x": self.x, "delta": self.delta}
        header = {"recipe": self.recipe.as_dict(), "report": dict(self.report), "t": self.t}
        try:
            TensorFile(tensors, header).save(Path(path), _HEADER)
        except (OSError, SafetensorError) as error:
            given = f"{path} ({getattr(error, 'strerror', None) or error})"
            raise LatentError("a latent file that can be written", given, "choose another place") from error

    @classmethod
    def load(cls, path: str | Path) -> "Latent":
        """Read a file that `save` wrote.

        Raises:
            LatentError: not such a file, or of a newer format.
        """
        try:
            return _read(Path(path))
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            given = f"{Path(path).name} ({_reason(error)})"
            raise LatentError("a latent file written by ddim-edit", given, "invert the image again") from error


def _read(path: Path) -> Latent:
    tensors, header = TensorFile.load(path, _HEADER)
    if wrong := find_invalid(header, {"t": is_number, "report": is_table, "recipe": is_table}):
        given = f"{path.name} (no ddim-edit header: {wrong})"
        raise LatentError("a latent file written by ddim-edit", given, "invert the image again")
    x, delta = tensors["x"], tensors.get("delta")
    if not all(part.is_floating_point() and part.shape == x.shape for part in (x, x if delta is None else delta)):
        kinds = f"{path.name} with {', '.join(f'{name} {part.dtype}' for name, part in tensors.items())}"
        raise LatentError("a latent of real numbers, its delta as large as its x", kinds, "invert the image again")
    return Latent(x, header["t"], Recipe.from_dict(header["recipe"]), delta, header["report"])


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return "no ddim-edit header" if isinstance(error, AttributeError | KeyError | TypeError) else str(error).rstrip(".")


class Latents(Sequence[Latent]):
    """An immutable row of latents, as `invert` returns them."""

    def __init__(self, latents: Iterable[Latent]) -> None:
        self._latents = tuple(latents)

    @overload
    def __getitem__(self, index: int) -> Latent: ...
    @overload
    def __getitem__(self, index: slice) -> "Latents": ...
    def __getitem__(self, index: int | slice) -> "Latent | Latents":
        return Latents(self._latents[index]) if isinstance(index, slice) else self._latents[index]

    def __len__(self) -> int:
        return len(self._latents)

    def __iter__(self) -> Iterator[Latent]:
        return iter(self._latents)

    @property
    def x(self) -> Tensor:
        """All x as one tensor [B, C, H, W]."""
        return torch.stack([latent.x for latent in self])

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """What a solver decodes: x and, where any latent has one, delta (else 0), each [B, C, H, W]."""
        if all(latent.delta is None for latent in self):
            return (self.x,)
        return self.x, torch.stack([_delta(latent) for latent in self])


def _delta(latent: Latent) -> Tensor:
    return torch.zeros_like(latent.x) if latent.delta is None else latent.delta


def between(a: Latent, b: Latent, method: str, w: float) -> Latent:
    """The latent a fraction w of the way from a to b; its delta, if any, lies on the straight line.

    Args:
        a: where w = 0.
        b: where w = 1, a latent of the same walk.
        method: one of `INTERPOLATIONS`.
        w: in [0, 1].

    Raises:
        LatentMismatchError: latents of different walks; ArgumentError: an unknown method.
    """
    blend = find_interpolation(method)
    require_compatible([a, b])
    delta = None if a.delta is None and b.delta is None else torch.lerp(_delta(a), _delta(b), w)
    ends = [dict(a.recipe.origin), dict(b.recipe.origin)]
    mix = interpolate_mixes(a.recipe.dequantise, b.recipe.dequantise, w)
    recipe = replace(a.recipe, dequantise=mix, origin={"kind": method, "w": w, "ends": ends})
    return Latent(blend(a.x, b.x, w), a.t, recipe, delta)


def require_compatible(latents: Sequence[Latent]) -> None:
    """Insist that all latents are decoded by the same model, solver and grid.

    Raises:
        LatentMismatchError: the first thing in which two of them differ.
    """
    for a, b in pairwise(latents):
        for name, mine, theirs in zip(WALK, a.recipe.walk, b.recipe.walk, strict=True):
            if mine != theirs:
                given = f"{_short(mine)} and {_short(theirs)}"
                raise LatentMismatchError(f"latents of one {name}", given, "invert the pictures alike")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
