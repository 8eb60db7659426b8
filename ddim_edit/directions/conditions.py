"""Cells of label tables: numbers, words for them, marks of unknown labels, and conditions."""

import math
import operator
import re
from collections.abc import Callable

from ddim_edit.directions.label_tables import normalize, quote
from ddim_edit.errors import ArgumentError

Condition = Callable[[str], bool]
"""Whether the text of a cell meets a condition."""

COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
COMPARISON = re.compile(rf"(>=|<=|>|<)\s*({NUMBER})")
RANGE = re.compile(rf"((?:{NUMBER})?)\s*\.\.\s*((?:{NUMBER})?)")
UNKNOWN = frozenset(
    {"", "unknown", "unk", "not known", "na", "n/a", "n.a.", "#n/a", "<na>", "nan", "nat", "null", "nil", "none"}
    | {"unsure", "not sure", "unclear", "uncertain", "undefined", "undetermined", "unspecified", "unlabeled"}
    | {"unlabelled", "missing", "not available", "tbd", "?", "??", "???", "-", "--", "\u2013", "\u2014", "\u2026"}
    | {".", "...", "*"}
)
"""Marks of a label that is not known, in lower case; compared without case."""
WORDS = {**dict.fromkeys(("true", "yes", "t", "y"), 1.0), **dict.fromkeys(("false", "no", "f", "n"), 0.0)}
"""Words for numbers in tables, in lower case; compared without case."""


def parse_condition(text: str) -> Condition:
    """Return the condition on a cell that a text describes: a comparison, a range or one value.

    ">=55", "<=3", ">2" and "<3" compare numbers; "18..32" is a range that includes both ends; anything else is a value
    that the cell has to equal, as text in any case or as a number ("1" is met by "1.0" and by "True"). They do not
    combine.

    Raises:
        ArgumentError: a malformed text; the condition itself raises it for a cell that has to be a number and is not.

    Examples:
        >>> parse_condition("18..32")("25.5")
        True
        >>> parse_condition("yes")("no")
        False
    """
    text = text.strip()
    if match := COMPARISON.fullmatch(text):
        compare = COMPARISONS[match[1]]
        bound = float(match[2])
        return lambda cell: compare(parse_number(cell), bound)
    if match := RANGE.fullmatch(text):
        low, high = match.groups()
        if not low or not high or float(low) > float(high):
            raise ArgumentError(f"{text!r} is not a range such as '18..32'. Give the lower end, then the higher one.")
        return lambda cell: float(low) <= parse_number(cell) <= float(high)
    if not text or text[0] in "<>=!":
        raise ArgumentError(f"{text!r} is not a condition such as '>=55', '<3', '18..32' or 'yes'.")
    wanted = normalize(text).casefold()
    return lambda cell: normalize(cell).casefold() == wanted or is_same_number(cell, wanted)


def parse_number(cell: str) -> float:
    """Return the finite number in a cell.

    Raises:
        ArgumentError: something else.
    """
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError(f"{quote(cell)} is not a number. Correct that cell, or empty it to leave its image out.")
    return number


def read_number(cell: str) -> float:
    """Return the number in a cell, or that of a word such as "yes"; errors as `parse_number`."""
    word = cell.strip().casefold()
    return WORDS[word] if word in WORDS else parse_number(cell)


def is_same_number(cell: str, text: str) -> bool:
    """Return whether two texts are one number, or words for it."""
    return names_number(text) and is_number(cell) and read_number(cell) == read_number(text)


def names_number(text: str) -> bool:
    """Return whether a condition is a number or a word for it; one letter may be another word's, as f for female."""
    return text.casefold() not in ("t", "f", "y", "n") and is_number(text)


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, or a word for one."""
    try:
        read_number(cell)
    except ArgumentError:
        return False
    return True
