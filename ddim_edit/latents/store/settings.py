"""What decides the bytes of a store, as JSON: written once, and held against every later run."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ddim_edit.errors import LatentError, LatentMismatchError
from ddim_edit.io.atomic import atomic
from ddim_edit.io.schema import parse_json
from ddim_edit.latents.store.layout import FORMAT, Layout


def read_settings(file: Path) -> dict[str, Any] | None:
    """The settings in a file, or None where there is none.

    Raises:
        LatentError: something else is in it, or it is of another format.
    """
    try:
        record = parse_json(file.read_bytes())
        written = record["format"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise LatentError("the settings of a store", f"{file}, which is damaged", "make the store anew") from error
    if written != FORMAT:
        given = f"{file} of format {written}"
        raise LatentError(f"a store of format {FORMAT}", given, "use the version of ddim-edit that wrote it")
    return dict(record)


def agree(file: Path, wanted: Mapping[str, Any]) -> None:
    """Write settings where there are none yet or nothing was computed by them, or insist that they are the same.

    Raises:
        LatentMismatchError: the first setting that differs.
    """
    record, kept = {"format": FORMAT, **wanted}, read_settings(file)
    if kept is None or (kept != record and Layout(file.parent).is_hollow):
        with atomic(file) as temporary:
            temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    else:
        require_same(file, kept, record)


def require_same(file: Path, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Insist that what is wanted is what a store has; what it has beyond that is not looked at.

    Raises:
        LatentMismatchError: the first setting that differs, by name.
    """
    mine = dict(_leaves(kept))
    for name, value in _leaves(wanted):
        if mine.get(name) != value:
            raise LatentMismatchError(
                f"{name} {_short(mine.get(name))}, by which {file.parent.name} was begun",
                f"{_short(value)}",
                "leave it as it was, write to another name, or use --overwrite",
            )


def _leaves(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
