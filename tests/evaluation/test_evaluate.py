"""`evaluate`: rows are the editor's scores, all settings see all pictures, and order shows as a slope."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddim_edit import ArgumentError, Editor, ImageError, InversionConfig, evaluate, images
from ddim_edit.evaluation import DEFAULT_GRIDS, DEFAULT_SOLVERS, DEFAULT_STEPS, EvaluationSetting
from ddim_edit.metrics import METRICS, ImageScorer

from . import closed_form

METHOD = InversionConfig(dequantise=7)


def test_rows_are_the_scores_of_reconstruct_picture_by_picture(editor: Editor, files: list[Path]) -> None:
    found = evaluate(editor, files, ("dpm2m", "ddim"), ("karras:14", "uniform"), (3, 5), METHOD)
    assert len(found.rows) == 2 * 2 * 2 * len(files)
    for setting in {row.setting for row in found.rows}:
        method = InversionConfig(setting.solver, setting.grid, setting.steps, dequantise=7)
        trip = editor.reconstruct(files, method)
        rows = [row for row in found.rows if row.setting == setting]
        assert [row.image for row in rows] == [file.name for file in files]
        for row, score, latent in zip(rows, trip.scores, trip.latents, strict=True):
            told = row.to_json()
            assert row.source == latent.recipe.origin.source
            assert {name: told[name] for name in ("nfe_in", "nfe_out")} == {n: score[n] for n in ("nfe_in", "nfe_out")}
            assert [told[name] for name in METRICS] == pytest.approx([score[name] for name in METRICS], rel=1e-4)


def test_files_folders_pictures_and_one_of_them_are_all_taken(editor: Editor, files: list[Path]) -> None:
    listed = evaluate(editor, files, ("ddim",), steps=(3,))
    read = [images.read(file, editor.model.size) for file in files]
    # LPIPS is loaded for each, so that its last bits are its own.
    found = evaluate(editor, files[0].parent, ("ddim",), steps=(3,))
    assert replace(found, rows=()) == replace(listed, rows=())
    for mine, theirs in zip(found.rows, listed.rows, strict=True):
        assert replace(mine, scores={}) == replace(theirs, scores={})
        assert mine.scores == pytest.approx(theirs.scores, rel=1e-3)
    assert evaluate(editor, str(files[0]), ("ddim",), steps=(3,)).rows[0].source == listed.rows[0].source
    for mine, theirs in zip(evaluate(editor, read, ("ddim",), steps=(3,)).rows, listed.rows, strict=True):
        assert (mine.image, mine.source) == (Path(theirs.image).stem, theirs.source)
        assert mine.scores == pytest.approx(theirs.scores, rel=1e-3)


def test_tensors_are_taken_as_they_are(editor: Editor) -> None:
    x = closed_form.drawn(3)
    found = evaluate(editor, x, ("ddim",), steps=(3,), config=InversionConfig(dequantise=None))
    wanted = editor.reconstruct(x, InversionConfig("ddim", steps=3, dequantise=None)).scores
    assert [row.image for row in found.rows] == ["0", "1", "2"]
    assert [row.scores["mse"] for row in found.rows] == pytest.approx([score["mse"] for score in wanted], rel=1e-6)
    assert len(evaluate(editor, x[0], ("ddim",), steps=(3,)).rows) == 1


def test_no_more_pictures_than_a_batch_are_walked_at_once_and_files_are_opened_once(
    editor: Editor, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, opened = [], []
    reconstruct, read = Editor.reconstruct, images.read
    monkeypatch.setattr(Editor, "reconstruct", lambda self, x, m: sizes.append(len(x)) or reconstruct(self, x, m))
    monkeypatch.setattr(
        "ddim_edit.evaluation.evaluator.read", lambda file, *how: opened.append(file) or read(file, *how)
    )
    evaluate(editor, files, ("dpm2m", "ddim"), steps=(2, 3))
    assert sizes == [2] * 4 + [2] * 4 + [1] * 4
    assert sorted(opened) == sorted(files)


def test_nothing_is_measured_twice_and_the_usual_settings_are_the_paper_s(editor: Editor, files: list[Path]) -> None:
    found = evaluate(editor, files[:1], ("ddim", "ddim"), ("uniform", "uniform"), (3, 3))
    assert [row.setting for row in found.rows] == [EvaluationSetting("ddim", "uniform", 3)]
    assert DEFAULT_STEPS == (10, 20, 50, 100, 200, 500, 1000)
    assert (InversionConfig().solver in DEFAULT_SOLVERS, InversionConfig().grid) == (True, DEFAULT_GRIDS[0])


def test_exact_rows_say_so_and_return_every_pixel(editor: Editor, files: list[Path]) -> None:
    found = evaluate(editor, files[:2], ("dpm2m",), steps=(10,), config=InversionConfig(exact=True))
    assert all(row.setting.exact and row.converged and row.scores["identical_pixels"] == 1 for row in found.rows)
    assert found.recipe["tol"] == InversionConfig().tol
    assert "tol" not in evaluate(editor, files[:1], ("ddim",), steps=(2,)).recipe


def test_the_recipe_names_the_model_and_how_it_ran(editor: Editor, files: list[Path]) -> None:
    recipe = evaluate(editor, files[:1], ("ddim",), steps=(2,), config=METHOD).recipe
    model = editor.model
    assert (recipe["model"], recipe["components"], recipe["dtype"]) == (model.name, model.components, "float32")
    assert (recipe["dequantise"], recipe["condition"], recipe["prediction"]) == (7, {}, "v_prediction")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"solvers": ("rk45",)}, "no solver 'rk45'"),
        ({"grids": ("zigzag",)}, "no grid 'zigzag'"),
        ({"steps": (3, 0)}, "The number of steps"),
        ({"steps": ()}, "at least one solver or baseline"),
        ({"against": ("itself",)}, "no baseline 'itself'"),
        ({"against": ("diffusers",), "steps": (3, 1001)}, "at most 1000 steps"),
        ({"images": []}, "at least one image"),
    ],
)
def test_what_cannot_be_walked_is_refused_before_any_walk(
    editor: Editor, files: list[Path], monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], wanted: str
) -> None:
    monkeypatch.setattr(Editor, "reconstruct", lambda *_: pytest.fail("walked"))
    with pytest.raises(ArgumentError, match=wanted):
        evaluate(editor, **{"images": files, **changes})


def test_a_file_that_is_no_picture_is_an_error_of_the_library(editor: Editor, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ImageError):
        evaluate(editor, tmp_path, ("ddim",), steps=(2,))


@pytest.mark.slow
def test_the_order_of_a_round_trip_is_the_slope_of_its_error() -> None:
    """Second-order solvers return at order 3, as what is even in the step cancels; diffusers' pair at order 1.

    The inverse of dpm2m is made to return, and does so at more than that.
    """
    editor, x, plain = Editor(closed_form.model()), closed_form.drawn(3), InversionConfig(dequantise=None)
    found = evaluate(editor, x, ("dpm2m", "heun"), ("karras:14",), (80, 160), config=plain, against=("diffusers",))
    errors = {each.setting[:3]: each.scores["mse"].mean for each in found.summaries}

    def slope(solver: str, grid: str) -> float:
        return math.log2(errors[solver, grid, 80] / errors[solver, grid, 160])

    # The mean of squares falls twice as fast.
    assert slope("heun", "karras:14") == pytest.approx(2 * 3, rel=0.05)
    assert slope("diffusers", "leading") == pytest.approx(2 * 1, rel=0.05)
    assert slope("dpm2m", "karras:14") > 2 * 3


def test_a_walk_that_blows_up_is_told_of_and_not_averaged() -> None:
    class Loop:
        def encode(self, x: torch.Tensor, steps: int) -> torch.Tensor:
            return x

        decode = encode

    class Nowhere(Loop):
        def decode(self, x: torch.Tensor, steps: int) -> torch.Tensor:
            return x * torch.tensor([math.nan, 1.0])[:, None, None, None]

    from ddim_edit.evaluation import Evaluation, evaluate_iter
    from ddim_edit.evaluation.round_trips import BaselineRoundTrip

    editor = Editor(closed_form.model())
    way = BaselineRoundTrip(EvaluationSetting("theirs", "none", 4), editor.model, Nowhere(), ImageScorer())
    rows = tuple(evaluate_iter(editor, [(str(i), x) for i, x in enumerate(closed_form.pictures(2))], [way]))
    assert [(row.converged, row.scores["mse"], row.nfe_in, row.nfe_out) for row in rows] == [
        (False, None, 4, 4),
        (True, 0, 4, 4),
    ]
    assert rows[1].scores["psnr"] is None  # of equal pictures
    (summary,) = Evaluation(rows, {}).summaries
    assert (summary.scores["mse"], summary.converged, summary.nfe) == (None, 1, 8)
