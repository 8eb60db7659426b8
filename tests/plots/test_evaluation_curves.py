"""The plot of an evaluation shows its means, and its bands their intervals."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from ddim_edit import ArgumentError, Evaluation
from ddim_edit.evaluation import EvaluationRow, EvaluationSetting
from ddim_edit.plots import evaluation_curves
from ddim_edit.plots.drawing import select_ticks
from ddim_edit.plots.evaluations import evaluation_figure

WAYS = [("dpm2m", "karras:14"), ("ddim", "karras:14"), ("diffusers", "leading")]
STEPS = (10, 20, 50)


def row(picture: str, way: tuple[str, str], steps: int, mse: float | None, lpips: float | None) -> EvaluationRow:
    scores = {"psnr": 20.0, "ssim": 0.9, "lpips": lpips, "mse": mse, "identical_pixels": 0.5}
    return EvaluationRow(picture, picture, EvaluationSetting(*way, steps), True, steps, steps, scores)


@pytest.fixture
def found() -> Evaluation:
    rows = [
        row(picture, way, steps, factor * 0.5**i / steps**2, factor * 0.3**i / steps)
        for i, way in enumerate(WAYS)
        for steps in STEPS
        for picture, factor in (("a", 0.9), ("b", 1.0), ("c", 1.1))
    ]
    return Evaluation(tuple(rows), {"model": "faces64"})


def test_lines_are_means_against_evaluations(found: Evaluation) -> None:
    figure = evaluation_figure(found)
    for axes, name in zip(figure.axes, ("lpips", "mse"), strict=True):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        for line, way in zip(axes.get_lines(), WAYS, strict=True):
            summaries = [each for each in found.summaries if each.setting[:2] == way]
            assert line.get_xydata().tolist() == [[each.nfe, each.scores[name].mean] for each in summaries]
        assert [text.get_text() for text in axes.texts if text.get_text()] == [
            " ".join(way) for way in sorted(WAYS, key=lambda way: axes.get_lines()[WAYS.index(way)].get_ydata()[-1])
        ]
    assert "faces64, 3 images, bands: 95 % intervals" in figure.get_suptitle()


def test_bands_reach_from_low_to_high(found: Evaluation) -> None:
    axes = evaluation_figure(found).axes[1]
    for band, way in zip(axes.collections, WAYS, strict=True):
        summaries = [each for each in found.summaries if each.setting[:2] == way]
        corners = {(x, round(y, 12)) for x, y in band.get_paths()[0].vertices.tolist()}
        assert corners == {(each.nfe, round(end, 12)) for each in summaries for end in each.scores["mse"][1:]}


def test_errors_of_0_and_unknown_ones_are_left_out(tmp_path: Path) -> None:
    way = WAYS[0]
    rows = [row("a", way, 10, 0.0, 0.1), row("a", way, 20, None, 0.05), row("a", way, 50, 1e-9, None)]
    lpips, mse = evaluation_figure(Evaluation(tuple(rows), {"model": "m"})).axes
    assert mse.get_lines()[0].get_xydata().tolist() == [[100, 1e-9]]
    assert lpips.get_lines()[0].get_xydata().tolist() == [[20, 0.1], [40, 0.05]]
    perfect = Evaluation((row("a", way, 10, 0.0, 0.0),), {"model": "m"})
    assert [axes.texts[0].get_text() for axes in evaluation_figure(perfect).axes] == ["no error to be seen"] * 2
    evaluation_curves(perfect, tmp_path / "perfect.png")


def test_bands_that_reach_0_end_at_the_bottom() -> None:
    rows = [row("a", WAYS[0], 10, 1e-3, 0.1), row("b", WAYS[0], 10, 1e-5, 0.2)]
    axes = evaluation_figure(Evaluation(tuple(rows), {"model": "m"})).axes[1]
    (summary,) = Evaluation(tuple(rows), {}).summaries
    assert summary.scores["mse"].low == 0
    assert axes.collections[0].get_paths()[0].vertices[:, 1].min() == pytest.approx(axes.get_ylim()[0])


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_files_are_reproducible(found: Evaluation, tmp_path: Path, suffix: str) -> None:
    for name in ("one", "other"):
        evaluation_curves(found, tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"other{suffix}").read_bytes()


def test_empty_evaluation_and_unknown_suffix(found: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="The evaluation has no rows"):
        evaluation_curves(Evaluation((), {}), tmp_path / "a.png")
    with pytest.raises(ArgumentError, match=r"a\.gif: plots are written as \.png or \.svg\."):
        evaluation_curves(found, tmp_path / "a.gif")


def test_select_ticks() -> None:
    assert select_ticks([10, 11, 20, 21, 50]) == [50, 21, 11]
    assert select_ticks([1, 2, 5, 10], ratio=2.2) == [10, 2]
