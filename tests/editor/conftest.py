"""An editor on a small model, and pictures for it."""

from pathlib import Path

import pytest

from ddim_edit import Editor, Model, load_model

from .. import tiny


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny.save_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="package")
def editor(model: Model) -> Editor:
    return Editor(model)


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [tiny.save_picture(folder / f"{seed}.png", seed) for seed in range(5)]
