"""`translate`: pictures of one model's domain in another's."""

import json
from pathlib import Path

import pytest
import torch

from ddim_edit import Editor, InversionConfig, load_model
from ddim_edit.images import to_uint8

from .. import tiny
from .conftest import Run, files_in, pixels_of


def written(folder: Path, pictures: list[Path], ending: str = "-translated") -> torch.Tensor:
    return torch.stack([pixels_of(folder / f"{path.stem}{ending}.png") for path in pictures]).int()


@pytest.mark.parametrize("flags", [{}, {"solver": "ddim", "grid": "quad"}], ids=str)
def test_translation_equals_library(
    done: Run, model: Path, other_model: Path, pictures: list[Path], tmp_path: Path, flags: dict[str, str]
) -> None:
    options = [word for name, value in flags.items() for word in (f"--{name}", value)]
    line = ["--to", other_model, "--steps", 6, *options, "-o", tmp_path / "out", "--batch-size", 3]
    outcome = done("translate", *pictures, *line)
    assert outcome.out.splitlines() == [str(tmp_path / "out" / f"{path.stem}-translated.png") for path in pictures]
    a, b = (Editor(load_model(folder)) for folder in (model, other_model))
    wanted = to_uint8(a.translate(pictures, b, InversionConfig(steps=6, **flags))).int()
    assert int((written(tmp_path / "out", pictures) - wanted).abs().max()) <= 1
    assert int((written(tmp_path / "out", pictures) - written(tmp_path / "in", pictures, "")).abs().max()) > 10


def test_translation_to_same_model_is_identity(done: Run, model: Path, pictures: list[Path], tmp_path: Path) -> None:
    line = ["--to", model, "--steps", 40, "--grid", "quad", "--no-dequantise", "-o", tmp_path / "out"]
    done("translate", *pictures, *line)
    assert int((written(tmp_path / "out", pictures) - written(tmp_path / "in", pictures, "")).abs().max()) <= 4


def test_recipe_names_both_models_and_solver(
    done: Run, other_model: Path, pictures: list[Path], tmp_path: Path
) -> None:
    line = ["--to", other_model, "--steps", 3, "--solver", "heun", "-o", tmp_path / "out", "--json", "-q"]
    outcome = done("translate", pictures[0], *line)
    (row,) = outcome.rows
    assert not outcome.err
    recipe = json.loads(done("show", tmp_path / "out" / "a-translated.png").out)["recipe"]
    assert (recipe["kind"], recipe["model"], recipe["to"]) == ("translation", "tiny", "other")
    assert (recipe["solver"], recipe["steps"], recipe["dequantise"]) == ("heun", 3, 0)
    assert {**recipe, "input": str(pictures[0]), "output": str(tmp_path / "out" / "a-translated.png")} == {
        **row,
        "source": recipe["source"],
    }


def test_bad_image_does_not_end_batch(run: Run, other_model: Path, pictures: list[Path], tmp_path: Path) -> None:
    pictures[1].write_text("no picture")
    outcome = run("translate", *pictures, "--to", other_model, "--steps", 2, "-o", tmp_path / "out")
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert files_in(tmp_path / "out") == ["a-translated.png", "c-translated.png", "d-translated.png"]


def test_incompatible_models_are_refused(
    run: Run, pictures: list[Path], tmp_path: Path, evaluations: list[int]
) -> None:
    large = tiny.save_model(tmp_path / "large", unet={"sample_size": 32})
    for to, words in {large: "[3, 32, 32]", "nosuchmodel": "nosuchmodel"}.items():
        outcome = run("translate", *pictures, "--to", to, "-o", tmp_path / "out")
        assert (outcome.status, outcome.out, len(outcome.errors)) == (1, "", 1)
        assert words in outcome.errors[0]
        assert not (tmp_path / "out").exists()
    assert not evaluations
