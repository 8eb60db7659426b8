"""Latents of the tiny model, without a network run."""

from pathlib import Path

import pytest

from ddim_edit import Editor, InversionConfig, Latents

from ... import tiny


@pytest.fixture(scope="session")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor.from_pretrained(tiny.save_model(tmp_path_factory.mktemp("models") / "tiny"), dtype="fp32")


@pytest.fixture(scope="session")
def latents(editor: Editor) -> Latents:
    return editor.noise([1, 2, 3], InversionConfig(solver="ddim", grid="leading", steps=5))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.npy"
