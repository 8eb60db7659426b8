"""Workflows, the citation, the bibliography, the drawn architecture, and the pages of public names and commands."""

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import ddim_edit
from ddim_edit.cli.main import commands

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> dict[Any, Any]:
    # In YAML 1.1 a bare `on` is true.
    return yaml.safe_load(request.param.read_text())


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_workflows_have_triggers_and_read_only_permissions(workflow: dict[Any, Any]) -> None:
    assert workflow[True]
    assert workflow["permissions"] == {"contents": "read"}
    assert all(("uses" in step) != ("run" in step) for step in steps(workflow))
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", step["uses"]) for step in steps(workflow) if "uses" in step)


def test_make_targets_of_workflows_exist(workflow: dict[Any, Any]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [shlex.split(step["run"]) for step in steps(workflow) if step.get("run", "").startswith("make ")]
    assert {word for line in lines for word in line[1:] if "=" not in word} <= targets


def test_workflow_matrix_is_the_supported_python_versions() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    prefix = "Programming Language :: Python :: 3."
    promised = {line.removeprefix(prefix[:-2]) for line in PROJECT["classifiers"] if line.startswith(prefix)}
    assert set(jobs["suite"]["strategy"]["matrix"]["python"]) == promised


def test_releases_use_trusted_publishing() -> None:
    publish = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"]["name"] == "pypi"
    assert all("password" not in step.get("with", {}) for step in publish["steps"])


def test_citation_is_complete_and_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (str(citation["version"]), citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert all(reference["authors"] and reference["title"] for reference in citation["references"])


def test_drawn_layers_are_those_of_the_import_contract() -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract.get("exhaustive"))["layers"]
    wanted = ["cli", *(name for layer in layers for name in layer.split(" | "))]
    drawn = re.findall(r'class="n[ m]*">([^<]+)<', (ROOT / "docs" / "images" / "tower.svg").read_text())
    assert drawn == wanted


def test_cited_papers_are_in_the_bibliography() -> None:
    bibliography = " ".join((ROOT / "docs" / "bibliography.md").read_text().split())
    sections = re.compile(r"References:\n(.*?)(?=\n\s*\n|\"\"\"|\n\s*[A-Z]\w+:\n)", re.DOTALL)
    missing = set()
    for path in (ROOT / "ddim_edit").rglob("*.py"):
        source = path.read_text()
        missing |= {each for each in re.findall(r"arXiv:\s*(\d{4}\.\d{4,5})", source) if each not in bibliography}
        for section in sections.findall(source):
            papers = re.findall(r'(\w+), "([^"]{12,})"', " ".join(section.split()))
            missing |= {title for author, title in papers if author != "PyTorch" and title not in bibliography}
    assert not missing


def test_troubleshooting_quotes_messages_of_the_program() -> None:
    page = (ROOT / "docs" / "howto" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `(.*?)` \|", page, re.MULTILINE)
    messages: set[str] = set()
    for folder in ("ddim_edit", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            messages.update(texts(path))
    assert quoted
    assert not [quote for quote in quoted if not any(quote in message for message in messages)]


def texts(path: Path) -> Iterator[str]:
    """Yield the strings in a module, with `...` for what is put into them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)


@pytest.fixture
def reference_pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("reference_pages")


@pytest.fixture
def command_pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("command_pages")


def row(page: str, option: str) -> list[str]:
    """Return the four cells of an option in the table on the page of a command."""
    (found,) = re.findall(rf"``{option}.*``\n     - (.*)\n     -(.*)\n     -(.*)", page)
    return [cell.strip() for cell in found]


def test_pages_of_commands_have_a_row_for_each_option(command_pages: ModuleType, tmp_path: Path) -> None:
    command_pages.write(tmp_path)
    for command in commands.loaded:
        page = (tmp_path / f"{command.name}.rst").read_text()
        assert "['" not in page
        for name, option in command.options.items():
            assert f"* - .. _ddim-edit-{command.name}-{name}:" in page
            assert any(flag in page for flag in option.opts)
        assert all(f"\n   {line}\n" in page for line in command.examples)


def test_rows_of_options_say_meaning_default_and_variable(command_pages: ModuleType, tmp_path: Path) -> None:
    command_pages.write(tmp_path)
    page = (tmp_path / "interpolate.rst").read_text()
    assert row(page, "--frames N") == [
        "Frames from each input to the next, both included. Range: 2 ≤ x ≤ 10000.",
        "``9``",
        "``DDIM_EDIT_INTERPOLATE_FRAMES``",
    ]
    assert row(page, "--solver")[1:] == ["``dpm2m``", "``DDIM_EDIT_SOLVER``"]
    assert row(page, "--dequantise, ")[1:] == ["``--dequantise``", "``DDIM_EDIT_DEQUANTISE``"]
    assert row(page, "--tol E")[:2] == [
        "Largest error that ``--exact`` accepts. Range: 0 < x ≤ 1.",
        "every 8-bit pixel is the same",
    ]


def test_reference_pages_list_each_public_name_once(reference_pages: ModuleType) -> None:
    listed = [name for names in reference_pages.homes().values() for name in names]
    assert sorted(listed) == sorted(ddim_edit.__all__)


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("r = |a| * w", r"r = \|a\| \* w"),
        ("a row of `InputImage`s, `|x|`", r"a row of `InputImage`\ s, `|x|`"),
        ("alpha_t x_0, but with_ is no link", r"alpha_t x_0, but with\_ is no link"),
        ("nothing to do", "nothing to do"),
    ],
)
def test_docstrings_are_escaped_for_restructuredtext(reference_pages: ModuleType, line: str, written: str) -> None:
    assert reference_pages.escaped(line) == written
