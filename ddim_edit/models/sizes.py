"""Which sizes of images a network takes. Importing this needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ddim_edit.errors import ArgumentError
from ddim_edit.images.opening import PIXEL_LIMIT

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class SizeRule:
    """The heights and widths that a network takes.

    Args:
        multiple: what height and width must be multiples of.
        largest: the largest height and width; None for no limit.
        square: whether height and width must be equal.
    """

    multiple: int = 1
    largest: int | None = None
    square: bool = False

    def scaled(self, factor: int) -> SizeRule:
        """Return the rule for images, `factor` pixels of which are one cell of the network's input."""
        largest = None if self.largest is None else self.largest * factor
        return SizeRule(self.multiple * factor, largest, self.square)

    def allows(self, size: Size) -> bool:
        """Return whether a height and width fit."""
        height, width = size
        if self.square and height != width:
            return False
        return all(0 < side <= (self.largest or side) and side % self.multiple == 0 for side in size)

    def nearest(self, size: Size) -> list[Size]:
        """Return the nearest smaller and the nearest larger size that fit, or the only one of them.

        Examples:
            >>> SizeRule(16).nearest((520, 1080)), SizeRule(16, largest=1024).nearest((1040, 1040))
            ([(512, 1072), (528, 1088)], [(1024, 1024)])
        """
        height, width = size
        if self.square:
            height, width = min(size), max(size)
            lower, upper = (self._floor(height),) * 2, (self._ceil(width),) * 2
        else:
            lower, upper = (self._floor(height), self._floor(width)), (self._ceil(height), self._ceil(width))
        return list(dict.fromkeys((lower, upper)))

    def _floor(self, side: int) -> int:
        count = max(1, side // self.multiple)
        return self.multiple * (count if self.largest is None else min(count, self.largest // self.multiple))

    def _ceil(self, side: int) -> int:
        return self._floor(math.ceil(side / self.multiple) * self.multiple)

    def describe(self) -> str:
        """Return the rule in words, for sizes in pixels."""
        words = ["square"] if self.square else []
        if self.multiple > 1:
            words.append(f"in multiples of {self.multiple} pixels")
        if self.largest is not None:
            words.append(f"at most {self.largest} pixels high and wide")
        return " and ".join(words) or "at least 1 pixel high and wide"


ANY_SIZE = SizeRule()


def require_size(size: Size, rule: SizeRule, factor: int) -> Size:
    """Return height and width of x_0 for images of a size in pixels.

    Args:
        size: height and width in pixels.
        rule: of the network.
        factor: pixels a side of one cell of x_0.

    Raises:
        ArgumentError: a size that the network or the autoencoder does not take, or that no image may have.
    """
    height, width = size
    # Larger images could never be read.
    if height * width > PIXEL_LIMIT:
        raise ArgumentError(
            f"Images of {width}x{height} pixels are too large: the limit is {PIXEL_LIMIT:,} pixels. Give a smaller "
            "--size."
        )
    images = rule.scaled(factor)
    if not images.allows(size):
        near = " and ".join(f"{each[1]}x{each[0]}" for each in images.nearest(size))
        verb = "are" if " and " in near else "is"
        raise ArgumentError(f"The size must be {images.describe()}, not {width}x{height}. The nearest {verb} {near}.")
    return height // factor, width // factor
