"""`calibrate`, and what other commands say of images that are not typical."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddim_edit import Evaluation

from .. import tiny
from .conftest import Run

STRANGE = r"warning: noise: does not look like the images that calibrated was trained on (score "


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a range of typical images, and 60 of them beside it."""
    folder = tiny.save_model(tmp_path_factory.mktemp("models") / "calibrated")
    for seed in range(60):
        tiny.save_picture(folder / "pictures" / f"{seed}.png", seed)
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder


def test_strange_images_are_warned_of_once_a_range_is_measured(calibrated: Path, run: Run, tmp_path: Path) -> None:
    noise, usual = calibrated / "noise.png", calibrated / "pictures" / "7.png"
    options = ("--model", calibrated, "--dtype", "fp32", "--steps", 2)
    before = run("invert", noise, "-o", tmp_path / "before", *options, "--json")
    assert not before.warnings
    assert "atypicality" not in before.rows[0]

    target = calibrated / "typicality.json"
    line = ("calibrate", calibrated / "pictures", "--model", calibrated, "-o", target, "--advice", "Take waves.")
    (row,) = run(*line, "--json").rows
    assert row["images"] == 60
    assert run(*line).errors == [f"error: {target} exists. Use --overwrite, or write somewhere else."]

    for command in ("invert", "reconstruct"):
        after = run(command, noise, usual, "-o", tmp_path / command, *options, "--json")
        assert after.status == 0
        (warning,) = after.warnings
        assert warning.startswith(STRANGE)
        assert warning.endswith("typical up to 1). Edits will be poor. Take waves.")
        scores = [each["atypicality"] for each in after.rows]
        assert scores[0] > 1 >= scores[1]

    out = tmp_path / "evaluation"
    evaluated = run("evaluate", noise, usual, "-o", out, "--model", calibrated, "--steps", 2, "--solvers", "ddim,dpm2m")
    assert len(evaluated.warnings) == 1
    assert "1 of 2 images do not look like those that calibrated was trained on" in evaluated.out
    by_name = {each.image: each.atypicality for each in Evaluation.load(out).rows}
    assert by_name["noise.png"] == pytest.approx(scores[0], rel=1e-4)


def test_too_few_images_are_refused(calibrated: Path, run: Run, tmp_path: Path) -> None:
    outcome = run("calibrate", calibrated / "noise.png", "--model", calibrated, "-o", tmp_path / "typicality.json")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].startswith("error: It takes at least 50 images, not 1.")
    assert not list(tmp_path.iterdir())
