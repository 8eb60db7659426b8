"""Which part of a photograph the model gets to see, chosen by three sliders, and a view of the choice."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ddim_edit.images import Box, CentreSquare, Crop, Fit, read

LONGEST = 480
"""Pixels of the longer side of a view."""
DIMMED, LINE = 0.35, 3


@dataclass(frozen=True)
class Framing:
    """Size and place of a region of the model's shape; it always lies inside the picture.

    Attributes:
        size: of the largest such region, in percent, above 0.
        across, down: where it lies between left and right, top and bottom, in percent; 50 is the middle.
    """

    size: float = 100
    across: float = 50
    down: float = 50

    def crop(self, shape: tuple[int, int], target: tuple[int, int]) -> Crop:
        """The region in a picture of (height, width) for a model of (height, width)."""
        if self == Framing():
            return CentreSquare()
        return Box(*self.box(shape, target)[:3])

    def box(self, shape: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, width and height of the region, in pixels."""
        (height, width), ratio = shape, target[0] / target[1]
        wide = max(1, int(min(width, height / ratio) * self.size / 100))
        high = min(height, max(1, round(wide * ratio)))
        return round((width - wide) * self.across / 100), round((height - high) * self.down / 100), wide, high

    def centred(self, shape: tuple[int, int], target: tuple[int, int], x: float, y: float) -> "Framing":
        """The same size with its middle as near to (x, y), in pixels, as the picture allows."""
        (height, width), (_, _, wide, high) = shape, self.box(shape, target)
        return Framing(self.size, _share(x - wide / 2, width - wide), _share(y - high / 2, height - high))


def shape_of(path: Path) -> tuple[int, int]:
    """(Height, width) of the upright picture in a file; ImageError as `images.read`."""
    told = read(path, 1).preprocessing
    return told["original_height"], told["original_width"]


def view(path: Path, shape: tuple[int, int], framing: Framing, target: tuple[int, int]) -> Tensor:
    """The whole picture, uint8 [3, H, W], brought to one size, with all but the region dimmed."""
    scale = scale_of(shape)
    seen = read(path, (max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))), Fit()).pixels
    left, top, wide, high = (round(scale * side) for side in framing.box(shape, target))
    rows, columns = slice(top, top + max(1, high)), slice(left, left + max(1, wide))
    dimmed = (seen.float() * DIMMED).to(seen.dtype)
    dimmed[:, rows, columns] = 255
    inside = slice(rows.start + LINE, rows.stop - LINE), slice(columns.start + LINE, columns.stop - LINE)
    dimmed[:, inside[0], inside[1]] = seen[:, inside[0], inside[1]]
    return dimmed


def scale_of(shape: tuple[int, int]) -> float:
    """How much larger a view is than its picture."""
    return LONGEST / max(shape)


def _share(offset: float, room: int) -> float:
    return 50 if room <= 0 else round(min(max(100 * offset / room, 0), 100), 1)
