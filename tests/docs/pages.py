"""What the documentation says to type: its blocks of code and its command lines, wherever they stand."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from ddim_edit.cli.main import commands

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[abf]*/**/*.md")])
"""Every Markdown page of the project: the README, docs/, and those of assets/, benchmarks/ and fuzz/."""
SOURCES = sorted(
    path for name in ("ddim_edit", "cli", "examples", "benchmarks") for path in (ROOT / name).rglob("*.py")
)

_FENCE = re.compile(
    r"(?:^[ ]*<!-- (?P<mark>[\w ]+): (?P<detail>[^\n]*?) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
_INLINE = re.compile(r"(?<!`)(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_PROGRAM = re.compile(r"(?:^|\s)(?:ddim-edit|-m ddim_edit)(?=\s)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. A comment above it, which readers do not see, may mark it.

    `<!-- not run: REASON -->` says why it cannot run here, `<!-- file: NAME -->` that it is a file the reader writes.
    """

    language: str
    text: str
    mark: str = ""
    detail: str = ""

    @property
    def shell_lines(self) -> list[str]:
        """Its command lines without their continuations; none if it is not for a shell."""
        if self.language not in ("sh", "bash"):
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


@dataclass(frozen=True)
class Line:
    """A command line of ours, and whether it is a mention that may leave required arguments out."""

    arguments: tuple[str, ...]
    is_mention: bool

    def __str__(self) -> str:
        return shlex.join(("ddim-edit", *self.arguments))


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown page."""
    found = []
    for match in _FENCE.finditer(page.read_text()):
        indent = len(match["indent"])
        text = "".join(line[indent:] for line in match["text"].splitlines(keepends=True))
        found.append(Block(match["language"], text, match["mark"] or "", match["detail"] or ""))
    return found


def lines_of_page(page: Path) -> Iterator[Line]:
    """Yield the command lines of ours in the blocks of a page, and those that its prose mentions."""
    for block in blocks(page):
        for text in block.shell_lines:
            yield from _lines(text)
    for span in inline(page):
        yield from _lines(span, is_mention=True)


def inline(page: Path) -> list[str]:
    """Return the inline code of a page."""
    prose = _FENCE.sub("", page.read_text())
    return [" ".join(text.split()) for _, text in _INLINE.findall(prose)]


def lines_of_source(path: Path) -> Iterator[Line]:
    """Yield the command lines of ours in the docstrings and the text comments of a module."""
    source = path.read_text()
    nodes = ast.walk(ast.parse(source))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]
    # sphinx-gallery reads the comments of examples as prose.
    texts.append("\n".join(line.removeprefix("# ") for line in source.splitlines() if line.startswith("# ")))
    for text in texts:
        yield from _lines_of_help(text)
        for _, span in _INLINE.findall(text):
            yield from _lines(" ".join(span.split()), is_mention=True)


def lines_of_help(command: click.Command) -> Iterator[Line]:
    """Yield the command lines that the help of a command shows as examples."""
    for text in (command.help, command.epilog):
        yield from _lines_of_help(text or "")


def _lines_of_help(text: str) -> Iterator[Line]:
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"\s*(\$ )?ddim-edit ", line):
            yield from _lines(line.strip().removeprefix("$ "))


def _lines(text: str, is_mention: bool = False) -> Iterator[Line]:
    """Yield what follows our program in a command line, up to a pipe; `...` stands for what is left out."""
    found = _PROGRAM.search(text)
    if found is None:
        return
    lexer = shlex.shlex(text[found.end() :], posix=True, punctuation_chars="|;&")
    lexer.whitespace_split = True
    arguments: list[str] = []
    for word in lexer:
        if set(word) <= set("|;&"):
            break
        # A variable of the shell stands for a number wherever the pages use one.
        arguments.append(re.sub(r"\$\w+(?=/)", "0", re.sub(r"\$\w+$", "8", word)))
    abridged = "..." in arguments
    yield Line(tuple(word for word in arguments if word != "..."), is_mention or abridged)


def every_command() -> dict[str, click.Command]:
    """Return the commands of the program by name."""
    context = click.Context(commands)
    found = {name: commands.get_command(context, name) for name in commands.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def every_option() -> set[str]:
    """Return all options, in the form in which they are typed."""
    parameters = [*commands.params, *(each for command in every_command().values() for each in command.params)]
    typed = {flag for each in parameters for flag in (*each.opts, *each.secondary_opts) if flag.startswith("-")}
    return typed | {"--help", "--version", "-h"}
