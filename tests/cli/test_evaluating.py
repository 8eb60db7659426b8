"""`evaluate`: rows, means, tables and a plot of round trips."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ddim_edit import Editor, Evaluation, InversionConfig
from ddim_edit.evaluation import self_interpolate
from ddim_edit.images import read_recipe
from ddim_edit.metrics import METRICS

from .conftest import Outcome, Run, files_in

FILES = ["evaluation.csv", "evaluation.json", "evaluation.md", "evaluation.png"]
QUICK = ["--steps", "2,3", "--solvers", "ddim,dpm2m"]
Evaluate = Callable[..., Outcome]


@pytest.fixture
def evaluated(run: Run, model: Path) -> Evaluate:
    """Runs `evaluate` on the small model with few steps."""
    return lambda *arguments: run("evaluate", *arguments, *QUICK, "--model", model, "--batch-size", 2)


def test_four_files_are_written_and_the_tables_are_what_is_printed(
    evaluated: Evaluate, pictures: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    outcome = evaluated(*pictures[:3], "-o", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert files_in(tmp_path / "out") == FILES
    assert outcome.out == (tmp_path / "out" / "evaluation.md").read_text()
    assert "| Error, ddim karras:14@0.16T  |" in outcome.out
    with Image.open(tmp_path / "out" / "evaluation.png") as image:
        assert min(image.size) > 600
    found = Evaluation.load(tmp_path / "out")
    assert read_recipe(tmp_path / "out" / "evaluation.png") == {"kind": "evaluation", **found.recipe}
    assert len(found.rows) == 3 * 2 * 2
    assert found.recipe["crop"] == {"kind": "centre square"}
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == found.to_json()


def test_rows_are_printed_as_computed_and_equal_editor_scores(
    evaluated: Evaluate, pictures: list[Path], model: Path, tmp_path: Path
) -> None:
    outcome = evaluated(pictures[0].parent, "-o", tmp_path / "out", "--json", "--no-dequantise", "-q")
    with (tmp_path / "out" / "evaluation.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["picture"] for row in written] == [row["picture"] for row in outcome.rows]
    assert [float(row["mse"]) for row in written] == [row["mse"] for row in outcome.rows]
    scores = (
        Editor.from_pretrained(model).reconstruct(pictures, InversionConfig("ddim", steps=3, dequantise=None)).scores
    )
    rows = [row for row in outcome.rows if (row["solver"], row["steps"]) == ("ddim", 3)]
    for row, score in zip(rows, scores, strict=True):
        assert [row[name] for name in METRICS] == pytest.approx([score[name] for name in METRICS], rel=1e-4)
    assert not outcome.err


def test_bad_image_is_named_and_others_continue(evaluated: Evaluate, pictures: list[Path], tmp_path: Path) -> None:
    pictures[1].write_text("no picture")
    outcome = evaluated(*pictures, "-o", tmp_path / "out", "--json")
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert "b.png" in outcome.errors[0]
    assert {row["picture"] for row in outcome.rows} == {"a.png", "c.png", "d.png"}
    assert "Round trips of 3 images" in (tmp_path / "out" / "evaluation.md").read_text()


def test_no_readable_image_writes_nothing(evaluated: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("no picture")
    for images in (tmp_path / "in", tmp_path / "absent.png", tmp_path):
        outcome = evaluated(images, "-o", tmp_path / "out")
        assert (outcome.status, outcome.out) == (1, "")
        assert len(outcome.errors) == 1
    assert files_in(tmp_path) == ["in/a.png"]


def test_interrupted_run_leaves_no_file(
    evaluated: Evaluate, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconstruct, walks = Editor.reconstruct, iter(range(3))

    def interrupted(self: Editor, *arguments: object) -> object:
        if next(walks, None) is None:
            raise KeyboardInterrupt
        return reconstruct(self, *arguments)

    monkeypatch.setattr(Editor, "reconstruct", interrupted)
    assert evaluated(*pictures, "-o", tmp_path / "out").status == 130
    assert files_in(tmp_path / "out") == []


def test_non_finite_reconstruction_is_reported_and_others_continue(
    evaluated: Evaluate, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddim_edit import ArgumentError

    reconstruct = Editor.reconstruct

    def partly(self: Editor, pictures: object, method: InversionConfig) -> object:
        if method.steps == 3:
            raise ArgumentError("The decoded pixels are NaN.")
        return reconstruct(self, pictures, method)

    monkeypatch.setattr(Editor, "reconstruct", partly)
    outcome = evaluated(*pictures[:2], "-o", tmp_path / "out", "--json")
    assert outcome.status == 1
    settings = [" ddim karras", " ddim karras", " dpm2m karras", " dpm2m karras"]
    assert [error.split(":")[1] for error in outcome.errors] == settings
    assert [error.split(":")[3] for error in outcome.errors] == 2 * [" a.png", " b.png"]
    assert {row["steps"] for row in outcome.rows} == {2}


def test_files_that_exist_and_inputs_are_kept(evaluated: Evaluate, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("mine")
    outcome = evaluated(pictures[0], "-o", tmp_path)
    assert outcome.status == 1
    assert "exists. Use --overwrite" in outcome.errors[0]
    assert (tmp_path / "evaluation.json").read_text() == "mine"
    pictures[0].rename(tmp_path / "evaluation.png")
    outcome = evaluated(tmp_path, "-o", tmp_path, "--overwrite")
    assert outcome.status == 1
    assert "is an input too" in outcome.errors[0]


def test_missing_matplotlib_skips_plots_with_note(
    evaluated: Evaluate, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = evaluated(pictures[0], "-o", tmp_path / "out")
    assert outcome.status == 0
    assert files_in(tmp_path / "out") == FILES[:3]
    assert "no evaluation.png without matplotlib: pip install 'ddim-edit[eval]'" in outcome.err


def test_diffusers_baseline_on_request(evaluated: Evaluate, pictures: list[Path], tmp_path: Path) -> None:
    outcome = evaluated(*pictures[:2], "-o", tmp_path / "out", "--json", "--against", "diffusers", "--grids", "uniform")
    assert outcome.status == 0, outcome.err
    ways = [(row["solver"], row["grid"], row["steps"]) for row in outcome.rows[::2]]
    assert ways == [
        *[(solver, "uniform", steps) for solver in ("ddim", "dpm2m") for steps in (2, 3)],
        *[("diffusers", "leading", steps) for steps in (2, 3)],
    ]


def test_exact_is_certified_in_float32(evaluated: Evaluate, pictures: list[Path], tmp_path: Path) -> None:
    outcome = evaluated(pictures[0], "-o", tmp_path / "out", "--json", "--exact")
    assert all(row["exact"] and row["identical_pixels"] == 1 for row in outcome.rows)
    told = Evaluation.load(tmp_path / "out")
    assert (told.recipe["dtype"], told.recipe["tol"]) == ("float32", InversionConfig().tol)


def test_unsupported_settings_are_refused_before_inversion(
    run: Run, pictures: list[Path], model: Path, tmp_path: Path
) -> None:
    line = ["evaluate", pictures[0], "-o", tmp_path / "out", "--model", model]
    for more in (
        ["--class", "3"],
        ["--steps", "1001", "--against", "diffusers"],
        ["--grids", "leading", "--steps", "1001"],
    ):
        outcome = run(*line, *more)
        assert outcome.status == 1, more
        assert len(outcome.errors) == 1
        assert "Traceback" not in outcome.err
    assert not (tmp_path / "out").exists()


def test_the_self_interpolation_test_runs_without_images(evaluated: Evaluate, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    outcome = evaluated("-o", tmp_path / "out", "--self-interpolation", 2)
    assert outcome.status == 0, outcome.err
    assert files_in(tmp_path / "out") == [f"self-interpolation{suffix}" for suffix in (".csv", ".json", ".md", ".png")]
    assert outcome.out == (tmp_path / "out" / "self-interpolation.md").read_text()
    recipe = read_recipe(tmp_path / "out" / "self-interpolation.png")
    written = json.loads((tmp_path / "out" / "self-interpolation.json").read_text())
    assert recipe == {"kind": "self-interpolation", **written["recipe"]}
    assert recipe["dequantise"] is None
    wanted = self_interpolate(Editor.from_pretrained(model), [0, 1], ("ddim", "dpm2m"), steps=(2, 3))
    assert [each["w"] for each in written["settings"]] == [each.w for each in wanted.summaries]
    for found, summary in zip(written["settings"], wanted.summaries, strict=True):
        score = summary.scores["mse"]
        assert score is not None
        assert found["mse"]["mean"] == pytest.approx(score.mean, rel=1e-3)


def test_both_are_run_and_rows_are_printed(evaluated: Evaluate, pictures: list[Path], tmp_path: Path) -> None:
    outcome = evaluated(pictures[0], "-o", tmp_path / "out", "--self-interpolation", 1, "--json", "--no-dequantise")
    assert outcome.status == 0, outcome.err
    assert [row["w"] for row in outcome.rows if "w" in row] == 4 * [0.25, 0.5, 0.75, 1.0]
    assert len([row for row in outcome.rows if "picture" in row]) == 4
    assert len(files_in(tmp_path / "out")) == 8


def test_nothing_to_evaluate_is_refused(evaluated: Evaluate, tmp_path: Path) -> None:
    outcome = evaluated("-o", tmp_path / "out")
    assert outcome.status == 2
    assert "Give images to evaluate, or --self-interpolation COUNT, or both." in outcome.err
    assert not (tmp_path / "out").exists()


def test_files_of_the_self_interpolation_test_are_kept(evaluated: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "self-interpolation.md").write_text("mine")
    outcome = evaluated("-o", tmp_path, "--self-interpolation", 1)
    assert (outcome.status, outcome.out) == (1, "")
    assert files_in(tmp_path) == ["self-interpolation.md"]
