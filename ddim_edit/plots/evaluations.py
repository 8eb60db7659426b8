"""Errors of round trips against the evaluations that they cost."""

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.report import Evaluation
from ddim_edit.evaluation.statistics import Interval, Summary
from ddim_edit.evaluation.tables import count_images, setting_name
from ddim_edit.images.recipe import Recipe
from ddim_edit.metrics.registry import METRICS
from ddim_edit.plots.drawing import GREY, INK, End, Look, blank, draw, frame, looks, name_ends, ticks, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS: Mapping[str, str] = {name: metric.plot_label for name, metric in METRICS.items() if metric.plot_label}


class _Point(NamedTuple):
    steps: int
    nfe: float
    found: Interval


def evaluation_curves(evaluation: Evaluation, path: str | PathLike[str], recipe: Recipe | None = None) -> None:
    """Draws MSE and LPIPS against evaluations there and back, a line for each way; what is 0 has no place on it.

    All axes are logarithmic. Bands are 95 % intervals of the mean over the pictures; single pictures have none. The
    same evaluation gives the same bytes with the same matplotlib.

    Args:
        evaluation: with at least one row.
        path: ends in .png or .svg.
        recipe: what `images.read_recipe` will return of the file; anything JSON can say.

    Raises:
        ArgumentError: another suffix, an empty evaluation, or matplotlib is not installed.
        ImageError: the file cannot be written.
    """
    if not evaluation.rows:
        raise ArgumentError("an evaluation with rows", "an empty one", "evaluate at least one picture")
    write(lambda: evaluation_figure(evaluation), Path(path), recipe)


def evaluation_figure(evaluation: Evaluation) -> "Figure":
    """The figure, not yet written."""
    figure = blank(11, 4.6)
    ways: dict[str, list[Summary]] = {}
    for each in evaluation.summaries:
        ways.setdefault(setting_name(each.setting), []).append(each)
    styles = looks(ways)
    for axes, (name, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        _panel(axes, {way: _points(found, name) for way, found in ways.items()}, styles)
        frame(axes, "network evaluations, there and back (log scale)", "", title)
    figure.suptitle(_title(evaluation), x=0.01, ha="left", fontsize=11, color=INK)
    return figure


def _title(evaluation: Evaluation) -> str:
    images = count_images(evaluation)
    return f"Round trips through {evaluation.recipe['model']}, {images}, bands: 95 % intervals of the mean"


def _points(found: Sequence[Summary], name: str) -> list[_Point]:
    """Return the points that logarithmic axes can show."""
    points = []
    for summary in found:
        score = summary.scores[name]
        if score is not None and score.mean > 0:
            points.append(_Point(summary.setting.steps, summary.nfe, score))
    return points


def _panel(axes: "Axes", curves: Mapping[str, Sequence[_Point]], styles: Mapping[str, Look]) -> None:
    drawn = {way: points for way, points in curves.items() if points}
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    if not drawn:
        axes.text(0.5, 0.5, "no error to be seen", transform=axes.transAxes, color=GREY, ha="center")
        return
    _limits(axes, [point for points in drawn.values() for point in points])
    for way, points in drawn.items():
        low, high = zip(*(_band(point.found, axes.get_ylim()[0]) for point in points), strict=True)
        draw(axes, styles[way], [p.nfe for p in points], [p.found.mean for p in points], low, high)
    ends = [End(points[-1].nfe, points[-1].found.mean, way, styles[way].colour) for way, points in drawn.items()]
    name_ends(axes, ends, math.log10)


def _band(found: Interval, bottom: float) -> tuple[float, float]:
    """An interval whose ends have a place on a logarithmic axis; none is one of no width."""
    if found.low is None or found.high is None:
        return found.mean, found.mean
    return max(found.low, bottom), found.high


def _limits(axes: "Axes", points: Sequence[_Point]) -> None:
    """Room for every mean, and for bands as far as a third of the least one."""
    nfe, means = [point.nfe for point in points], [point.found.mean for point in points]
    least, most = min(nfe) / 1.15, max(nfe) * 1.15
    axes.set_xlim(least, most)
    # What there and back costs with one evaluation a step, and with two.
    costs = sorted({each * point.steps for point in points for each in (2, 4)})
    shown = ticks([n for n in costs if least <= n <= most], apart=1.5)
    axes.set_xticks(shown, [f"{n:,}" for n in shown])
    axes.set_ylim(min(means) / 3, max(_band(point.found, 0)[1] for point in points) * 1.3)
