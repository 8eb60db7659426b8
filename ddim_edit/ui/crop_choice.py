"""The part of a photo that the model gets to see, chosen by three sliders, and a view of the choice."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ddim_edit.images import Box, CentreSquare, Crop, Fit, read

LONGEST = 480
"""Pixels of the longer side of a view."""
DIMMED = 0.35
"""Brightness outside of the region."""
LINE = 3
"""Pixels of the line around the region."""


@dataclass(frozen=True)
class CropChoice:
    """Size and place of a region of the model's aspect ratio; it always lies inside the image.

    Attributes:
        size: of the largest such region, in percent, above 0.
        across, down: where it lies between left and right, top and bottom, in percent; 50 is the middle.
    """

    size: float = 100
    across: float = 50
    down: float = 50

    def crop(self, shape: tuple[int, int], target: tuple[int, int]) -> Crop:
        """Return the region in an image of (height, width) for a model of (height, width)."""
        if self == CropChoice():
            return CentreSquare()
        return Box(*self.box(shape, target)[:3])

    def box(self, shape: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return left, top, width and height of the region, in pixels."""
        height, width = shape
        ratio = target[0] / target[1]
        wide = max(1, int(min(width, height / ratio) * self.size / 100))
        high = min(height, max(1, round(wide * ratio)))
        return round((width - wide) * self.across / 100), round((height - high) * self.down / 100), wide, high

    def centred(self, shape: tuple[int, int], target: tuple[int, int], x: float, y: float) -> "CropChoice":
        """Return the region of this size with its middle as near to (x, y), in pixels, as the image allows."""
        height, width = shape
        _, _, wide, high = self.box(shape, target)
        return CropChoice(self.size, _percent(x - wide / 2, width - wide), _percent(y - high / 2, height - high))


def _percent(offset: float, room: int) -> float:
    return 50 if room <= 0 else round(min(max(100 * offset / room, 0), 100), 1)


def read_shape(path: Path) -> tuple[int, int]:
    """Return (height, width) of the upright image in a file; ImageError as `images.read`."""
    preprocessing = read(path, 1).preprocessing
    return preprocessing["original_height"], preprocessing["original_width"]


def preview(path: Path, shape: tuple[int, int], choice: CropChoice, target: tuple[int, int]) -> Tensor:
    """Return the whole image, uint8 [3, H, W], scaled to one size, with all but the region dimmed."""
    scale = preview_scale(shape)
    pixels = read(path, (max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))), Fit()).pixels
    left, top, wide, high = (round(scale * side) for side in choice.box(shape, target))
    rows, columns = slice(top, top + max(1, high)), slice(left, left + max(1, wide))
    dimmed = (pixels.float() * DIMMED).to(pixels.dtype)
    dimmed[:, rows, columns] = 255
    inner_rows = slice(rows.start + LINE, rows.stop - LINE)
    inner_columns = slice(columns.start + LINE, columns.stop - LINE)
    dimmed[:, inner_rows, inner_columns] = pixels[:, inner_rows, inner_columns]
    return dimmed


def preview_scale(shape: tuple[int, int]) -> float:
    """Return how many pixels of a view a pixel of its image of (height, width) is."""
    return LONGEST / max(shape)
