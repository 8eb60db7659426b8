"""Malformed inputs of every kind: each ends in one sentence and exit status 1 or 2, and leaves nothing behind."""

from pathlib import Path

import pytest

from ddim_edit.cli import main

from .. import tiny
from ..fuzz import (
    bad_directions,
    bad_files,
    bad_folders,
    bad_foreign,
    bad_images,
    bad_labels,
    bad_latents,
    bad_stores,
)
from ..fuzz.kit import DIRECTION, LATENT, Kit, Make
from .conftest import Run, files_in


@pytest.fixture(scope="module")
def kit(model: Path, inverted: Path, fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    folder = tmp_path_factory.mktemp("kit")
    files = [str(tiny.save_picture(folder / "in" / f"{name}.png", seed)) for seed, name in enumerate("ab")]
    line = ["invert", *files, "-o", str(folder / "s.latents"), "--model", str(model), "--dtype", "fp32", "-q"]
    with pytest.raises(SystemExit):
        main([*line, "--steps", "2"])
    latent, direction = inverted / f"a{LATENT}", fitted / f"old{DIRECTION}"
    return Kit(model, latent.read_bytes(), direction.read_bytes(), folder / "s.latents")


SOURCES = (
    bad_images.image_cases,
    bad_latents.latent_cases,
    bad_directions.direction_cases,
    bad_stores.store_cases,
    bad_stores.settings_cases,
    bad_labels.label_cases,
    bad_foreign.foreign_cases,
    bad_folders.folder_cases,
    bad_files.single_cases,
)
CASES: dict[str, Make] = dict(pair for cases in SOURCES for pair in cases())


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_malformed_input_is_refused_in_one_sentence(run: Run, kit: Kit, tmp_path: Path, make: Make) -> None:
    line = make(kit, tmp_path)
    before = files_in(tmp_path)
    outcome = run(*line)
    said = outcome.err.splitlines()
    assert outcome.status in (1, 2), outcome
    assert not outcome.out
    assert "Traceback" not in outcome.err
    # Each of the two latents of a store fails by itself.
    assert 1 <= len([each for each in said if each.lower().startswith("error: ")]) <= 2, outcome.err
    assert len(outcome.err) < 2_000
    assert files_in(tmp_path) == before


def test_more_than_200_malformed_inputs() -> None:
    print(f"{len(CASES)} malformed inputs")
    assert len(CASES) > 200
