"""An editor on a small model, and pictures for it."""

from pathlib import Path

import pytest

from ddim_edit import Editor, load_model

from .. import tiny


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="package")
def editor(folder: Path) -> Editor:
    return Editor(load_model(folder), batch_size=2)


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("pictures")
    return [tiny.save_picture(place / f"{seed}.png", seed) for seed in range(5)]
