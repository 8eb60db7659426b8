"""Plot the errors of round trips against the evaluations that they cost."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.report import Evaluation
from ddim_edit.evaluation.statistics import Interval, Summary
from ddim_edit.evaluation.tables import count_images, setting_name
from ddim_edit.metrics.registry import METRICS
from ddim_edit.plots.drawing import (
    GREY,
    INK,
    LineEnd,
    LineStyle,
    assign_styles,
    decorate_axes,
    draw_line,
    label_line_ends,
    make_figure,
    select_ticks,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS: Mapping[str, str] = {name: metric.plot_label for name, metric in METRICS.items() if metric.plot_label}


class _CurvePoint(NamedTuple):
    steps: int
    nfe: float
    error: Interval


def evaluation_curves(
    evaluation: Evaluation, path: str | PathLike[str], recipe: Mapping[str, Any] | None = None
) -> None:
    """Draw errors against the evaluations of a round trip, one line per setting; errors of 0 are left out.

    There is one panel for each metric with a `plot_label`. All axes are logarithmic. Bands are 95 % intervals of the
    mean over the images; a single image has none. The same evaluation gives the same bytes with the same matplotlib.

    Args:
        evaluation: with at least one row.
        path: ends in .png or .svg.
        recipe: what `images.read_recipe` will return of the file, of JSON types.

    Raises:
        ArgumentError: another suffix, or an empty evaluation.
        MissingExtraError: matplotlib is not installed.
        ImageError: the file cannot be written.
    """
    if not evaluation.rows:
        raise ArgumentError("The evaluation has no rows. Evaluate at least one image.")
    write_figure(lambda: evaluation_figure(evaluation), Path(path), recipe)


def evaluation_figure(evaluation: Evaluation) -> "Figure":
    """Return the figure that `evaluation_curves` writes."""
    figure = make_figure(11, 4.6)
    by_setting: dict[str, list[Summary]] = {}
    for summary in evaluation.summaries:
        by_setting.setdefault(setting_name(summary.setting), []).append(summary)
    styles = assign_styles(by_setting)
    for axes, (metric, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        curves: dict[str, list[_CurvePoint]] = {}
        for name, summaries in by_setting.items():
            points = []
            for summary in summaries:
                error = summary.scores[metric]
                if error is not None and error.mean > 0:  # logarithmic axes have no place for others
                    points.append(_CurvePoint(summary.setting.steps, summary.nfe, error))
            if points:
                curves[name] = points
        _draw_panel(axes, curves, styles)
        decorate_axes(axes, "network evaluations, there and back (log scale)", "", title)
    model = evaluation.recipe["model"]
    images = count_images(evaluation)
    title = f"Round trips through {model}, {images}, bands: 95 % intervals of the mean"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    return figure


def _draw_panel(axes: "Axes", curves: Mapping[str, Sequence[_CurvePoint]], styles: Mapping[str, LineStyle]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    if not curves:
        axes.text(0.5, 0.5, "no error to be seen", transform=axes.transAxes, color=GREY, ha="center")
        return
    _set_limits(axes, list(chain.from_iterable(curves.values())))
    ends = []
    for name, points in curves.items():
        nfe = [point.nfe for point in points]
        means = [point.error.mean for point in points]
        bands = [_band(point.error, bottom=axes.get_ylim()[0]) for point in points]
        draw_line(axes, styles[name], nfe, means, [low for low, _ in bands], [high for _, high in bands])
        ends.append(LineEnd(nfe[-1], means[-1], name, styles[name].colour))
    label_line_ends(axes, ends, math.log10)


def _band(error: Interval, bottom: float) -> tuple[float, float]:
    """Return an interval that lies above `bottom`; one of no width where there is none."""
    if error.low is None or error.high is None:
        return error.mean, error.mean
    return max(error.low, bottom), error.high


def _set_limits(axes: "Axes", points: Sequence[_CurvePoint]) -> None:
    nfe = [point.nfe for point in points]
    left, right = min(nfe) / 1.15, max(nfe) * 1.15
    axes.set_xlim(left, right)
    # What a round trip costs with one evaluation per step, and with two.
    costs: set[int] = set()
    for point in points:
        costs |= {2 * point.steps, 4 * point.steps}
    ticks = select_ticks(sorted(cost for cost in costs if left <= cost <= right), ratio=1.5)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    # Room for every mean, and for bands down to a third of the least one: many reach 0.
    lowest = min(point.error.mean for point in points) / 3
    axes.set_ylim(lowest, max(_band(point.error, 0)[1] for point in points) * 1.3)
