"""Write the pages of the command line: one for each command, with its options in tables."""

import re
from collections.abc import Sequence
from pathlib import Path

import click
from reference_pages import escaped, write_pages

from ddim_edit.cli.command import ENVIRONMENT, SECTIONS, Command, Option
from ddim_edit.cli.main import commands

DEFAULT = re.compile(r"\s*\[default: (.*)\]$")
"""Default that a help text states itself, where click would show none."""

INTRODUCTION = """\
Results go to files, or to standard output where there are none; notes, progress and warnings go to standard error. One
file that cannot be read never ends a batch. Nothing is downloaded unless you name it.

.. list-table::
   :align: left
   :header-rows: 1

   * - Code
     - Meaning
   * - 0
     - done
   * - 1
     - something failed
   * - 2
     - wrong use
   * - 130
     - interrupted

Every option can also be set in the environment or in a configuration file
(:doc:`Configuration files, environment variables and shell completion </configuration>`)."""
VARIABLES = """\
``{prefix}_OPTION`` sets an option of this command alone, ``{prefix}_{own}`` for example. Variables without the
name of the command, such as ``{shared}``, hold for every command that has the option, and come second."""


def write(folder: Path) -> None:
    """Write a page for each command, and their index."""
    program = click.Context(commands, info_name="ddim-edit", **commands.context_settings)
    pages = {str(command.name): page(command, program) for command in commands.loaded}
    pages["index"] = index(program)
    write_pages(folder, pages)


def index(program: click.Context) -> str:
    """Return the page that lists the commands by section, and the options of the program itself."""
    parts = [heading("The command line", "="), INTRODUCTION]
    for section in SECTIONS:
        listed = [command for command in commands.loaded if command.section == section]
        rows = [[f":doc:`{command.name}`", prose(command.get_short_help_str(limit=200))] for command in listed]
        parts += [heading(section, "-"), table(["Command", "What it does"], rows, "20 80")]
    parts += [heading("Options of the program", "-"), option_table(commands.get_params(program), program)]
    names = "\n".join(f"   {command.name}" for command in commands.loaded)
    parts.append(f".. toctree::\n   :hidden:\n\n{names}")
    return "\n\n".join(parts) + "\n"


def page(command: Command, program: click.Context) -> str:
    """Return the page of one command: usage, what it does, examples, and a table for each group of options."""
    context = click.Context(command, info_name=command.name, parent=program)
    parts = [
        heading(context.command_path, "="),
        code("text", [f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}"]),
        *[prose(paragraph) for paragraph in (command.help or "").split("\n\n")],
        heading("Examples", "-"),
        code("sh", command.examples),
        heading("Options", "-"),
    ]
    parts.append(about_variables(command, context))
    titled: dict[str, list[click.Parameter]] = {}
    for group in command.groups:
        titled.setdefault(group.title, []).extend(group.parameters)
    for title, parameters in titled.items():
        if any(isinstance(each, click.Option) for each in parameters):
            parts += [heading(title, "~"), option_table(parameters, context)]
    return "\n\n".join(parts) + "\n"


def about_variables(command: Command, context: click.Context) -> str:
    """Return the sentences about environment variables, with an option that the command has."""
    shared = next(option for option in command.options.values() if option.shared)
    own = str(shared.name).upper()
    return VARIABLES.format(prefix=context.auto_envvar_prefix, own=own, shared=variable(shared, context))


def option_table(parameters: Sequence[click.Parameter], context: click.Context) -> str:
    """Return the table of the options among some parameters, each with an anchor of its own."""
    options = [each for each in parameters if isinstance(each, click.Option) and not each.hidden]
    rows = [option_row(option, context) for option in options]
    return table(["Option", "Meaning", "Default", "Environment variable"], rows, "23 41 14 22")


def option_row(option: click.Option, context: click.Context) -> list[str]:
    """Return what a table says of an option: how it is typed, what it means, its default and its variable."""
    anchor = f"{context.command_path} {option.name}".replace(" ", "-").replace("_", "-")
    meaning = " ".join((option.help or "").split())
    stated = DEFAULT.search(meaning)
    if stated:
        default = prose(stated[1]) if " " in stated[1] else literal(stated[1])
        meaning = meaning[: stated.start()]
    else:
        default = literal(shown_default(option, context))
    details = option.get_help_extra(context)
    sentences = [prose(meaning)]
    if isinstance(option.type, click.Choice):
        sentences.append(f"One of {', '.join(map(literal, option.type.choices))}.")
    if "range" in details:
        sentences.append(f"Range: {details['range'].replace('<', ' < ').replace(' < =', ' ≤ ')}.")
    if option.required:
        sentences.append("Required.")
    # --help and --version are for the command line alone.
    name = literal(variable(option, context)) if not option.is_eager else ""
    return [f".. _{anchor}:\n\n{literal(typed(option, context))}", " ".join(sentences), default, name]


def shown_default(option: click.Option, context: click.Context) -> str:
    """Return the default of an option as it is typed, or nothing."""
    if option.secondary_opts:
        return option.opts[0] if option.get_default(context) else option.secondary_opts[0]
    return option.get_help_extra(context).get("default", "")


def typed(option: click.Option, context: click.Context) -> str:
    """Return an option as it is typed; choices are listed with its meaning."""
    flags = ", ".join([*option.opts, *option.secondary_opts])
    if option.is_flag or option.count or isinstance(option.type, click.Choice):
        return flags
    return f"{flags} {option.make_metavar(context)}"


def variable(option: click.Option, context: click.Context) -> str:
    """Return the environment variable of an option: the one for all commands, if they share it."""
    shared = isinstance(option, Option) and option.shared
    prefix = ENVIRONMENT if shared else context.auto_envvar_prefix
    return f"{prefix}_{str(option.name).upper()}"


def heading(title: str, line: str) -> str:
    """Return a heading, underlined."""
    return f"{title}\n{line * len(title)}"


def code(language: str, lines: Sequence[str]) -> str:
    """Return a block of code."""
    return f".. code-block:: {language}\n\n" + "\n".join(f"   {line}" for line in lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], widths: str) -> str:
    """Return a table; cells are reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "   :align: left", f"   :widths: {widths}", ""]
    for row in [header, *rows]:
        for column, cell in enumerate(row):
            first, *more = cell.split("\n")
            bullet = "     - " if column else "   * - "
            lines.append(f"{bullet}{first}".rstrip())
            lines += [f"       {line}".rstrip() for line in more]
    return "\n".join(lines)


def literal(text: str) -> str:
    """Return text as code; nothing stays nothing."""
    return f"``{text}``" if text else ""


def prose(text: str) -> str:
    """Return a help text as reStructuredText, its options as code."""
    joined = " ".join(text.split())
    parts = re.split(r"(`[^`]*`)", joined)
    parts[::2] = [re.sub(r"(?<![\w-])--[a-z][\w-]*", r"``\g<0>``", part) for part in parts[::2]]
    return escaped("".join(parts))
