"""The group of all commands, which imports each of them when it is needed."""

import pkgutil
from functools import cached_property
from importlib import import_module

import click

from . import commands
from .command import SECTIONS, Command


class CommandGroup(click.Group):
    """The commands in the modules of `cli.commands`; running one imports no other."""

    @cached_property
    def modules(self) -> dict[str, str]:
        """Names of the modules by those of the commands."""
        return {info.name.rstrip("_"): info.name for info in pkgutil.iter_modules(commands.__path__)}

    @property
    def loaded(self) -> list[Command]:
        """All commands, in the order of the help; imports them."""
        found = [self.load(name) for name in self.modules]
        return sorted(found, key=lambda command: (SECTIONS.index(command.section), command.order))

    def load(self, name: str) -> Command:
        """Import a command."""
        module = self.modules[name]
        found = getattr(import_module(f"{commands.__name__}.{module}"), module)
        assert isinstance(found, Command)
        return found

    def get_command(self, ctx: click.Context, cmd_name: str) -> Command | None:
        """Return the command of a name, or None."""
        return self.load(cmd_name) if cmd_name in self.modules else None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the help."""
        return [str(command.name) for command in self.loaded]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section of commands for each of `SECTIONS`."""
        loaded = self.loaded
        width = max(len(str(command.name)) for command in loaded)
        limit = formatter.width - 6 - width
        for section in SECTIONS:
            rows = [
                (str(command.name).ljust(width), command.get_short_help_str(limit))
                for command in loaded
                if command.section == section
            ]
            with formatter.section(section):
                formatter.write_dl(rows)
