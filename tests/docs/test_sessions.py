"""The commands and the Python of every page run, as one session from the first block to the last."""

import contextlib
import csv
import io
import re
import shlex
import shutil
import socket
from dataclasses import fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddim_edit import InversionConfig
from ddim_edit.cli import main

from .. import pipelines
from . import pages
from .pages import ROOT, Block

SMALL = {
    "steps": "2",
    "solvers": "dpm2m",
    "samples": "1",
    "probes": "2",
    "sizes": "4",
    "draws": "1",
    "count": "2",
    "iterations": "1",
    "strengths": "-1:1:2",
}
"""Values of options that a page leaves at their defaults, because a step takes a tenth of a second for each image."""
FEWER = {"--strip": {"-9:9:7": "-9:9:2"}, "--frames": {"13": "4"}, "-n": {"8": "2"}}
"""Numbers of images on the pages, and the smaller ones that are run; `test_command_lines.py` parses the lines."""
PACKAGED = ROOT / "assets" / "images"
FACES = sorted(PACKAGED.glob("seed-*.png"))


def runs(page: Path) -> bool:
    """Return whether a page has a block that a test can run."""
    return any(block.language in ("sh", "bash", "python") and block.mark != "not run" for block in pages.blocks(page))


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("remembered")]


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the layout of Stable Diffusion, with random weights."""
    folder = tmp_path_factory.mktemp("painter")
    return pipelines.save(partial(pipelines.stable_diffusion, folder / "words"), folder / "stable-diffusion", share=0.1)


@pytest.fixture
def reader(tmp_path: Path, painter: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the photographs and the model that a reader is supposed to have, no network, and small defaults."""

    def refuse(*_: object) -> None:
        raise OSError("the network is switched off")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name, command in pages.every_command().items():
        for parameter in command.params:
            for key, value in SMALL.items():
                if parameter.name == key.lower():
                    monkeypatch.setenv(f"DDIM_EDIT_{name}_{key}".upper().replace("-", "_"), value)
    for name, value in SMALL.items():
        monkeypatch.setenv(f"DDIM_EDIT_{name}", value)
    names = [field.name for field in fields(InversionConfig)]
    defaults = dict(zip(names, InversionConfig.__init__.__defaults__, strict=True)) | {"steps": int(SMALL["steps"])}
    monkeypatch.setattr(InversionConfig.__init__, "__defaults__", tuple(defaults.values()))
    monkeypatch.chdir(tmp_path)
    portrait = Image.open(PACKAGED / "astronaut.png").convert("RGB")
    for name in ("portrait.jpg", "friend.jpg", "photo.jpg"):
        portrait.save(tmp_path / name, quality=95)
    for name, source in {"a.png": FACES[0], "b.png": FACES[1], "c.png": FACES[2]}.items():
        shutil.copy(source, tmp_path / name)
    for name in ("photos", "portraits"):
        save_faces(tmp_path / name, 2)
    for name in ("smiling", "serious"):
        save_faces(tmp_path / name, 6)
    save_faces(tmp_path / "faces", 12, labels=tmp_path / "faces.csv")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    (tmp_path / "stable-diffusion").symlink_to(painter)
    return tmp_path


def save_faces(folder: Path, count: int, labels: Path | None = None) -> None:
    """Save `count` different faces, the packaged ones in other lights, and what a CSV says of them."""
    folder.mkdir()
    rows = []
    for i in range(count):
        pixels = np.asarray(Image.open(FACES[i % len(FACES)]).convert("RGB"), dtype=float)
        light = 0.8 + 0.02 * i + (0.1 if folder.name == "smiling" else 0)
        Image.fromarray((pixels * light).clip(0, 255).astype(np.uint8)).save(folder / f"{i:04}.png")
        rows.append({"file": f"{i:04}.png", "age": 20 + 50 * (i % 2) + i / 10, "female": i // 2 % 2})
    if labels is not None:
        with labels.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)


def ddim_edit(arguments: list[str]) -> None:
    """Run the program in this process, where torch is loaded already; it must succeed."""
    # click writes bytes to the buffer of a stream.
    out, err = (io.TextIOWrapper(io.BytesIO()) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        main(arguments)
    err.seek(0)
    assert left.value.code == 0, f"ddim-edit {shlex.join(arguments)}\n{err.read()}"


def run(block: Block, page: Path, names: dict[str, Any]) -> None:
    if block.language == "python":
        exec(compile(block.text, page.name, "exec"), names)
    for line in block.shell_lines:
        words = shlex.split(line, comments=True)
        assert words[0] == "ddim-edit", f"{line!r}: a test runs no other programs; mark the block as not run"
        ddim_edit([FEWER.get(option, {}).get(word, word) for option, word in pairwise(words)])


@pytest.mark.parametrize("page", list(filter(runs, pages.PAGES)), ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs_as_one_session(page: Path, reader: Path) -> None:
    names: dict[str, Any] = {}
    for block in pages.blocks(page):
        if block.mark == "file":
            Path(block.detail).write_text(block.text)
        elif block.mark != "not run":
            run(block, page, names)


def test_blocks_that_do_not_run_say_why() -> None:
    marked = [block for page in pages.PAGES for block in pages.blocks(page) if block.mark]
    assert {block.mark for block in marked} == {"not run", "file"}
    assert all(re.search(r"\w", block.detail) for block in marked)
