"""Sheets of faces, the style of plots and the packaged images, for the tutorial."""

import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ddim_edit import images

BLUE, ORANGE, GREEN, PINK = COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
INK, GREY = "#222222", "#8A8A8A"
FACE = 1.15
"""Inches across one face."""

mpl.rcParams.update(
    {
        "figure.dpi": 110,
        "savefig.dpi": 200,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.prop_cycle": mpl.cycler(color=COLOURS),
        "lines.linewidth": 2,
        "legend.frameon": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "image.interpolation": "nearest",
    }
)


def packaged(name: str) -> str:
    """Return the file of a packaged image."""
    return str(resources.files("ddim_edit.assets") / "images" / f"{name}.png")


def draw(axes: Axes, x: Tensor) -> None:
    """Draw one image [3, H, W] in [-1, 1], clipped to that range."""
    axes.imshow(images.to_uint8(x).permute(1, 2, 0).numpy())
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def faces(rows: Sequence[Tensor], labels: Sequence[str] = (), columns: Sequence[str] = ()) -> Figure:
    """Draw a sheet of faces: one tensor [N, 3, H, W] per row, labels on the left, column names above."""
    across = max(len(row) for row in rows)
    left = 0.09 * max((len(line) for label in labels for line in label.split("\n")), default=0)
    figure = plt.figure(figsize=(FACE * across + left, FACE * len(rows) + 0.26 * bool(columns)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    grid = figure.subplots(len(rows), across, squeeze=False)
    for row, line in zip(rows, grid, strict=True):
        for axes in line:
            axes.axis("off")
        for x, axes in zip(row, line, strict=False):
            axes.axis("on")
            draw(axes, x)
    for label, line in zip(labels, grid, strict=False):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
    for name, axes in zip(columns, grid[0], strict=False):
        axes.set_title(name, fontsize=10)
    return figure


def show() -> None:
    """Show the figures, or write them to out/tutorial without a screen. The build of the docs collects them itself."""
    if "sphinx_gallery" in sys.modules:
        return
    if mpl.get_backend().lower() != "agg":
        plt.show()
        return
    folder = Path("out/tutorial")
    folder.mkdir(parents=True, exist_ok=True)
    for number in plt.get_fignums():
        file = folder / f"{Path(sys.argv[0]).stem.removeprefix('plot_')}_{number}.png"
        plt.figure(number).savefig(file)
        print(file)
