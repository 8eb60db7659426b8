"""The TOML file of --config: defaults of options, in a table for each command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ddim_edit.errors import ArgumentError
from ddim_edit.io.regular import require_regular

from .command import CONFIG_FILE, Option, did_you_mean
from .group import CommandGroup

LARGEST = 2**20
"""Bytes of a file; one that only claims to be vast would take as much memory."""
SHARED = "default"
"""The table of options for every command; what stands above all tables belongs to it too."""


def read_config(context: click.Context, parameter: click.Parameter, file: Path | None) -> None:
    """Make the values of a file the defaults of the commands; the callback of --config.

    Names are checked for the whole file at once, values when their command runs.

    Raises:
        UsageError: a file that is not TOML, or that names a command or an option that does not exist.
    """
    if file is None:
        return
    group = context.command
    assert isinstance(group, CommandGroup)
    record = _read_toml(file)

    tables: dict[str, dict[str, Any]] = {}
    common: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            tables[key] = value
        else:
            common[key] = value
    common.update(tables.pop(SHARED, {}))
    for name in tables:
        if name not in group.modules:
            hint = did_you_mean(name, [*group.modules, SHARED])
            raise click.UsageError(f"{file}: there is no command {name!r}.{hint}")

    shared: set[str] = set()
    context.default_map = {}
    context.meta[CONFIG_FILE] = str(file)
    for name in group.modules:
        options = group.load(name).options
        own_shared = [key for key, option in options.items() if option.shared]
        shared.update(own_shared)
        values = {key: common[key] for key in own_shared if key in common}
        context.default_map[name] = _defaults(file, name, {**values, **tables.get(name, {})}, options)
    for key in common:
        if key not in shared:
            hint = did_you_mean(key, sorted(shared))
            raise click.UsageError(f"{file}: {key!r} is not an option that commands share.{hint}")


def _read_toml(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        require_regular(file, ArgumentError)
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise click.UsageError(f"{file}: this is larger than 1 MB, so it is no file of options.")
        record = tomllib.loads(content.decode("utf-8"))
    except ArgumentError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.UsageError(f"{file}: cannot read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise click.UsageError(f"{file}: not a TOML file: {str(error).rstrip('.'):.200}.") from error
    return record


def _defaults(file: Path, command: str, values: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """Return values by the names that click has for their options, each as the text that one would type."""
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        if key not in options:
            hint = did_you_mean(key, list(options))
            raise click.UsageError(f"{file}: {key!r} is not an option of {command}.{hint}")
        option = options[key]
        if isinstance(value, dict) or (isinstance(value, list) and not option.multiple):
            raise click.UsageError(f"{file}: {key} of {command} takes one value, not a table or list.")
        # As text, numbers are checked as if they were typed: click would cut 2.5 to 2 where it wants an integer.
        if option.multiple:
            defaults[str(option.name)] = [str(item) for item in (value if isinstance(value, list) else [value])]
        else:
            defaults[str(option.name)] = str(value)
    return defaults
