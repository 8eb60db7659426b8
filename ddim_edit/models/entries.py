"""Entries of configs and settings: each is what it should be, or an error names it."""

from collections.abc import Collection, Mapping
from typing import Any

from ddim_edit.errors import ModelError
from ddim_edit.io.schema import number as finite_number

Entries = Mapping[str, Any]
MOST = 1_000_000
"""The largest count that is taken: more levels than that fill no schedule but the memory."""


def choice(entries: Entries, name: str, default: str, known: Collection[str]) -> str:
    """An entry that is a word out of `known`.

    Raises:
        ModelError: it is not.
    """
    value = entries.get(name, default)
    if not isinstance(value, str) or value not in known:
        remedy = "name what the network was trained with"
        raise ModelError(f"{name!r} to be one of {', '.join(known)}", f"{value!r}", remedy)
    return value


def number(entries: Entries, name: str, default: float) -> float:
    """An entry that is a positive number.

    Raises:
        ModelError: it is not.
    """
    value = entries.get(name, default)
    if not finite_number.accepts(value) or value <= 0:
        raise ModelError(f"{name!r} to be a positive number", f"{value!r}", f"{default:.3g} is usual")
    return float(value)


def count(entries: Entries, name: str, default: int) -> int:
    """An entry that is a positive whole number, up to a million.

    Raises:
        ModelError: it is not.
    """
    value = entries.get(name, default)
    if type(value) is not int or not 1 <= value <= MOST:
        raise ModelError(f"{name!r} to be a positive whole number", f"{value!r}", f"{default} is usual")
    return value


def word(entries: Entries, name: str, default: str) -> str:
    """An entry that is a text.

    Raises:
        ModelError: it is not.
    """
    value = entries.get(name, default)
    if not isinstance(value, str):
        raise ModelError(f"{name!r} to be a text", f"{value!r}", f"{default} is usual")
    return value


def words(entries: Entries, name: str) -> tuple[str, ...]:
    """An entry that is a list of texts; nothing where there is none.

    Raises:
        ModelError: it is something else.
    """
    value = entries.get(name, ())
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ModelError(f"{name!r} to be a list of texts", f"{value!r}", "fetch the checkpoint again")
    return tuple(value)
