"""The site builds from a clean copy, offline and without warnings; its examples run, and it is complete."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from sphinx.util.inventory import InventoryFile

import ddim_edit
from ddim_edit.cli.main import commands

ROOT = Path(__file__).parents[2]
GENERATED = shutil.ignore_patterns("tutorial", "api", "commands", "_build", "__pycache__")
NO_NETWORK = (
    "import socket\ndef refuse(*_): raise OSError('the network is switched off')\n"
    "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=GENERATED)
    for page in ROOT.glob("*.md"):
        shutil.copy(page, folder)
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    added = {"PYTHONPATH": str(folder), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "out"]
    done = subprocess.run(command, cwd=folder, env=os.environ | added, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return folder / "out"


class Links(HTMLParser):
    """Links, loaded resources and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.needs: set[str] = set()
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        if tag in ("img", "script", "source", "iframe") and "src" in given:
            self.needs.add(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.needs.add(given["href"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    """Every page, read."""
    read = {}
    for path in site.rglob("*.html"):
        if "_static" not in path.parts:
            read[path] = Links()
            read[path].feed(path.read_text())
    return read


def test_every_page_is_reachable_from_the_index(site: Path, pages: dict[Path, Links]) -> None:
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page in pages and page not in reached:
            reached.add(page)
            paths = (unquote(urlsplit(link).path) for link in pages[page].links if not urlsplit(link).scheme)
            waiting += [(page.parent / path).resolve() for path in paths if path]
    sources = [path for path in (ROOT / "docs").rglob("*.*") if path.suffix in (".md", ".rst", ".ipynb")]
    wanted = {site / path.relative_to(ROOT / "docs").with_suffix(".html") for path in sources}
    wanted |= {site / "tutorial" / f"{path.stem}.html" for path in (ROOT / "examples").glob("plot_*.py")}
    assert wanted <= reached


def test_links_resolve(site: Path, pages: dict[Path, Links]) -> None:
    broken = set()
    for page, found in pages.items():
        for link in found.links | found.needs:
            parts = urlsplit(link)
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if parts.scheme:
                continue
            if not target.exists() or (
                target in pages and parts.fragment and parts.fragment not in pages[target].places
            ):
                broken.add(f"{page.relative_to(site)} -> {link}")
    assert not broken


def test_pages_load_nothing_from_other_hosts(site: Path, pages: dict[Path, Links]) -> None:
    assert not {need for found in pages.values() for need in found.needs if urlsplit(need).netloc}
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text()), sheet


def test_every_public_name_is_documented(site: Path) -> None:
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    documented = {name for kind in inventory.data if kind.startswith("py:") for name in inventory.data[kind]}
    assert {f"ddim_edit.{name}" for name in ddim_edit.__all__} <= documented


def test_every_command_and_option_is_documented(site: Path, pages: dict[Path, Links]) -> None:
    for command in commands.loaded:
        page = site / "reference" / "commands" / f"{command.name}.html"
        anchors = {f"ddim-edit-{command.name}-{option}" for option in command.options}
        assert anchors <= pages[page.resolve()].places


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("plot_*.py")), ids=lambda path: path.stem)
def test_every_example_drew_a_figure(site: Path, example: Path) -> None:
    assert list((site / "_images").glob(f"sphx_glr_{example.stem}_0*.png"))
