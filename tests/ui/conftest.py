"""A small model with two levels of directions, a session and a controller on it, and the command line."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddim_edit import Direction, Editor, InversionConfig, load_model
from ddim_edit.cli import main
from ddim_edit.latents.provenance import LatentArrayOrigin
from ddim_edit.ui.controller import PageController
from ddim_edit.ui.model_queue import ModelQueue
from ddim_edit.ui.records import UploadedImage
from ddim_edit.ui.session import Session, directions_by_level

from .. import tiny

LEVELS = {"low": 300.0, "old": 400.0, "wide": 400.0}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def fitted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of direction files: `old` and `wide` at one level, `low` at a lower one."""
    folder = tmp_path_factory.mktemp("fitted")
    picture, editor = tiny.save_picture(folder / "a.png"), Editor(load_model(model))
    for seed, (name, level) in enumerate(LEVELS.items()):
        latent = editor.invert(picture, InversionConfig(grid="karras:14", steps=6, level=level))
        vector = torch.randn(latent.x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        recipe = replace(latent.recipe, dequantise=(), origin=LatentArrayOrigin())
        direction = Direction(name, vector / vector.norm(), 0.0, 0.0, 3.0, recipe)
        direction.save(folder / "out" / f"{name}.direction.safetensors")
    return folder / "out"


@pytest.fixture
def flags(model: Path) -> list[str]:
    return ["--model", str(model), "--dtype", "fp32"]


@pytest.fixture
def session(model: Path, fitted: Path) -> Session:
    queue = ModelQueue()
    editor = Editor(load_model(model), on_evaluation=queue)
    return Session(editor, directions_by_level(editor.model.name, fitted), queue)


@pytest.fixture
def bare(model: Path) -> Session:
    """A session whose model has no directions."""
    queue = ModelQueue()
    return Session(Editor(load_model(model), on_evaluation=queue), {}, queue)


@pytest.fixture
def controller(session: Session, flags: list[str], tmp_path: Path) -> PageController:
    return PageController(session, tmp_path / "made", flags)


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the pictures lie, and where command lines are typed."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def photo(at_home: Path) -> UploadedImage:
    """A picture that is neither of the model's size nor of its shape, with a name to be careful with."""
    path = tiny.save_picture(at_home / "-my photo.png", 3, 40, 30)
    return UploadedImage(path, path.name)


Types = Callable[[str], None]


@pytest.fixture
def types(at_home: Path) -> Types:
    """Types command lines, which must succeed."""

    def typed(lines: str) -> None:
        for line in lines.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "ddim-edit"
            with pytest.raises(SystemExit) as left:
                main([*arguments, "-q"])
            assert left.value.code == 0

    return typed
