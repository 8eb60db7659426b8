"""Records: the JSON in files, read without trust. What is asked of entries is a table of checks."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]


def parsed(text: str | bytes) -> Any:
    """What a JSON text in UTF-8 says; one that is nested too deeply to be followed is none.

    Errors: ValueError, and no other.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode())
    except RecursionError as error:
        raise json.JSONDecodeError("Nested too deeply", "", 0) from error


def find_invalid(record: Mapping[str, Any], checks: Mapping[str, Check]) -> str | None:
    """The first entry that is missing or not what it should be, in words; None where all are."""
    for name, check in checks.items():
        if name not in record:
            return f"no {name}"
        if not check(record[name]):
            return f"{name} {short(record[name])}"
    return None


def short(value: object) -> str:
    """A JSON value in few words."""
    if isinstance(value, dict | list):  # which may be long, or too deep to be written out
        return "of several entries" if value else "of no entries"
    return f"{value!r:.60}" if not isinstance(value, int) or abs(value) < 2**63 else "of more than 64 bits"


def is_text(value: object) -> bool:
    """Whether it is a text."""
    return isinstance(value, str)


def is_number(value: object) -> bool:
    """Whether it is a finite number, no truth value, and not too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: object) -> bool:
    """Whether it is a whole number of 64 bits."""
    return type(value) is int and -(2**63) <= value < 2**64


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0 on."""
    return is_whole(value) and value >= 0  # type: ignore[operator]


def is_table(value: object) -> bool:
    """Whether it is an object of names and values."""
    return isinstance(value, dict)


def list_of(check: Check) -> Check:
    """Whether a value is a list of such."""
    return lambda value: isinstance(value, list) and all(map(check, value))


def maybe(check: Check) -> Check:
    """Whether a value is null or such."""
    return lambda value: value is None or check(value)


def table_of(checks: Mapping[str, Check]) -> Check:
    """Whether a value is an object whose entries are such, as far as they are there and known."""
    return lambda value: is_table(value) and all(check(value[name]) for name, check in checks.items() if name in value)
