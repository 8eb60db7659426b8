"""Plot what becomes of images between their true and their found x_T."""

import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.self_interpolation import SelfInterpolation, SelfInterpolationSummary
from ddim_edit.evaluation.tables import setting_name
from ddim_edit.metrics.registry import METRICS
from ddim_edit.plots.drawing import (
    INK,
    LineEnd,
    assign_styles,
    decorate_axes,
    draw_line,
    label_line_ends,
    make_figure,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = ("lpips", "psnr")
"""The metrics that are drawn."""


def self_interpolation_curves(
    result: SelfInterpolation, path: str | PathLike[str], recipe: Mapping[str, Any] | None = None
) -> None:
    """Draw LPIPS (logarithmic) and PSNR along the way from the true to the found x_T, one line per setting.

    Bands are 95 % intervals of the mean over the seeds; a single seed has none. The same result gives the same bytes
    with the same matplotlib.

    Args:
        result: with at least one row.
        path: ends in .png or .svg.
        recipe: what `images.read_recipe` will return of the file, of JSON types.

    Raises:
        ArgumentError: another suffix, or a result without rows.
        MissingExtraError: matplotlib is not installed.
        ImageError: the file cannot be written.
    """
    if not result.rows:
        raise ArgumentError("The self-interpolation test has no rows. Give it at least one seed.")
    write_figure(lambda: self_interpolation_figure(result), Path(path), recipe)


def self_interpolation_figure(result: SelfInterpolation) -> "Figure":
    """Return the figure that `self_interpolation_curves` writes."""
    figure = make_figure(11, 4.6)
    lines: dict[str, list[SelfInterpolationSummary]] = {}
    for summary in result.summaries:
        name = f"{setting_name(summary.setting)}, {summary.setting.steps} steps"
        lines.setdefault(name, []).append(summary)
    styles = assign_styles(lines)
    for axes, metric in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        is_error = metric == "lpips"
        ends = []
        means: list[float] = []
        for name, summaries in lines.items():
            # Equal images have no place on a logarithmic axis, and no PSNR.
            points = []
            for summary in summaries:
                score = summary.scores[metric]
                if score is not None and (score.mean > 0 or not is_error):
                    points.append((summary.w, score))
            if not points:
                continue
            w, scores = [place for place, _ in points], [score for _, score in points]
            y = [score.mean for score in scores]
            low = [score.mean if score.low is None else score.low for score in scores]
            high = [score.mean if score.high is None else score.high for score in scores]
            draw_line(axes, styles[name], w, y, low, high)
            means += y
            ends.append(LineEnd(w[-1], y[-1], name, styles[name].colour))
        axes.set_xlim(0, 1.03)
        decorate_axes(axes, "from the true (0) to the found x_T (1)", "", METRICS[metric].title)
        if is_error:
            axes.set_yscale("log")
        # Room for every mean, and for a part of the bands, which are wide for few seeds.
        if means:
            axes.set_ylim((min(means) / 3, 3 * max(means)) if is_error else (min(means) - 5, max(means) + 5))
            label_line_ends(axes, ends, math.log10 if is_error else float)
    seeds = len({row.seed for row in result.rows})
    title = (
        f"Self-interpolation of {seeds} images sampled by {result.recipe['model']}, bands: 95 % intervals of the mean"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    return figure
