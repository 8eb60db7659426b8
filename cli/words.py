"""Words among the directions of `edit`: their options, and how a name is told from words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ddim_edit.errors import ArgumentError

from .command import Command, Option, OptionGroup, did_you_mean
from .session import Session
from .types import DEFAULT_MODEL, DIRECTION, FiniteRange, Text, list_assets, list_directions, parse_strength

if TYPE_CHECKING:
    from ddim_edit import Direction, WordDirection


@dataclass(frozen=True)
class WordOptions:
    """What the options say of words.

    Attributes:
        pairs: of --from and --to, with their strengths.
        settings: of all words, as fields of a `WordDirection`.
    """

    pairs: "Mapping[WordDirection, float]" = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def word_group() -> OptionGroup:
    """Return the options of words, which become the command's `words`."""
    from ddim_edit.directions import WORD_FORMS

    options = [
        Option("--from", argument="origins", multiple=True, metavar="WORDS", help="Where --to leads away from."),
        Option(
            "--to",
            argument="targets",
            multiple=True,
            type=Text(parse_strength),
            metavar="WORDS[=STRENGTH]",
            help="Words, or the number of a class, that the image is to show instead of --from, and how much of the "
            "way to go. [default: all of it, 1] Repeatable, in pairs.",
        ),
        Option(
            "--words",
            argument="form",
            type=click.Choice(WORD_FORMS),
            help="Whether words guide what the network predicts, or are added to the encoded prompt. [default: "
            "guidance]",
        ),
        Option(
            "--mask-quantile",
            type=FiniteRange(0, 1, max_open=True),
            metavar="Q",
            help="Part of the image that words leave as it is, where they change least. [default: 0]",
        ),
        Option(
            "--warm-up",
            type=FiniteRange(0, 1, max_open=True),
            metavar="F",
            help="Part of T, down from x_T, in which words do not act yet. [default: 0]",
        ),
    ]
    return OptionGroup("Words, for models that follow prompts", options, "words", _combine)


def _combine(origins: Sequence[str], targets: Sequence[tuple[str, float]], **values: Any) -> WordOptions:
    from ddim_edit import WordDirection

    if len(origins) != len(targets):
        raise click.UsageError("--from and --to go in pairs. For words without a --from there is --set.")
    settings = {name: value for name, value in values.items() if value is not None}
    pairs: dict[WordDirection, float] = {}
    try:
        WordDirection("words", **settings)  # refuses what does not go together before a model is loaded
        for origin, (to, strength) in zip(origins, targets, strict=True):
            pairs[WordDirection(to, origin, **settings)] = strength
    except ArgumentError as error:
        raise click.UsageError(str(error)) from error
    return WordOptions(pairs, settings)


def require_names(names: Iterable[str], options: WordOptions, model: str | None) -> None:
    """Refuse what a packaged model does not have: names that are neither packaged for it nor files, and words."""
    from ddim_edit.models.hub_files import HubId

    if model is not None and model not in list_assets("models"):
        return  # it is not known yet whether it follows prompts
    known = list_directions(model)
    for name in names:
        is_file = name.endswith(DIRECTION) or Path(name).exists()
        if name not in known and not is_file and HubId.parse(name) is None:
            hint = did_you_mean(name, known) or f" It has {', '.join(known)}."
            raise click.UsageError(
                f"{model or DEFAULT_MODEL} has no direction {name!r}, and there is no such file.{hint} Words are for a "
                "--model that follows prompts."
            )
    if options.pairs:
        raise click.UsageError(f"{model or DEFAULT_MODEL} follows no words. Name a --model that follows prompts.")


@dataclass(frozen=True)
class ChosenDirections:
    """The directions of a command.

    Attributes:
        strengths: of those that move, in the order of the options.
        keep: those that stay.
        typed: the name or file of each fitted one, as it was typed.
    """

    strengths: "Mapping[Direction | WordDirection, float]"
    keep: "Sequence[Direction | WordDirection]"
    typed: "Mapping[Direction | WordDirection, str]"

    @property
    def fitted(self) -> "Direction | None":
        """The first fitted direction that moves, which says how images are inverted; None where all are words."""
        from ddim_edit import Direction

        return next((each for each in self.strengths if isinstance(each, Direction)), None)

    @property
    def recorded_strengths(self) -> dict[str, float]:
        """Strengths as a recipe has them: by the names of fitted directions, or by words."""
        return {self.typed.get(each, each.name): strength for each, strength in self.strengths.items()}

    @property
    def recorded_keep(self) -> tuple[str, ...]:
        """What stays, as a recipe has it."""
        return tuple(self.typed.get(each, each.name) for each in self.keep)

    @property
    def recorded_words(self) -> dict[str, Any] | None:
        """What words there are, as a recipe has them; None where all directions are fitted."""
        from ddim_edit import WordDirection

        everything = (*self.strengths, *self.keep)
        return {each.name: each.to_json() for each in everything if isinstance(each, WordDirection)} or None


def choose_directions(
    session: Session, strengths: Sequence[tuple[str, float]], keep: Sequence[str], options: WordOptions
) -> ChosenDirections:
    """Return the directions of the options: packaged ones and files, and for models that follow prompts also words.

    Raises:
        UsageError: options of words without words, or options of the inversion with a fitted direction.
        DirectionError: a name of no direction, for a model that follows no prompts.
    """
    from ddim_edit import WordDirection
    from ddim_edit.directions import resolve_direction
    from ddim_edit.latents.image_recipes import WORD_OPTIONS

    settings = options.settings
    typed: dict[Direction | WordDirection, str] = {}

    def find(name: str) -> "Direction | WordDirection":
        found = resolve_direction(name, session.editor.model, session.offline)
        if isinstance(found, WordDirection):
            return replace(found, **settings)
        typed[found] = name
        return found

    moved = {find(name): strength for name, strength in dict(strengths).items()}
    for direction, strength in options.pairs.items():
        moved[direction] = strength
    chosen = ChosenDirections(moved, [find(name) for name in keep], typed)
    fitted = next(iter(typed.values()), None)
    if settings and chosen.recorded_words is None:
        raise click.UsageError(
            f"{WORD_OPTIONS[next(iter(settings))]} is for words, and {fitted} is a fitted direction."
        )
    if fitted is not None and (typed_flag := _typed_inversion_option()):
        raise click.UsageError(f"Images are inverted as {fitted} was fitted. Leave {typed_flag} out.")
    return chosen


def _typed_inversion_option() -> str:
    """Return the first option of the inversion that was typed, or nothing."""
    context = click.get_current_context()
    assert isinstance(context.command, Command)
    for group in context.command.groups:
        for option in group.parameters if group.argument == "config" else ():
            if context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE:
                return option.opts[0]
    return ""
