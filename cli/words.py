"""Words among the directions of `edit`: their options, and how a name is told from words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .command import Option, OptionGroup, did_you_mean
from .session import Session
from .types import DEFAULT_MODEL, DIRECTION, FiniteRange, Text, list_assets, list_directions, parse_strength

if TYPE_CHECKING:
    from ddim_edit import Direction, WordDirection

INVERSION = ("steps", "solver", "grid", "times", "exact", "lossless", "tol", "dequantise", "dequantise_seed")
"""Options of how images are inverted, which fitted directions settle themselves."""
CONDITION = ("refine_codec", "prompt", "negative_prompt", "class", "guidance_scale")


@dataclass(frozen=True)
class WordOptions:
    """What the options say of words.

    Attributes:
        pairs: of --from and --to, each with its strength.
        settings: of all words, as fields of a `WordDirection`.
    """

    pairs: Sequence[tuple[str, str, float]] = ()
    settings: Mapping[str, Any] | None = None


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
            help="Words, or the number of a class, that the image is to show instead of --from, and how much of the way "
            "to go. [default: all of it, 1] Repeatable, in pairs.",
        ),
        Option(
            "--words",
            argument="form",
            type=click.Choice(WORD_FORMS),
            help="Whether words guide what the network predicts, or are added to the encoded prompt. [default: guidance]",
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


def _combine(
    origins: Sequence[str], targets: Sequence[tuple[str, float]], **settings: Any
) -> WordOptions:
    if len(origins) != len(targets):
        raise click.UsageError("--from and --to go in pairs. For words without a --from there is --set.")
    pairs = [(origin, to, strength) for origin, (to, strength) in zip(origins, targets, strict=True)]
    return WordOptions(pairs, {name: value for name, value in settings.items() if value is not None})


def require_names(names: Iterable[str], options: WordOptions, model: str | None) -> None:
    """Refuse what a packaged model does not have: names that are neither packaged for it nor files, and words."""
    if model is not None and model not in list_assets("models"):
        return  # it is not known yet whether it follows prompts
    known = list_directions(model)
    for name in names:
        if name not in known and not name.endswith(DIRECTION) and not Path(name).exists():
            hint = did_you_mean(name, known) or f" It has {', '.join(known)}."
            raise click.UsageError(
                f"{model or DEFAULT_MODEL} has no direction {name!r}, and there is no such file.{hint} Words are for a "
                "--model that follows prompts."
            )
    if options.pairs:
        raise click.UsageError(f"{model or DEFAULT_MODEL} follows no words. Name a --model that follows prompts.")


def resolve(session: Session, name: str, options: WordOptions) -> "Direction | WordDirection":
    """Return the direction of a name, or words with what the options say of them."""
    from ddim_edit import WordDirection
    from ddim_edit.directions import resolve_direction

    found = resolve_direction(name, session.editor.model)
    return replace(found, **(options.settings or {})) if isinstance(found, WordDirection) else found


def resolve_pairs(options: WordOptions) -> "dict[WordDirection, float]":
    """Return the words of --from and --to with their strengths."""
    from ddim_edit import WordDirection

    pairs: dict[WordDirection, float] = {}
    for origin, to, strength in options.pairs:
        pairs[WordDirection(to, origin, **(options.settings or {}))] = strength
    return pairs


def require_unfitted(name: str | None) -> None:
    """Refuse options of the inversion beside a fitted direction, and those of words where there are none.

    Args:
        name: of a fitted direction; None where all are words.
    """
