"""Plot the few-shot curves of linear probes."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.probing import ProbeReport, ProbeRow
from ddim_edit.plots.drawing import (
    GREY,
    LineEnd,
    assign_styles,
    decorate_axes,
    draw_line,
    label_line_ends,
    make_figure,
    select_ticks,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINES = ("pixels", "random projection")


def probe_curves(
    report: ProbeReport,
    path: str | PathLike[str],
    baselines: Sequence[str] = BASELINES,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Draw balanced accuracy against the number of labels, one line per representation.

    Bands are the report's 95 % intervals, the axis of labels is logarithmic, and chance is a dotted line at 0.5. The
    same report gives the same bytes with the same matplotlib.

    Args:
        report: with at least one row.
        path: ends in .png or .svg.
        baselines: names of the representations that are drawn grey and dashed.
        recipe: what `images.read_recipe` will return of the file, of JSON types.

    Raises:
        ArgumentError: another suffix, or an empty report.
        MissingExtraError: matplotlib is not installed.
        ImageError: the file cannot be written.
    """
    if not report.rows:
        raise ArgumentError("The report has no rows. Probe at least one representation.")
    write_figure(lambda: probe_figure(report, baselines), Path(path), recipe)


def probe_figure(report: ProbeReport, baselines: Sequence[str] = BASELINES) -> "Figure":
    """Return the figure that `probe_curves` writes."""
    figure = make_figure(8, 4.8)
    axes = figure.add_subplot()
    curves: dict[str, list[ProbeRow]] = {}
    for row in sorted(report.rows, key=lambda row: row.n):
        curves.setdefault(row.representation, []).append(row)
    # Sorted, so that a representation keeps its colour when the rows come in another order.
    styles = assign_styles(sorted(curves), baselines)
    ends = []
    for name, rows in curves.items():
        sizes = [row.n for row in rows]
        accuracies = [row.balanced_accuracy for row in rows]
        draw_line(axes, styles[name], sizes, accuracies, [row.low for row in rows], [row.high for row in rows])
        ends.append(LineEnd(sizes[-1], accuracies[-1], f"{name}  {accuracies[-1]:.3f}", styles[name].colour))

    all_sizes = sorted({row.n for row in report.rows})
    ticks = select_ticks(all_sizes)
    axes.set_xscale("log")
    axes.set_xlim(all_sizes[0] / 1.15, all_sizes[-1] * 1.15)
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    axes.axhline(0.5, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
    axes.text(
        0.99, 0.5, "chance", transform=axes.get_yaxis_transform(), color=GREY, fontsize=8, ha="right", va="bottom"
    )
    axes.set_ylim(min(0.48, *(row.low for row in report.rows)), max(0.52, *(row.high for row in report.rows)) + 0.01)
    title = f"Linear probes, {report.test:,} test images, bands: 95 % intervals of one probe"
    decorate_axes(axes, "labelled images (log scale)", "balanced accuracy on the test images", title)
    label_line_ends(axes, ends)
    return figure
