"""Few-shot curves of probes."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.probing import ProbeReport, ProbeRow
from ddim_edit.images.recipe import Recipe
from ddim_edit.plots.drawing import GREY, End, blank, draw, frame, looks, name_ends, ticks, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINES = ("pixels", "random projection")


def probe_curves(
    report: ProbeReport,
    path: str | PathLike[str],
    baselines: Sequence[str] = BASELINES,
    recipe: Recipe | None = None,
) -> None:
    """Draws balanced accuracy against the number of labels, a line for each representation; it shows no AUC.

    Bands are the report's 95 % intervals; the axis of labels is logarithmic; chance is a dotted line at 0.5. The
    same report gives the same bytes with the same matplotlib.

    Args:
        report: with at least one row.
        path: ends in .png or .svg.
        baselines: names of the representations that are drawn grey and dashed.
        recipe: what `images.read_recipe` will return of the file; anything JSON can say.

    Raises:
        ArgumentError: another suffix, an empty report, or matplotlib is not installed.
        ImageError: the file cannot be written.
    """
    if not report.rows:
        raise ArgumentError("a report with rows", "an empty one", "probe at least one representation")
    write(lambda: probe_figure(report, baselines), Path(path), recipe)


def probe_figure(report: ProbeReport, baselines: Sequence[str] = BASELINES) -> "Figure":
    """The figure, not yet written; arguments as for `probe_curves`."""
    figure = blank(8, 4.8)
    axes = figure.add_subplot()
    curves = _curves(report)
    styles = looks(sorted(curves), baselines)
    for name, rows in curves.items():
        n, y = [row.n for row in rows], [row.balanced_accuracy for row in rows]
        draw(axes, styles[name], n, y, [row.low for row in rows], [row.high for row in rows])
    _frame(axes, report)
    last = {name: rows[-1] for name, rows in curves.items()}
    name_ends(axes, [_end(name, row, styles[name].colour) for name, row in last.items()])
    return figure


def _curves(report: ProbeReport) -> dict[str, list[ProbeRow]]:
    curves: dict[str, list[ProbeRow]] = {}
    for row in sorted(report.rows, key=lambda row: row.n):
        curves.setdefault(row.representation, []).append(row)
    return curves


def _end(name: str, row: ProbeRow, colour: str) -> End:
    return End(row.n, row.balanced_accuracy, f"{name}  {row.balanced_accuracy:.3f}", colour)


def _frame(axes: "Axes", report: ProbeReport) -> None:
    sizes = sorted({row.n for row in report.rows})
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    axes.set_xticks(ticks(sizes), [f"{n:,}" for n in ticks(sizes)])
    axes.minorticks_off()
    axes.axhline(0.5, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
    axes.text(
        0.99, 0.5, "chance", transform=axes.get_yaxis_transform(), color=GREY, fontsize=8, ha="right", va="bottom"
    )
    axes.set_ylim(min(0.48, *(row.low for row in report.rows)), max(0.52, *(row.high for row in report.rows)) + 0.01)
    title = f"Linear probes, {report.test:,} test pictures, bands: 95 % intervals of one probe"
    frame(axes, "labelled pictures (log scale)", "balanced accuracy on the test pictures", title)
