"""Every command line in the documentation is one that the program takes."""

import importlib
import re
from pathlib import Path

import click
import pytest

from ddim_edit.cli.main import commands

from . import pages
from .pages import ROOT, Line

OTHER_PROGRAMS = {"--rdzv-endpoint", "--max-restarts", "--nproc-per-node", "--num_processes", "--gpus-per-task"}
"""Options of torchrun, srun and accelerate that the pages mention."""


@pytest.fixture(autouse=True)
def inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the settings file that pages mention, and commands that parse their arguments and do nothing."""
    monkeypatch.chdir(tmp_path)
    for variable in ("CONFIG", "MODEL", "STEPS", "DEVICE", "DTYPE"):
        monkeypatch.delenv(f"DDIM_EDIT_{variable}", raising=False)
    Path("run.toml").touch()
    for command in pages.every_command().values():
        monkeypatch.setattr(command, "callback", lambda **_: None)
        for parameter in command.params:
            if isinstance(parameter.type, click.Path):
                monkeypatch.setattr(parameter.type, "exists", False)


def misuse(line: Line) -> str | None:
    """Return what the program says against a command line; None if it takes it."""
    try:
        commands.main(args=list(line.arguments), prog_name="ddim-edit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError:
        return None
    except click.MissingParameter as error:
        return None if line.is_mention else f"{line}: {error.format_message()}"
    except click.ClickException as error:
        return f"{line}: {error.format_message()}"
    return None


def check(lines: list[Line], monkeypatch: pytest.MonkeyPatch) -> None:
    strict, mentions = [], []
    for line in lines:
        (mentions if line.is_mention else strict).append(line)
    wrong = [misuse(line) for line in strict]
    # What a mention leaves out must not hide what is wrong behind it.
    for command in pages.every_command().values():
        for parameter in command.params:
            monkeypatch.setattr(parameter, "required", False)
    wrong += [misuse(line) for line in mentions]
    assert not [each for each in wrong if each]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_command_lines_of_pages_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in pages.blocks(page):
        if block.mark == "file":
            Path(block.detail).write_text(block.text)
    check(list(pages.lines_of_page(page)), monkeypatch)


def test_command_lines_of_docstrings_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for path in pages.SOURCES for line in pages.lines_of_source(path)]
    assert lines
    check(lines, monkeypatch)


def test_command_lines_of_help_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for command in (commands, *pages.every_command().values()) for line in pages.lines_of_help(command)]
    assert lines
    check(lines, monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("invert", "a.png", "-o", "out", "--levle", "0.4T"), "No such option"),
        (("invert", "a.png", "-o", "out", "--solver", "rk45"), "rk45"),
        (("probe", "--images", "train", "--levels", "0.4T", "0.1T"), "unexpected extra argument"),
        (("invert", "a.png"), "Missing option"),
        (("paint", "a.png"), "No such command"),
    ],
)
def test_wrong_command_lines_are_found(arguments: tuple[str, ...], message: str) -> None:
    assert message in (misuse(Line(arguments, is_mention=False)) or "")


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_that_prose_mentions_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        pytest.skip("names the options of before")
    scripts = "".join(path.read_text() for path in (ROOT / "benchmarks").rglob("*.py"))
    known = pages.every_option() | OTHER_PROGRAMS | set(re.findall(r'"(--[\w-]+)"', scripts))
    mentioned = {flag for span in pages.inline(page) for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    own = {flag for flag in mentioned if not any(f"{flag} " in f"{span} " for span in foreign(page))}
    assert own <= known


def foreign(page: Path) -> list[str]:
    """Return the inline code of a page that calls other programs."""
    return [
        span for span in pages.inline(page) if re.match(r"(torchrun|srun|accelerate|pip|python|sphinx-build) ", span)
    ]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_modules_that_prose_mentions_exist(page: Path) -> None:
    missing = []
    for span in pages.inline(page):
        if re.fullmatch(r"(tests|benchmarks|examples|docs|ddim_edit|cli|assets|fuzz)/[\w./-]+", span):
            # These folders are made by the build of the site.
            made = ("docs/reference/api", "docs/reference/commands", "docs/tutorial")
            if not (ROOT / span).exists() and not span.startswith(made):
                missing.append(span)
        elif re.fullmatch(r"ddim_edit(\.\w+)+", span) and not resolves(span):
            missing.append(span)
    assert page.name == "CHANGELOG.md" or not missing


def resolves(name: str) -> bool:
    """Return whether a dotted name is that of a module or of something in one."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part, None)
        return found is not None
    return False
