"""Curves as picture files. The only user of matplotlib, which comes with the extra `eval`."""

from collections.abc import Sequence
from itertools import cycle
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.isotonic import isotonic_regression

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.files import atomic
from ddim_edit.probing import ProbeReport, ProbeRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINES = ("pixels", "random projection")
# Okabe and Ito's colours, told apart by all eyes; their yellow is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v")
GREY, INK = "#8A8A8A", "#333333"
UNDATED: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}
"""The suffixes we write, and what keeps time and version out of each file."""
STYLE = {"svg.hashsalt": "ddim-edit", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 10}


class _Look(NamedTuple):
    colour: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]]
    band: float


def probe_curves(report: ProbeReport, path: str | PathLike[str], baselines: Sequence[str] = BASELINES) -> None:
    """Draws balanced accuracy against the number of labels, a line for each representation; it shows no AUC.

    Bands are the report's 95 % intervals; the axis of labels is logarithmic; chance is a dotted line at 0.5. The
    same report gives the same bytes with the same matplotlib.

    Args:
        report: with at least one row.
        path: ends in .png or .svg.
        baselines: names of the representations that are drawn grey and dashed.

    Raises:
        ArgumentError: another suffix, an empty report, or matplotlib is not installed.
        ImageError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in UNDATED:
        raise ArgumentError("a plot that ends in .png or .svg", path.name, "rename it")
    if not report.rows:
        raise ArgumentError("a report with rows", "an empty one", "probe at least one representation")
    matplotlib = _matplotlib()
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        _save(_figure(report, baselines), path)


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        given = "an installation without it"
        raise ArgumentError("matplotlib for a plot", given, "run pip install 'ddim-edit[eval]'") from error
    return matplotlib


def _save(figure: "Figure", path: Path) -> None:
    suffix = path.suffix.lower()
    try:
        with atomic(path) as temporary:
            figure.savefig(temporary, format=suffix[1:], dpi=160, metadata=UNDATED[suffix])
    except OSError as error:
        raise ImageError("a plot that can be written", f"{path} ({error.strerror})", "choose another place") from error


def _figure(report: ProbeReport, baselines: Sequence[str]) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves = _curves(report)
    looks = _looks(list(curves), baselines)
    for name, rows in curves.items():
        _draw(axes, rows, looks[name])
    _frame(axes, report)
    _name(axes, {name: rows[-1] for name, rows in curves.items()}, looks)
    return figure


def _curves(report: ProbeReport) -> dict[str, list[ProbeRow]]:
    curves: dict[str, list[ProbeRow]] = {}
    for row in sorted(report.rows, key=lambda row: row.n):
        curves.setdefault(row.representation, []).append(row)
    return curves


def _looks(names: Sequence[str], baselines: Sequence[str]) -> dict[str, _Look]:
    # Five markers against six colours: a colour that comes again has another marker, up to thirty lines.
    colours, markers, dashes = cycle(COLOURS), cycle(MARKERS), cycle(((0, (5, 2)), (0, (2, 2)), (0, (5, 2, 1, 2))))
    return {
        name: _Look(GREY, "", next(dashes), 0.10)
        if name in baselines
        else _Look(next(colours), next(markers), "-", 0.12)
        for name in sorted(names)
    }


def _draw(axes: "Axes", rows: Sequence[ProbeRow], look: _Look) -> None:
    n = [row.n for row in rows]
    low, high = [row.low for row in rows], [row.high for row in rows]
    axes.fill_between(n, low, high, color=look.colour, alpha=look.band, linewidth=0)
    axes.plot(
        n,
        [row.balanced_accuracy for row in rows],
        color=look.colour,
        linestyle=look.dashes,
        linewidth=1.8,
        marker=look.marker or None,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.8,
    )


def _frame(axes: "Axes", report: ProbeReport) -> None:
    sizes = sorted({row.n for row in report.rows})
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    axes.set_xticks(_ticks(sizes), [f"{n:,}" for n in _ticks(sizes)])
    axes.minorticks_off()
    axes.axhline(0.5, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
    axes.text(
        0.99, 0.5, "chance", transform=axes.get_yaxis_transform(), color=GREY, fontsize=8, ha="right", va="bottom"
    )
    axes.set_ylim(min(0.48, *(row.low for row in report.rows)), max(0.52, *(row.high for row in report.rows)) + 0.01)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, length=3)
    axes.set_xlabel("labelled pictures (log scale)", color=INK)
    axes.set_ylabel("balanced accuracy on the test pictures", color=INK)
    axes.set_title(_title(report), loc="left", fontsize=10, color=INK)


def _ticks(sizes: Sequence[int]) -> list[int]:
    """The sizes whose names have room beside those of larger ones."""
    ticks: list[int] = []
    for n in reversed(sizes):
        if not ticks or n * 1.3 < ticks[-1]:
            ticks.append(n)
    return ticks


def _title(report: ProbeReport) -> str:
    return f"Linear probes, {report.test:,} test pictures, bands: 95 % intervals of one probe"


def _name(axes: "Axes", ends: dict[str, ProbeRow], looks: dict[str, _Look]) -> None:
    """Writes each curve's name and last value beside its end, moved apart where ends are close."""
    order = sorted(ends, key=lambda name: ends[name].balanced_accuracy)
    bottom, top = axes.get_ylim()
    heights = _spread([ends[name].balanced_accuracy for name in order], gap=0.048 * (top - bottom), top=top)
    edge = {"arrowstyle": "-", "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 4}
    for name, height in zip(order, heights, strict=True):
        row = ends[name]
        axes.annotate(
            f"{name}  {row.balanced_accuracy:.3f}",
            xy=(row.n, row.balanced_accuracy),
            xytext=(1.02, (height - bottom) / (top - bottom)),
            textcoords="axes fraction",
            color=looks[name].colour,
            va="center",
            fontsize=9,
            arrowprops={**edge, "color": looks[name].colour},
        )


def _spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """The heights nearest to these ascending ones, in squares, that are a gap apart and below the top."""
    # Less the room that each label needs below itself, such heights only have to ascend.
    room = gap * np.arange(len(heights))
    spread: list[float] = (isotonic_regression(np.array(heights) - room, y_max=top - room[-1]) + room).tolist()
    return spread
