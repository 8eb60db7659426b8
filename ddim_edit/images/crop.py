"""What part of a picture a network of fixed input size gets to see."""

from dataclasses import asdict, dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from ddim_edit.errors import ArgumentError, ImageError


class Placement(NamedTuple):
    """The region of a picture (left, top, right, bottom) and the inner size (width, height) it is given."""

    region: tuple[int, int, int, int]
    inner: tuple[int, int]


@dataclass(frozen=True)
class CentreSquare:
    """The largest centred region of the network's shape, nearly always a square; the rest is cut off."""

    def __str__(self) -> str:
        return "centre square"

    def as_dict(self) -> dict[str, int | str]:
        """The crop as a recipe tells it."""
        return {"kind": "centre square"}

    def place(self, width: int, height: int, target: tuple[int, int]) -> Placement:
        """Where the region lies in a picture of this size; `target` is (width, height), all in pixels."""
        scale = min(width / target[0], height / target[1])
        wide, high = max(1, round(target[0] * scale)), max(1, round(target[1] * scale))
        left, top = (width - wide) // 2, (height - high) // 2
        return Placement((left, top, left + wide, top + high), target)


@dataclass(frozen=True)
class Box:
    """The square of `size` pixels from (x, y) of the upright picture on; it may not reach outside.

    Errors: ArgumentError for a negative place or an empty box; ImageError from a picture too small for it.
    """

    x: int
    y: int
    size: int

    def __post_init__(self) -> None:
        if min(self.x, self.y) < 0 or self.size < 1:
            wanted = "a box with x, y of at least 0 and a size of at least 1"
            raise ArgumentError(wanted, repr(self), "count pixels from the upper left corner")

    def __str__(self) -> str:
        return f"box at ({self.x}, {self.y})"

    def as_dict(self) -> dict[str, int | str]:
        """The crop as a recipe tells it."""
        return {"kind": "box", **asdict(self)}

    def place(self, width: int, height: int, target: tuple[int, int]) -> Placement:
        """Where the region lies in a picture of this size; `target` is (width, height), all in pixels.

        For a network that is not square, `size` is the width, and the height follows the network's shape.
        """
        right, below = self.x + self.size, self.y + max(1, round(self.size * target[1] / target[0]))
        if right > width or below > height:
            wanted = f"a box inside the picture of {width}x{height} pixels"
            given = f"one from ({self.x}, {self.y}) to ({right}, {below})"
            raise ImageError(wanted, given, "move or shrink it")
        return Placement((self.x, self.y, right, below), target)


@dataclass(frozen=True)
class Fit:
    """The whole picture, scaled to fit; the sides left free repeat its edge pixels."""

    def __str__(self) -> str:
        return "whole picture"

    def as_dict(self) -> dict[str, int | str]:
        """The crop as a recipe tells it."""
        return {"kind": "fit"}

    def place(self, width: int, height: int, target: tuple[int, int]) -> Placement:
        """Where the region lies in a picture of this size; `target` is (width, height), all in pixels."""
        scale = min(target[0] / width, target[1] / height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        return Placement((0, 0, width, height), inner)


Crop: TypeAlias = CentreSquare | Box | Fit


def framed(image: Image.Image, crop: Crop, target: tuple[int, int], notes: list[str]) -> Image.Image:
    """The RGB `image` cropped, resized and padded to `target` (width, height); adds to `notes` what was done.

    The resampling is Pillow's antialiased Lanczos filter; a region that has its size already is not touched.
    """
    (left, top, right, below), inner = crop.place(image.width, image.height, target)
    # Not by Pillow's crop, which warns again about large pictures that were admitted already.
    part = Image.fromarray(np.asarray(image)[top:below, left:right])
    if part.size != image.size:
        notes.append(f"{crop} {_size(part.size)} of {_size(image.size)}")
    return _padded(_resized(part, inner, notes), target, notes)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _resized(image: Image.Image, size: tuple[int, int], notes: list[str]) -> Image.Image:
    if image.size == size:
        return image
    verb = "enlarged" if image.width < size[0] or image.height < size[1] else "resized"
    notes.append(f"{verb} from {_size(image.size)} to {_size(size)}")
    return image.resize(size, Image.Resampling.LANCZOS)


def _padded(image: Image.Image, size: tuple[int, int], notes: list[str]) -> Image.Image:
    if image.size == size:
        return image
    notes.append(f"padded from {_size(image.size)} to {_size(size)} with its edge pixels")
    across, down = size[0] - image.width, size[1] - image.height
    sides = ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), sides, mode="edge"))
