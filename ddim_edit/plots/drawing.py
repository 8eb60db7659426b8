"""Line plots: styles, axes, names beside the ends of lines, and files that are the same bytes every time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.images.recipe import KEYWORD, recipe_to_text, text_to_comment
from ddim_edit.io.atomic import atomic
from ddim_edit.io.extras import import_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, which colour-blind readers can tell apart. Its yellow is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v")
DASHES = ((0, (5, 2)), (0, (2, 2)), (0, (5, 2, 1, 2)))
GREY, INK = "#8A8A8A", "#333333"
# Without the salt, the identifiers in an SVG would be random.
RC_PARAMS = {"svg.hashsalt": "ddim-edit", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 10}


@dataclass(frozen=True)
class PlotFormat:
    """A format of plots.

    Attributes:
        metadata: entries that matplotlib would fill with the time or its version, so that equal plots make equal files.
        recipe_entry: the entry of the metadata that holds the recipe.
        embed: turns the text of a recipe into that entry.
    """

    metadata: Mapping[str, Any]
    recipe_entry: str
    embed: Callable[[str], str]


PLOT_FORMATS: Mapping[str, PlotFormat] = {
    ".png": PlotFormat({"Software": None}, KEYWORD, str),
    ".svg": PlotFormat({"Date": None, "Creator": None}, "Description", text_to_comment),
}
"""Formats of plots by suffix."""


class LineStyle(NamedTuple):
    """How a line and its band are drawn."""

    colour: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]]
    band_alpha: float


class LineEnd(NamedTuple):
    """The last point of a line, and what to write beside it."""

    x: float
    y: float
    text: str
    colour: str


def plot_suffixes() -> tuple[str, ...]:
    """Return the suffixes that plots may have.

    Examples:
        >>> plot_suffixes()
        ('.png', '.svg')
    """
    return tuple(PLOT_FORMATS)


def write_figure(make: "Callable[[], Figure]", path: Path, recipe: Mapping[str, Any] | None) -> None:
    """Draw a figure and write it, with the recipe where `images.read_recipe` finds it.

    The user's settings of matplotlib have no influence, and none of them is changed.

    Raises:
        ArgumentError: another suffix than .png and .svg.
        MissingExtraError: matplotlib is not installed.
        ImageError: the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in PLOT_FORMATS:
        raise ArgumentError(f"{path}: plots are written as {' or '.join(plot_suffixes())}. Change the suffix.")
    plot_format = PLOT_FORMATS[suffix]
    metadata = dict(plot_format.metadata)
    text = recipe_to_text(recipe)
    if text is not None:
        metadata[plot_format.recipe_entry] = plot_format.embed(text)
    matplotlib = import_extra("matplotlib", "eval", "Drawing plots")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **RC_PARAMS}):
        figure = make()
        try:
            with atomic(path) as temporary:
                figure.savefig(temporary, format=suffix[1:], dpi=160, metadata=metadata)
        except OSError as error:
            raise ImageError(f"{path}: cannot write: {error.strerror}. Choose another place.") from error


def make_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not by pyplot, which keeps every figure until it is closed and may open windows.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def assign_styles(names: Iterable[str], greyed: Sequence[str] = ()) -> dict[str, LineStyle]:
    """Return a style for each name, in their order; those in `greyed` get dashes instead of a colour."""
    # Five markers against six colours: a colour that comes again has another marker, up to thirty lines.
    colours, markers, dashes = cycle(COLOURS), cycle(MARKERS), cycle(DASHES)
    styles = {}
    for name in names:
        if name in greyed:
            styles[name] = LineStyle(GREY, "", next(dashes), 0.10)
        else:
            styles[name] = LineStyle(next(colours), next(markers), "-", 0.12)
    return styles


def draw_line(
    axes: "Axes", style: LineStyle, x: Sequence[float], y: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> None:
    """Draw a line with its band."""
    axes.fill_between(x, low, high, color=style.colour, alpha=style.band_alpha, linewidth=0)
    axes.plot(
        x,
        y,
        color=style.colour,
        linestyle=style.dashes,
        linewidth=1.8,
        marker=style.marker or None,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.8,
    )


def decorate_axes(axes: "Axes", x_label: str, y_label: str, title: str) -> None:
    """Label the axes, and draw grid and frame lightly."""
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, length=3)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.set_title(title, loc="left", fontsize=10, color=INK)


def label_line_ends(axes: "Axes", ends: Iterable[LineEnd], scale: Callable[[float], float] = float) -> None:
    """Write the text of each end right of the axes, at its height; close ones are moved apart.

    Args:
        axes: whose limits are final.
        ends: one per line.
        scale: that of the y axis, as `math.log10`.
    """
    ordered = sorted(ends, key=lambda end: end.y)
    bottom, top = map(scale, axes.get_ylim())
    heights = spread_heights([scale(end.y) for end in ordered], gap=0.048 * (top - bottom), top=top)
    leader = {"arrowstyle": "-", "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 4}
    for end, height in zip(ordered, heights, strict=True):
        axes.annotate(
            end.text,
            xy=(end.x, end.y),
            xytext=(1.02, (height - bottom) / (top - bottom)),
            textcoords="axes fraction",
            color=end.colour,
            va="center",
            fontsize=9,
            arrowprops={**leader, "color": end.colour},
        )


def spread_heights(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """Return the heights nearest to these ascending ones, in squares, that are `gap` apart and not above `top`.

    Examples:
        >>> [round(height, 2) for height in spread_heights([0.1, 0.5, 0.5], gap=0.1, top=1)]
        [0.1, 0.45, 0.55]
    """
    import numpy as np
    from sklearn.isotonic import isotonic_regression

    # Less the room that the labels below each one take, the heights only have to ascend: an isotonic regression.
    room = gap * np.arange(len(heights))
    spread: list[float] = (isotonic_regression(np.array(heights) - room, y_max=top - room[-1]) + room).tolist()
    return spread


def select_ticks(values: Sequence[int], ratio: float = 1.3) -> list[int]:
    """Return those of the ascending values whose names have room on a logarithmic axis, largest first.

    Examples:
        >>> select_ticks([10, 11, 20, 21, 50])
        [50, 21, 11]
    """
    selected: list[int] = []
    for value in reversed(values):
        if not selected or value * ratio < selected[-1]:
            selected.append(value)
    return selected
