"""Latents: the noise latents of images, each with the recipe that made it, in one safetensors file."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from ddim_edit.diffusion.solvers.registry import SOLVER_ENTRIES
from ddim_edit.errors import ArgumentError, LatentError, LatentMismatchError, NonFiniteError
from ddim_edit.io import schema
from ddim_edit.io.tensorfile import TensorFormat
from ddim_edit.latents.interpolation import find_interpolation, find_shares, linear_combination, weighted_sum
from ddim_edit.latents.provenance import (
    COMPATIBILITY,
    MOST_NOISES,
    CombinationOrigin,
    EditOrigin,
    InterpolationOrigin,
    InversionOrigin,
    Origin,
    Recipe,
    are_same_times,
)
from ddim_edit.models.identity import find_difference
from ddim_edit.tables import html_summary

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.models.condition import Condition

SHOWN = 8
"""Latents of a sequence that are printed and drawn."""
SUFFIX = ".latent.safetensors"
NONFINITE = "nonfinite"
"""The entry of a report that says why a latent is not finite. Such a latent is never written."""
LATENT_FILE = TensorFormat(
    kind="latent file",
    key="ddim-edit",
    error=LatentError,
    remedy="Invert the image again.",
    schema={"t": schema.number, "report": schema.table, "recipe": schema.table},
)


class LatentHeader(NamedTuple):
    """The header of a latent file, with the fields of `Latent`, and the shape of x."""

    t: float
    recipe: Recipe
    report: Mapping[str, Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Latent:
    """The noise latent of one image: x at time t, and delta where the solver has two states.

    Attributes:
        x: float64 [C, H, W].
        t: the time at which x stands; T unless the grid stops short of it.
        recipe: what made it and what decodes it.
        delta: float64 [C, H, W], or None.
        report: what the inversion reports of itself: nfe, residual, converged and so on, as JSON types.
        detail: float32 [C, H, W], what the denoiser's x0 at the grid's first level lacks of the image; None for grids
            that start at the image or right above it. It is used where the latent was moved: see `moved`.
    """

    x: Tensor
    t: float
    recipe: Recipe
    delta: Tensor | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    detail: Tensor | None = None

    def summary(self) -> dict[str, Any]:
        """Return what it is and what made it, by what names it, as JSON types."""
        recipe = self.recipe
        entries: dict[str, Any] = {"model": recipe.model, "shape": list(self.x.shape), "t": self.t}
        entries |= {"solver": recipe.solver, "grid": recipe.grid, "steps": len(recipe.times) - 1}
        entries |= recipe.condition.as_dict()
        entries["origin"] = recipe.origin.to_json().get("kind", "unknown")
        for name in ("nfe", "converged", "error", "xt_std", "xt_corr"):
            value = self.report.get(name)
            if value is not None:
                entries[name] = float(f"{value:.4g}") if isinstance(value, float) else value
        return entries

    def __repr__(self) -> str:
        return f"Latent({', '.join(f'{name}={value!r}' for name, value in self.summary().items())})"

    def _repr_html_(self) -> str:
        return html_summary("Latent", self.summary(), draw_latents([self.x]))

    @property
    def state(self) -> tuple[Tensor, ...]:
        """What a solver decodes, as a batch of one: x and, if there is one, delta, each [1, C, H, W]."""
        return (self.x[None],) if self.delta is None else (self.x[None], self.delta[None])

    @property
    def parts(self) -> dict[str, Tensor]:
        """Its tensors by name, those that it has of x, delta and detail."""
        parts = {"x": self.x, "delta": self.delta, "detail": self.detail}
        return {name: part for name, part in parts.items() if part is not None}

    def require_finite(self) -> None:
        """Refuse a latent with NaN or infinity.

        Raises:
            NonFiniteError: the message says what made it, if the report of the inversion does.
        """
        if NONFINITE in self.report:
            raise NonFiniteError(self.report[NONFINITE])
        if not all(part.isfinite().all() for part in self.parts.values()):
            raise NonFiniteError("the latent contains NaN or infinite values. Invert its image with --dtype fp32.")

    def with_condition(self, condition: Condition) -> Latent:
        """Return the same latent, to be decoded under another condition than it was inverted under.

        This edits the image by a prompt or a class.

        References:
            Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or, "Prompt-to-Prompt Image Editing with Cross Attention
            Control", ICLR 2023, arXiv:2208.01626.
        """
        if condition == self.recipe.condition:
            return self
        moved = self.moved()
        return replace(moved, recipe=replace(moved.recipe, condition=condition))

    def moved(self) -> Latent:
        """Return the latent as one that no longer decodes to its own image.

        The noise that was added to the image at the first level of the grid comes back exactly where the latent was
        left as it is. If it was moved, or is decoded in another way, the noise at the first level has changed with the
        image, and taking off the known one would leave the difference as grain. So the decode of a moved latent ends
        with the denoiser's x0 there, to which the detail is added that the denoiser lost of the image.
        """
        if self.detail is None or self.recipe.detail is not None:
            return self
        return replace(self, recipe=replace(self.recipe, dequantise=(), detail=1.0))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file whose header holds the recipe as sorted JSON; it reads back bit by bit.

        Args:
            path: the file, replaced if it exists. Its name should end in `.latent.safetensors`.

        Raises:
            NonFiniteError: NaN or infinity in the latent.
            LatentError: the place cannot be written; nothing half-written is left there.
        """
        self.require_finite()
        header = {"recipe": self.recipe.to_json(), "report": dict(self.report), "t": self.t}
        LATENT_FILE.save(path, self.parts, header)

    @classmethod
    def load(cls, path: str | Path) -> Latent:
        """Read a file that `save` wrote.

        Raises:
            LatentError: no such file, another kind of file, or one of a newer format.
        """
        import torch

        tensors, header = LATENT_FILE.load(path)
        name = Path(path).name
        recipe = _parse_recipe(name, header, tensors)
        x = tensors["x"]
        delta, detail = tensors.get("delta"), tensors.get("detail")
        dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        for part in (x, delta, detail):
            if part is None:
                continue
            if part.dtype not in dtypes or part.ndim != 3 or not part.numel() or part.shape != x.shape:
                kinds = ", ".join(f"{key} {each.dtype} {list(each.shape)}" for key, each in tensors.items())
                raise LatentError(
                    f"{name}: x, delta and detail must be real numbers of one shape [C, H, W], not {kinds}. "
                    f"{LATENT_FILE.remedy}"
                )
        return cls(x, header["t"], recipe, delta, header["report"], detail)

    @staticmethod
    def read_header(path: str | Path) -> LatentHeader:
        """Read the header of a file without its tensors and without importing torch.

        Raises:
            LatentError: as `load`.
        """
        header, tensors = LATENT_FILE.read_header(path)
        recipe = _parse_recipe(Path(path).name, header, tensors)
        return LatentHeader(header["t"], recipe, header["report"], tensors["x"].shape)


def _parse_recipe(name: str, header: Mapping[str, Any], tensors: Mapping[str, object]) -> Recipe:
    """Return the recipe of a file that has a tensor x."""
    if "x" not in tensors:
        raise LatentError(f"{name}: not a latent file: it has no tensor x. {LATENT_FILE.remedy}")
    try:
        recipe = Recipe.from_json(header["recipe"])
    except LatentError as error:
        raise LatentError(f"{name}: {error}") from error
    if problem := find_contradiction(recipe, header["t"], tensors):
        raise LatentError(f"{name}: {problem} {LATENT_FILE.remedy}")
    return recipe


def find_contradiction(recipe: Recipe, t: float, parts: Container[str]) -> str | None:
    """Return in what a latent contradicts its recipe, as a sentence, or None.

    Args:
        recipe: of the latent.
        t: the time at which it stands.
        parts: the names of its tensors.
    """
    if t != recipe.times[-1]:
        return f"it stands at t = {t:g}, but the last time of its recipe is {recipe.times[-1]:g}."
    if recipe.detail is not None and "detail" not in parts:
        return "its decode ends with the denoiser's image plus a detail, which is missing."
    entry = SOLVER_ENTRIES.get(recipe.solver)  # None for solver objects that are not registered
    if entry is None:
        return None
    if "delta" in parts and not entry.two_state:
        return f"it has a second state, delta, but its solver {recipe.solver} has only one."
    # Noise, and what was translated from another model, have no delta, which then is 0.
    if "delta" not in parts and entry.two_state and _was_inverted(recipe.origin):
        return f"its solver {recipe.solver} has two states, but the second one, delta, is missing."
    return None


def _was_inverted(origin: Origin) -> bool:
    if isinstance(origin, InterpolationOrigin):
        return any(map(_was_inverted, origin.ends))
    if isinstance(origin, CombinationOrigin):
        return any(map(_was_inverted, origin.sources))
    return _was_inverted(origin.of) if isinstance(origin, EditOrigin) else isinstance(origin, InversionOrigin)


class Latents(Sequence[Latent]):
    """An immutable sequence of latents, as `Editor.invert` returns it."""

    def __init__(self, latents: Iterable[Latent]) -> None:
        self._latents = tuple(latents)

    @overload
    def __getitem__(self, index: int) -> Latent: ...
    @overload
    def __getitem__(self, index: slice) -> Latents: ...
    def __getitem__(self, index: int | slice) -> Latent | Latents:
        return Latents(self._latents[index]) if isinstance(index, slice) else self._latents[index]

    def __len__(self) -> int:
        return len(self._latents)

    def __iter__(self) -> Iterator[Latent]:
        return iter(self._latents)

    def __repr__(self) -> str:
        shown = [f"    {latent!r}" for latent in self._latents[:SHOWN]]
        if len(self) > SHOWN:
            shown.append(f"    and {len(self) - SHOWN} more")
        return "\n".join([f"{len(self)} Latents{':' if shown else ''}", *shown])

    def _repr_html_(self) -> str:
        alike = dict(self._latents[0].summary()) if self._latents else {}
        for latent in self._latents[1:]:
            alike = {name: value for name, value in alike.items() if latent.summary().get(name) == value}
        png = draw_latents([latent.x for latent in self._latents[:SHOWN]]) if self._latents else None
        return html_summary(f"{len(self)} Latents", alike, png)

    @property
    def x(self) -> Tensor:
        """All x as one tensor [B, C, H, W]."""
        import torch

        return torch.stack([latent.x for latent in self])

    @property
    def state(self) -> tuple[Tensor, ...]:
        """What a solver decodes: x and, where any latent has one, delta (else 0), each [B, C, H, W]."""
        import torch

        if all(latent.delta is None for latent in self):
            return (self.x,)
        return self.x, torch.stack([_or_zeros(latent.delta, latent.x) for latent in self])

    def moved(self) -> Latents:
        """Return the latents as ones that no longer decode to their own images, as `Latent.moved`."""
        if all(latent.detail is None for latent in self):
            return self
        return Latents(latent.moved() for latent in self)

    @property
    def detail(self) -> Tensor:
        """What the denoiser's images at the first level lack, 0 where a latent has no such part: [B, C, H, W]."""
        import torch

        return torch.stack([_or_zeros(latent.detail, latent.x) for latent in self])


def draw_latents(rows: Sequence[Tensor]) -> bytes:
    """Return states x [C, H, W], one beside the other, as a PNG of the colours from -3 to 3 standard deviations.

    Three channels are red, green and blue; of any other number the first is grey.
    """
    import torch

    from ddim_edit.images.image_tensor import to_png

    drawn = []
    for x in rows:
        shown = (x if len(x) == 3 else x[:1].expand(3, -1, -1)).double()
        drawn.append((shown / 3).nan_to_num().clamp(-1, 1))
    return to_png(torch.cat(drawn, -1))


def _or_zeros(part: Tensor | None, x: Tensor) -> Tensor:
    """Return a part of a latent, which is 0 where it has none, in the dtype of x."""
    return x.new_zeros(x.shape) if part is None else part.to(x.dtype)


def interpolate(a: Latent, b: Latent, interpolation: str, w: float) -> Latent:
    """Return the latent a fraction w of the way from a to b.

    The interpolation is that of x. The delta of a two-state solver is small and not Gaussian; it lies on the straight
    line. The dequantisation noises are mixed with the weights 1 - w and w.

    Where latents have a detail, each keeps the part max(0, 2 w - 1) of its own, w its weight, and the rest becomes the
    model's own: the detail of one image over the other would be seen, as the rims of glasses on a face without.

    Args:
        a: the latent at w = 0.
        b: the latent at w = 1, of the same model, solver and grid.
        interpolation: one of `INTERPOLATIONS`.
        w: in [0, 1].

    Raises:
        LatentMismatchError: latents that are not decoded alike.
        ArgumentError: an unknown interpolation.
    """
    function = find_interpolation(interpolation)
    require_compatible([a, b])
    origin = InterpolationOrigin(interpolation, w, (a.recipe.origin, b.recipe.origin))
    return _mix([a, b], [1 - w, w], [1 - w, w], function(a.x, b.x, w), origin)


def combine(latents: Sequence[Latent], weights: Sequence[float] | None = None) -> Latent:
    """Return the linear combination of latents, which `linear_combination` scales to their mean length.

    The delta of a two-state solver and the dequantisation noises are mixed with the factors that x itself is mixed
    with, w_i ||x|| / ||sum_j w_j x_j||, as if decoding were linear. Of independent latents these are w_i over the
    square root of sum_j w_j^2, so that as much noise is taken off a mixture of many images as of one.

    Args:
        latents: at least one, all of the same model, solver and grid.
        weights: one for each, finite and not all 0, also negative; only their ratios count. None weighs all alike,
            which is the centroid.

    Raises:
        LatentMismatchError: latents that are not decoded alike.
        ArgumentError: other weights, no latents, latents that cancel, or too many noises for one recipe.
    """
    if weights is None:
        weights = [1.0] * len(latents)
    shares = find_shares(weights, len(latents))
    require_compatible(latents)
    sources = [latent.x for latent in latents]
    x = linear_combination(sources, weights)
    scale = float(x.double().norm() / weighted_sum(sources, shares).double().norm())
    origin = CombinationOrigin(tuple(map(float, weights)), tuple(latent.recipe.origin for latent in latents))
    return _mix(latents, shares, [scale * share for share in shares], x, origin)


def _mix(
    latents: Sequence[Latent], shares: Sequence[float], factors: Sequence[float], x: Tensor, origin: Origin
) -> Latent:
    """Return the latent at x, with delta and noises mixed linearly, and what is left of the details.

    Args:
        latents: what is mixed.
        shares: the weights of the latents, whose absolute values sum to 1.
        factors: what delta and noises are multiplied with.
        x: of the mixture.
        origin: of the mixture.

    Raises:
        ArgumentError: more noises than a recipe may have.
    """
    from ddim_edit.diffusion.noise import combine_mixes

    noises = combine_mixes([latent.recipe.dequantise for latent in latents], factors)
    if len(noises) > MOST_NOISES:
        raise ArgumentError(f"A mixture has at most {MOST_NOISES:,} dequantisation noises, not {len(noises):,}.")
    delta = None
    if any(latent.delta is not None for latent in latents):
        delta = weighted_sum([_or_zeros(latent.delta, x) for latent in latents], factors)
    first = latents[0]
    mixed = Latent(x, first.t, replace(first.recipe, dequantise=noises, origin=origin), delta)
    return _mix_details(mixed, latents, shares)


def _mix_details(mixed: Latent, latents: Sequence[Latent], shares: Sequence[float]) -> Latent:
    """Return a mixture with what is left of the details of the latents, if they have any."""
    import torch

    if all(latent.detail is None for latent in latents):
        return mixed
    totals: list[float] = []
    for latent in latents:
        # One latent may be there twice.
        totals.append(
            sum(share for other, share in zip(latents, shares, strict=True) if torch.equal(other.x, latent.x))
        )
    share, nearest = max(zip(totals, latents, strict=True), key=lambda pair: pair[0])
    if share >= 1 - 1e-12:
        recipe = replace(mixed.recipe, detail=nearest.recipe.detail)
        return replace(mixed, recipe=recipe, detail=nearest.detail)
    # The sizes of all shares sum to 1, so that no other one is above a half.
    return keep_detail(mixed, nearest, share)


def keep_detail(latent: Latent, source: Latent, share: float) -> Latent:
    """Return a latent that was moved, with the part max(0, 2 share - 1) of the detail of a source.

    Args:
        latent: the latent, whose own detail is replaced.
        source: what it was moved from.
        share: how much of the source it still is, at most 1.
    """
    kept = max(0.0, 2 * share - 1)
    part = kept * (1.0 if source.recipe.detail is None else source.recipe.detail)
    detail = kept * _or_zeros(source.detail, latent.x)
    return replace(latent, recipe=replace(latent.recipe, dequantise=(), detail=part), detail=detail.float())


def require_compatible(latents: Sequence[Latent]) -> None:
    """Refuse latents that are not all decoded by the same model, solver and grid.

    Raises:
        LatentMismatchError: the message names the first thing in which two of them differ.
    """
    for a, b in pairwise(latents):
        for name in COMPATIBILITY:
            mine, theirs = getattr(a.recipe, name), getattr(b.recipe, name)
            if name == "components":
                if made_with := find_difference(mine, theirs):
                    raise LatentMismatchError(
                        f"These latents are of two models: {b.recipe.model} has {made_with} than {a.recipe.model}. "
                        "Invert the images with one model."
                    )
            elif mine != theirs and not (name == "times" and are_same_times(mine, theirs)):
                here, there = schema.shorten(str(mine), 40), schema.shorten(str(theirs), 40)
                raise LatentMismatchError(
                    f"These latents differ in {name}: {here} and {there}. Invert the images with the same settings."
                )
