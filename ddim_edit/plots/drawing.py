"""What all plots have in common: looks, frames, names beside the ends of lines, and how they are written."""

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.isotonic import isotonic_regression

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.images.recipe import KEY, Recipe, as_comment, as_text
from ddim_edit.io.atomic import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all eyes; their yellow is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v")
GREY, INK = "#8A8A8A", "#333333"
UNDATED: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}
"""The suffixes we write, and what keeps time and version out of each file."""
PLACES = {".png": KEY, ".svg": "Description"}
"""Where a recipe stands in each."""
STYLE = {"svg.hashsalt": "ddim-edit", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 10}


class Look(NamedTuple):
    """How a line and its band are drawn."""

    colour: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]]
    band: float


class End(NamedTuple):
    """Where a line ends, and what is written there."""

    x: float
    y: float
    text: str
    colour: str


def write(make: Callable[[], "Figure"], path: Path, recipe: Recipe | None) -> None:
    """Draw a figure in our own style, whatever the user's settings are, and write it; the same bytes every time.

    The recipe goes inside, where `images.read_recipe` finds it.

    Raises:
        ArgumentError: another suffix than .png and .svg, or matplotlib is not installed.
        ImageError: the file cannot be written.
    """
    if path.suffix.lower() not in UNDATED:
        raise ArgumentError("a plot that ends in .png or .svg", path.name, "rename it")
    matplotlib = _matplotlib()
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        _save(make(), path, as_text(recipe))


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        given = "an installation without it"
        raise ArgumentError("matplotlib for a plot", given, "run pip install 'ddim-edit[eval]'") from error
    return matplotlib


def _save(figure: "Figure", path: Path, text: str | None) -> None:
    suffix = path.suffix.lower()
    told = {} if text is None else {PLACES[suffix]: as_comment(text) if suffix == ".svg" else text}
    try:
        with atomic(path) as temporary:
            figure.savefig(temporary, format=suffix[1:], dpi=160, metadata=UNDATED[suffix] | told)
    except OSError as error:
        raise ImageError("a plot that can be written", f"{path} ({error.strerror})", "choose another place") from error


def blank(width: float, height: float) -> "Figure":
    """An empty figure of a size in inches, of nobody's state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def looks(names: Iterable[str], greyed: Sequence[str] = ()) -> dict[str, Look]:
    """A look for each name, in the order of the names; those to be greyed have dashes instead of a colour."""
    # Five markers against six colours: a colour that comes again has another marker, up to thirty lines.
    colours, markers, dashes = cycle(COLOURS), cycle(MARKERS), cycle(((0, (5, 2)), (0, (2, 2)), (0, (5, 2, 1, 2))))
    return {
        name: Look(GREY, "", next(dashes), 0.10) if name in greyed else Look(next(colours), next(markers), "-", 0.12)
        for name in names
    }


def draw(
    axes: "Axes", look: Look, x: Sequence[float], y: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> None:
    """A line with its band."""
    axes.fill_between(x, low, high, color=look.colour, alpha=look.band, linewidth=0)
    axes.plot(
        x,
        y,
        color=look.colour,
        linestyle=look.dashes,
        linewidth=1.8,
        marker=look.marker or None,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.8,
    )


def frame(axes: "Axes", x: str, y: str, title: str) -> None:
    """Quiet lines around a plot, and what its axes are."""
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, length=3)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.set_title(title, loc="left", fontsize=10, color=INK)


def name_ends(axes: "Axes", ends: Iterable[End], scale: Callable[[float], float] = float) -> None:
    """Write beside each end what belongs there, moved apart where ends are close; `scale` is that of the y axis."""
    order = sorted(ends, key=lambda end: end.y)
    bottom, top = map(scale, axes.get_ylim())
    heights = spread([scale(end.y) for end in order], gap=0.048 * (top - bottom), top=top)
    edge = {"arrowstyle": "-", "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 4}
    for end, height in zip(order, heights, strict=True):
        axes.annotate(
            end.text,
            xy=(end.x, end.y),
            xytext=(1.02, (height - bottom) / (top - bottom)),
            textcoords="axes fraction",
            color=end.colour,
            va="center",
            fontsize=9,
            arrowprops={**edge, "color": end.colour},
        )


def spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """The heights nearest to these ascending ones, in squares, that are a gap apart and below the top."""
    # Less the room that each label needs below itself, such heights only have to ascend.
    room = gap * np.arange(len(heights))
    apart: list[float] = (isotonic_regression(np.array(heights) - room, y_max=top - room[-1]) + room).tolist()
    return apart


def ticks(values: Sequence[int], apart: float = 1.3) -> list[int]:
    """Those of the ascending values whose names have room, on a logarithmic axis, beside those of larger ones."""
    kept: list[int] = []
    for value in reversed(values):
        if not kept or value * apart < kept[-1]:
            kept.append(value)
    return kept
