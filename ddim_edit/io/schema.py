"""Check JSON that was read from files.

A schema is a mapping from the keys of a JSON object to checks, written with the words of this module:

    from ddim_edit.io import schema

    RECIPE = {
        "model": schema.text,
        "times": schema.list_of(schema.number),
        "label": schema.optional(schema.count),
        "dtype": schema.one_of("float32", "bfloat16"),
        "condition": schema.table_of({"guidance_scale": schema.number}),
    }

    schema.validate(record, RECIPE, "latent.safetensors", LatentError)

Everything that a file may contain is checked here, by one vocabulary. Three ways to use it:

- `validate` for a whole record, such as the header of a latent: returns the record, or raises the error of the
  package that reads it, naming file and key.
- `read_entry` for single entries of a record with defaults and unknown neighbours, such as a scheduler's config.
- `find_problem` where the caller words the error itself. A dataclass of settings, such as the config of a UNet, keeps a
  check for each of its fields and calls `find_problem(vars(self), CHECKS)` in `__post_init__`.

A check of your own: `Check("a multiple of 8", lambda value: schema.positive_int.accepts(value) and value % 8 == 0)`.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim_edit.errors import DDIMEditError
from ddim_edit.io.regular import require_regular

LARGEST_JSON = 1 << 26
"""Bytes of a JSON file that is read; the index of the largest sharded checkpoints has some ten million."""


@dataclass(frozen=True)
class Check:
    """What the value of an entry must be.

    Args:
        wanted: in words that follow "must be", as in "a positive integer".
        accepts: whether a value is one. It is called with whatever JSON can hold, and must not raise.
        inside: for lists and tables, returns what is wrong inside of the value that has this name, or None.
    """

    wanted: str
    accepts: Callable[[Any], bool]
    inside: Callable[[Any, str], str | None] | None = None

    def find_problem(self, value: object, name: str) -> str | None:
        """Return what is wrong with the value of the entry `name`, as a clause, or None."""
        if not self.accepts(value):
            return f"{name} must be {self.wanted}, not {describe(value)}"
        return self.inside(value, name) if self.inside is not None else None


Schema = Mapping[str, Check]


def _is_int(value: object) -> bool:
    # bool is a subclass of int. Integers of more than 64 bits would overflow in torch and numpy.
    return type(value) is int and -(2**63) <= value < 2**64


def _is_number(value: object) -> bool:
    # JSON integers may be too large for a float, and Python's json reads NaN and Infinity: the comparison refuses both.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


anything = Check("anything", lambda value: True)
text = Check("a text", lambda value: isinstance(value, str))
integer = Check("an integer", _is_int)
count = Check("an integer of at least 0", lambda value: _is_int(value) and value >= 0)
positive_int = Check("a positive integer", lambda value: _is_int(value) and value > 0)
number = Check("a finite number", _is_number)
positive_number = Check("a positive number", lambda value: _is_number(value) and value > 0)
flag = Check("true or false", lambda value: isinstance(value, bool))
table = Check("a table", lambda value: isinstance(value, dict))


def int_between(low: int, high: int) -> Check:
    """Return the check for an integer from `low` to `high`."""
    return Check(f"an integer from {low} to {high}", lambda value: _is_int(value) and low <= value <= high)


def one_of(*choices: str | int | float | None) -> Check:
    """Return the check for a value that is one of several."""
    # Types are compared too: in Python True == 1 and 1 == 1.0.
    return Check(
        " or ".join(json.dumps(choice) for choice in choices),
        lambda value: any(type(value) is type(choice) and value == choice for choice in choices),
    )


def list_of(item: Check, length: int | None = None) -> Check:
    """Return the check for a list (or tuple) of items that each pass a check.

    Args:
        item: the check of an item.
        length: how many there must be; None is any number.
    """

    def inside(values: Any, name: str) -> str | None:
        problems = (item.find_problem(value, f"{name}[{index}]") for index, value in enumerate(values))
        return next((problem for problem in problems if problem), None)

    wanted = "a list" if length is None else f"a list of {length}"
    return Check(
        wanted, lambda value: isinstance(value, list | tuple) and (length is None or len(value) == length), inside
    )


def optional(check: Check) -> Check:
    """Return the check for a value that is null or passes a check."""

    def inside(value: Any, name: str) -> str | None:
        return None if value is None else check.find_problem(value, name)

    return Check(f"{check.wanted} or null", lambda value: value is None or check.accepts(value), inside)


def either(*checks: Check) -> Check:
    """Return the check for a value that passes one of several checks."""
    return Check(
        " or ".join(check.wanted for check in checks),
        lambda value: any(check.find_problem(value, "") is None for check in checks),
    )


def table_of(schema: Schema, closed: bool = False) -> Check:
    """Return the check for an object whose known entries pass their checks; none of them has to be there.

    Args:
        schema: a check for each known entry.
        closed: whether to refuse unknown entries.
    """

    def inside(record: Any, name: str) -> str | None:
        present = {key: check for key, check in schema.items() if key in record}
        problem = find_problem(record, present, closed)
        return problem and f"{name}.{problem}"

    return Check("a table", table.accepts, inside)


def map_of(check: Check) -> Check:
    """Return the check for an object whose values all pass a check, whatever its keys."""

    def inside(record: Any, name: str) -> str | None:
        problems = (check.find_problem(value, f"{name}.{key:.40}") for key, value in record.items())
        return next((problem for problem in problems if problem), None)

    return Check("a table", table.accepts, inside)


def find_problem(record: Mapping[str, Any], schema: Schema, closed: bool = False) -> str | None:
    """Return the first thing that is wrong with a record, as a clause such as "steps is missing", or None.

    Args:
        record: a JSON object.
        schema: a check for each entry; all of them must be there.
        closed: whether to refuse entries that the schema does not know.

    Examples:
        >>> find_problem({"steps": 0}, {"steps": positive_int})
        'steps must be a positive integer, not 0'
    """
    for name, check in schema.items():
        if name not in record:
            return f"{name} is missing"
        if problem := check.find_problem(record[name], name):
            return problem
    if closed and (unknown := sorted(record.keys() - schema.keys())):
        return f"{unknown[0]:.40} is not a known entry"
    return None


def validate(
    record: object,
    schema: Schema,
    source: str,
    error: type[DDIMEditError],
    remedy: str = "",
    closed: bool = False,
) -> dict[str, Any]:
    """Return the record if it is a JSON object that fits the schema.

    Args:
        record: whatever was read.
        schema: a check for each entry; all of them must be there.
        source: what the record is, for the message: a file name, or words such as "the recipe".
        error: what to raise.
        remedy: a sentence to end the message with.
        closed: whether to refuse entries that the schema does not know.

    Raises:
        error: the record is something else; the message names the source and the entry.
    """
    if not isinstance(record, dict):
        raise error(f"{source}: it must be a JSON object, not {describe(record)}. {remedy}".rstrip())
    if problem := find_problem(record, schema, closed):
        raise error(f"{source}: {problem}. {remedy}".rstrip())
    return record


_REQUIRED = object()


def read_entry(
    record: Mapping[str, Any],
    name: str,
    check: Check,
    default: Any = _REQUIRED,
    *,
    source: str,
    error: type[DDIMEditError],
) -> Any:
    """Return one entry of a record, or its default, if it passes a check.

    Args:
        record: a JSON object.
        name: the key of the entry.
        check: what its value must be.
        default: the value where the entry is missing; without a default it must be there.
        source: what the record is, for the message: a file name, or words such as "scheduler_config.json".
        error: what to raise.

    Raises:
        error: the entry is missing or something else; the message names the source and the entry.
    """
    value = record.get(name, default)
    problem = f"{name} is missing" if value is _REQUIRED else check.find_problem(value, name)
    if problem is not None:
        raise error(f"{source}: {problem}.")
    return value


def parse_json(content: str | bytes) -> Any:
    """Return what a JSON text in UTF-8 says.

    Raises:
        ValueError: it is no such text, or nested too deeply; and no other error.
    """
    try:
        return json.loads(content if isinstance(content, str) else content.decode())
    except RecursionError as error:
        raise json.JSONDecodeError("Nested too deeply", "", 0) from error


def read_json(path: Path, error: type[DDIMEditError], remedy: str = "") -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        error: what to raise.
        remedy: a sentence to end the message with.

    Raises:
        error: the file cannot be read, is larger than 64 MiB, or holds something else; the message names it.
    """
    require_regular(path, error)
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise error(f"{path}: a JSON file may have at most {LARGEST_JSON:,} bytes. {remedy}".rstrip())
        record = parse_json(path.read_bytes())
    except OSError as failure:
        raise error(f"{path}: cannot read: {failure.strerror or failure}. {remedy}".rstrip()) from failure
    except ValueError as failure:
        raise error(f"{path}: it is not JSON. {remedy}".rstrip()) from failure
    return validate(record, {}, str(path), error, remedy)


def describe(value: object) -> str:
    """Return a JSON value in at most 60 characters, for messages."""
    # Lists and tables may be long, and too deep to be written out.
    if isinstance(value, dict | list | tuple):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value)} entries"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of more than 64 bits"
    shown = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return shorten(shown)


def shorten(text: str, length: int = 60) -> str:
    """Return a text of at most `length` characters, for messages: what is longer is cut and ends in dots."""
    return text if len(text) <= length else f"{text[: length - 3]}..."
