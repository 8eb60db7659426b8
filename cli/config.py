"""Options that come from the environment or, after it, from a TOML file; what is typed beats both."""

import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

PREFIX = "DDIM_EDIT"
SHARED = "default"
"""The table of what holds for every command; so does what stands above all tables."""
LARGEST, LONGEST = 1 << 16, 4096
"""Bytes of the largest file that is read, and of its longest line: tomllib takes minutes for keys of 50,000 dots."""
Values = Mapping[str, Any]


class _Kind(NamedTuple):
    """What values of a file an option takes, in words and as types."""

    wanted: str
    types: tuple[type, ...]


_FLAG, _WHOLE = _Kind("true or false", (bool,)), _Kind("a whole number", (int,))
_NUMBER, _WORD = _Kind("a number", (int, float)), _Kind("a text", (str,))
_TEXT = _Kind("a text or a number", (str, int, float))


def name_of(option: click.Parameter) -> str:
    """What an option is called in a file: its long name, without the dashes before it."""
    return max(option.opts, key=lambda flag: flag.startswith("--")).lstrip("-")


def let_environment_set(group: click.Group) -> None:
    """Have every option of every command read DDIM_EDIT_COMMAND_OPTION, and shared ones DDIM_EDIT_OPTION after that."""
    shared = _shared(group)
    for command in group.commands.values():
        for name, option in _options(command).items():
            own, common = _variable(command.name or "", name), _variable(name)
            option.envvar = [own, common] if name in shared else [own]


def read_config(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    """The callback of --config: gives the commands of the group the defaults that stand in a TOML file.

    Raises:
        UsageError: a file that cannot be read; a command, option or value in it that there is not.
    """
    assert isinstance(context.command, click.Group)
    if file is not None:
        context.default_map = _Reading(file, context.command, context).defaults(_parsed(file))
    return file


def with_source(error: click.ClickException) -> click.ClickException:
    """The error, told with the environment variable if the value that is wrong stands in one."""
    if isinstance(error, click.BadParameter) and error.ctx and isinstance(error.param, click.Option):
        source = error.ctx.get_parameter_source(error.param.name or "")
        if source is ParameterSource.ENVIRONMENT and isinstance(error.param.envvar, list):
            found = next(name for name in error.param.envvar if os.environ.get(name))
            return click.BadParameter(f"{error.message.rstrip('.')}, as {found} says.", error.ctx, error.param)
    return error


def _variable(*words: str) -> str:
    return "_".join((PREFIX, *words)).replace("-", "_").upper()


def _options(command: click.Command) -> dict[str, click.Option]:
    return {name_of(each): each for each in command.params if isinstance(each, click.Option)}


def _shared(group: click.Group) -> set[str]:
    """Names of options that mean one thing wherever they occur, as `--grid` does not."""
    meanings: dict[str, set[str | None]] = {}
    for command in group.commands.values():
        for name, option in _options(command).items():
            meanings.setdefault(name, set()).add(option.name)
    return {name for name, found in meanings.items() if len(found) == 1}


def _parsed(file: Path) -> Values:
    try:
        return tomllib.loads(_text(file))
    except OSError as error:
        raise _no_toml(file, f"which cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _no_toml(file, "which is not UTF-8") from error
    except RecursionError as error:
        raise _no_toml(file, "which is nested too deeply") from error
    except ValueError as error:  # TOML's own, and that of a number with thousands of digits
        raise _no_toml(file, f"which is none ({str(error).rstrip('.')[:200]})") from error


def _text(file: Path) -> str:
    if not file.is_file():
        raise _no_toml(file, "a folder" if file.is_dir() else "which is not there")
    if file.stat().st_size > LARGEST:
        raise _no_toml(file, f"which is larger than {LARGEST:,} bytes")
    content = file.read_bytes()
    if len(max(content.splitlines(), key=len, default=b"")) > LONGEST:
        raise _no_toml(file, f"which has a line of more than {LONGEST:,} bytes")
    return content.decode()


def _no_toml(file: Path, reason: str) -> click.UsageError:
    return click.UsageError(f"Wanted a TOML file, was given {file}, {reason}.")


class _Reading(NamedTuple):
    """One file, for the commands of one group."""

    file: Path
    group: click.Group
    context: click.Context

    def defaults(self, record: Values) -> dict[str, dict[str, Any]]:
        """By command, the values of its options: its own table's, and below them those that all commands share."""
        tables = {name: value for name, value in record.items() if isinstance(value, dict)}
        common = {name: value for name, value in record.items() if name not in tables} | tables.pop(SHARED, {})
        self._check_common(common)
        self._check_names(tables, {*self.group.commands, SHARED}, "is no command")
        made = {}
        for name, command in self.group.commands.items():
            options, own = _options(command), tables.get(name, {})
            self._check_names(own, options, f"is no option of {name}")
            shared = {key: value for key, value in common.items() if key in options}
            made[name] = self._of(command, SHARED, shared) | self._of(command, name, own)
        return made

    def _check_common(self, common: Values) -> None:
        shared = _shared(self.group)
        every = {name for command in self.group.commands.values() for name in _options(command)}
        self._check_names(common, every, "is no option of any command")
        if ambiguous := sorted(common.keys() - shared):
            raise self._wrong(f"{ambiguous[0]!r} has another meaning in each command: write it in the table of one")

    def _of(self, command: click.Command, table: str, values: Values) -> dict[str, Any]:
        """Values under the names that the command's function has for them, each as it would be typed."""
        options, context = _options(command), click.Context(command, parent=self.context)
        return {
            str(options[name].name): self._typed(context, options[name], f"[{table}] {name}", value)
            for name, value in values.items()
        }

    def _typed(self, context: click.Context, option: click.Option, place: str, value: object) -> object:
        several, kind = option.multiple and isinstance(value, list), _kind_of(option)
        items = list(value) if isinstance(value, list) and several else [value]
        for item in items:
            if type(item) not in kind.types or not _is_usual(item):
                raise self._wrong(f"{place} must be {kind.wanted}, not {_short(item)}")
        plain = [str(item) if str in kind.types else item for item in items]
        typed = plain if option.multiple else plain[0]
        try:
            option.process_value(context, typed)
        except click.BadParameter as error:
            raise self._wrong(f"{place} cannot be: {error.message}") from error
        return typed

    def _check_names(self, given: Collection[str], known: Collection[str], trouble: str) -> None:
        for name in sorted(set(given) - set(known)):
            close = difflib.get_close_matches(name, known, 1)
            raise self._wrong(f"{_short(name)} {trouble}" + (f"; did you mean {close[0]!r}?" if close else ""))

    def _wrong(self, reason: str) -> click.UsageError:
        return click.UsageError(f"In {self.file}, {reason}{'' if reason.endswith(('.', '?')) else '.'}")


def _kind_of(option: click.Option) -> _Kind:
    if option.is_flag:
        return _FLAG
    kinds = {"integer": _WHOLE, "integer range": _WHOLE, "float": _NUMBER, "float range": _NUMBER, "text": _TEXT}
    return kinds.get(option.type.name, _WORD)


def _is_usual(value: object) -> bool:
    """Whether a number is one, and of no more than TOML's 64 bits, and whether a text may be typed."""
    if isinstance(value, str):
        return "\0" not in value
    return not isinstance(value, int | float) or abs(value) < 2**63


def _short(value: object) -> str:
    if isinstance(value, dict | list):  # which may be too deep to be written out
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and not _is_usual(value):
        return "one of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
