"""Edits along words: from one prompt or class to another, for models that follow such."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddim_edit.diffusion.bottleneck import ShiftedDenoiser
from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.semantic_guidance import Contrast, SemanticDenoiser, SemanticTerm, shares_of
from ddim_edit.directions.direction import SUFFIX, Direction
from ddim_edit.directions.edits import Edit, make_edit, require_editable
from ddim_edit.directions.finding import find_direction, packaged_directions
from ddim_edit.directions.guided import GuidedEdit
from ddim_edit.directions.word_direction import WordDirection
from ddim_edit.errors import ArgumentError, DirectionError
from ddim_edit.latents.latent import Latents
from ddim_edit.models.condition import Condition
from ddim_edit.models.conditioning import Conditioner, Conditioning
from ddim_edit.models.hub_files import HubId, is_cached
from ddim_edit.models.model import Model


def resolve_direction(
    name: str | Path | Direction | WordDirection, model: Model, offline: bool = False
) -> Direction | WordDirection:
    """Return the direction of a name: packaged for the model, in a file or on the hub, or else words.

    Only models that follow prompts or classes have words. For these "man/woman" is a hub id only if the hub's cache has
    directions of it, else words.

    Args:
        name: as `find_direction` takes them, or words.
        model: the model.
        offline: as for `find_direction`.

    Raises:
        DirectionError: no such direction, and the model follows neither prompts nor classes.
    """
    if isinstance(name, Direction | WordDirection):
        return name
    is_known = name in packaged_directions(model.name) or str(name).endswith(SUFFIX) or Path(name).is_file()
    if is_known or not isinstance(name, str):
        return find_direction(name, model.name, offline)
    hub_id = HubId.parse(name)
    if isinstance(model.conditioner, Conditioner):
        if hub_id is not None and is_cached(hub_id, SUFFIX):
            return find_direction(name, model.name, offline=True)
        return WordDirection(name)
    if hub_id is not None:
        return find_direction(name, model.name, offline)
    try:
        return find_direction(name, model.name)
    except DirectionError as error:
        raise DirectionError(f"{error} Words are for models that follow prompts, and {model.name} does not.") from error


@dataclass(frozen=True)
class WordEdit:
    """Leaves latents as they are, and decodes them along words.

    Args:
        model: whose words these are.
        strengths: of each direction; those of 0 are left out, so that nothing else changes either.
        kept: of each direction, what is to stay: the part of the direction along these is taken off.

    Raises:
        ArgumentError: a model that follows neither prompts nor classes.
    """

    model: Model
    strengths: Mapping[WordDirection, float]
    kept: Mapping[WordDirection, Sequence[WordDirection]]

    def __post_init__(self) -> None:
        _conditioner_of(self.model)

    def __call__(self, latents: Latents, denoiser: Denoiser) -> tuple[Latents, Denoiser]:
        """Return the same latents, and the denoiser with the words."""
        guided = self.guide(denoiser, latents[0].recipe.condition)
        return latents if guided is denoiser else latents.moved(), guided

    def guide(self, denoiser: Denoiser, condition: Condition) -> Denoiser:
        """Return the denoiser of a condition with the words.

        Args:
            denoiser: of that condition, which may have been wrapped.
            condition: of the latents.

        Raises:
            ArgumentError: words that the model cannot follow, or in a form that it does not have.
        """
        conditioner = _conditioner_of(self.model)
        words = _Words(self.model.name, conditioner, condition)
        active = {each: strength for each, strength in self.strengths.items() if strength}
        embedded = {each: strength for each, strength in active.items() if each.form == "embedding"}
        if embedded:
            if isinstance(denoiser, ShiftedDenoiser):
                raise ArgumentError("Words as an embedding and directions of h cannot be combined. Use one of them.")
            shifted = words.shifted([(each, strength, self.kept[each]) for each, strength in embedded.items()])
            denoiser = conditioner.guided(condition, shifted)
        elif not condition.guided and not isinstance(denoiser, ShiftedDenoiser):
            words.denoisers[condition] = denoiser  # its evaluations are shared with words that begin at the prompt
        terms: list[SemanticTerm] = []
        for each, strength in active.items():
            if each not in embedded:
                kept = [words.contrast(other) for other in self.kept[each]]
                latest = (1 - each.warm_up) * self.model.schedule.T if each.warm_up else math.inf
                terms.append(SemanticTerm(words.contrast(each), strength, kept, each.mask_quantile, latest))
        return SemanticDenoiser(denoiser, terms) if terms else denoiser


def make_edits(
    model: Model,
    strengths: Mapping[Direction | WordDirection, float],
    keep: Sequence[Direction | WordDirection] = (),
    conditional: bool = False,
) -> list[Edit]:
    """Return the edits along fitted directions and along words, to be made one after the other.

    Args:
        model: whose words these are.
        strengths: in standard deviations, or in ways of words; 0 changes nothing.
        keep: what stays: directions their scores, and words what is predicted along them.
        conditional: whether to move along each only as far as it is orthogonal to all others of its kind. Guided
            directions reach all their scores together anyway.

    Raises:
        ArgumentError: strengths that are not finite, something that is to change and to stay, something to keep that is
            of neither kind that moves, or words for a model that follows none; and as `make_edit`.
    """
    fitted: dict[Direction, float] = {}
    words: dict[WordDirection, float] = {}
    for each, strength in strengths.items():
        if isinstance(each, Direction):
            fitted[each] = strength
        else:
            words[each] = strength
    kept = [each for each in keep if isinstance(each, Direction)]
    kept_words = [each for each in keep if isinstance(each, WordDirection)]
    if (kept and not fitted) or (kept_words and not words):
        name = (kept_words if fitted else kept)[0].name
        raise ArgumentError(f"Directions keep directions, and words keep words. Leave out {name!r}, which would stay.")
    edits: list[Edit] = []
    if fitted or not words:
        guided = any(each.guided for each in fitted)
        if guided:
            require_editable(fitted, kept)
        edits.append(GuidedEdit(model, fitted, kept) if guided else make_edit(fitted, kept, conditional))
    if words:
        edits.append(_make_word_edit(model, words, kept_words, conditional))
    return edits


def _make_word_edit(
    model: Model, strengths: Mapping[WordDirection, float], keep: Sequence[WordDirection], conditional: bool
) -> WordEdit:
    if not all(map(math.isfinite, strengths.values())):
        given = ", ".join(f"{strength:g}" for strength in strengths.values())
        raise ArgumentError(f"Strengths must be finite numbers, not {given}. 1 is a good start for words.")
    kept: dict[WordDirection, list[WordDirection]] = {}
    for direction in strengths:
        others = [other for other in strengths if other is not direction] if conditional else []
        kept[direction] = [*keep, *others]
        ends = {direction.to, direction.from_}
        if any({other.to, other.from_} == ends for other in kept[direction]):
            raise ArgumentError(f"{direction.name!r} is to change and to stay. Keep something else.")
    return WordEdit(model, strengths, kept)


class _Words:
    """Encodes the two ends of words for latents of one condition, and makes each denoiser once."""

    def __init__(self, name: str, conditioner: Conditioner, condition: Condition) -> None:
        self.name = name
        self.conditioner = conditioner
        self.condition = condition
        self.denoisers: dict[Condition | None, Denoiser] = {}

    def contrast(self, direction: WordDirection) -> Contrast:
        return Contrast(*(self._denoiser(end) for end in self._ends(direction)))

    def shifted(self, moves: Sequence[tuple[WordDirection, float, Sequence[WordDirection]]]) -> Conditioning:
        """Return the inputs of the latents' own prompt, moved along words."""
        source = self.conditioner.encoder.positive(self.condition)
        result: dict[str, Tensor] = {}
        for name, value in source.items():
            result[name] = value
            for direction, strength, kept in moves:
                parts = [self._encode(end)[name] for each in (direction, *kept) for end in self._ends(each)]
                if "label" in name:
                    raise ArgumentError(
                        f"{self.name} follows classes, which have no embeddings. Use words as guidance."
                    )
                if any(part.shape != value.shape for part in parts):
                    raise ArgumentError(
                        f"{self.name} reads prompts of different lengths, so their embeddings cannot be added. Use "
                        "words as guidance."
                    )
                if not value.is_floating_point() or "mask" in name:
                    # Tokens that any of the prompts has are seen.
                    result[name] = functools.reduce(torch.maximum, parts, result[name])
                    continue
                along, *others = [to.double() - origin for to, origin in zip(parts[::2], parts[1::2], strict=True)]
                shares = shares_of(along, others, torch.ones_like(along))
                for share, other in zip(shares, others, strict=True):
                    along = along - share * other
                result[name] = result[name] + (strength * along).to(value.dtype)
        return result

    def _ends(self, direction: WordDirection) -> Iterator[Condition | None]:
        """Yield the conditions of both ends; None is what guidance leads away from."""
        for end in (direction.to, direction.from_):
            yield None if end is None else self._condition(end)

    def _condition(self, words: str | int) -> Condition:
        scale = self.condition.guidance_scale if self.conditioner.encoder.distilled else 1.0
        follows = self.conditioner.encoder.follows
        if follows == "prompts":
            if isinstance(words, int):
                raise ArgumentError(f"{self.name} follows prompts, not classes. Say {words} in words.")
            return Condition(words, guidance_scale=scale)
        if not str(words).isdecimal():
            raise ArgumentError(f"{self.name} follows {follows}, not words. Give the number of one for {words!r}.")
        return Condition(label=int(words), guidance_scale=scale)

    def _denoiser(self, end: Condition | None) -> Denoiser:
        if end not in self.denoisers:
            self.denoisers[end] = self.conditioner.with_conditioning(self._encode(end))
        return self.denoisers[end]

    def _encode(self, end: Condition | None) -> Conditioning:
        if end is not None:
            return self.conditioner.encoder.positive(end)
        try:
            return self.conditioner.away_from(self.condition)
        except ArgumentError as error:
            raise ArgumentError(f"{self.name} has no class for none. Say which class to come from.") from error


def _conditioner_of(model: Model) -> Conditioner:
    if not isinstance(model.conditioner, Conditioner):
        raise ArgumentError(
            f"{model.name} is unconditional: it follows no words. Fit a direction with `ddim-edit fit`, or load a "
            "model that follows prompts."
        )
    return model.conditioner
