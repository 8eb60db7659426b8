"""The part of a photo that the model gets to see, as it is chosen on the page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ddim_edit.images import Box, CentreSquare, Crop, FaceCrop, FaceTemplate, Fit

FACE, CENTRE, FIT, BOX = "face", "centre", "fit", "box"
Size = tuple[int, int]
"""(Height, width) in pixels."""


@dataclass(frozen=True)
class CropChoice:
    """A face, the centre, all of a photo, or a box of the model's aspect ratio, which always lies inside the photo.

    Attributes:
        kind: "face:N" of the face N, from 1; "centre", "fit" or "box"; empty for what commands choose by themselves.
        size: of a box, in percent of the largest one, above 0.
        across, down: where a box lies between left and right, top and bottom, in percent; 50 is the middle.
    """

    kind: str = ""
    size: float = 100
    across: float = 50
    down: float = 50

    @classmethod
    def of_face(cls, number: int) -> "CropChoice":
        """Return the choice of a face by its number."""
        return cls(f"{FACE}:{number}")

    def crop(self, shape: Size, target: Size, template: FaceTemplate | None) -> Crop:
        """Return the crop of a photo of a shape for a model of the size `target`."""
        if self.kind.startswith(FACE) and template is not None:
            number = int(self.kind.removeprefix(f"{FACE}:"))
            return FaceCrop(template, "largest" if number == 1 else number)
        if self.kind == BOX:
            return Box(*self.box(shape, target)[:3])
        return Fit() if self.kind == FIT else CentreSquare()

    def box(self, shape: Size, target: Size) -> tuple[int, int, int, int]:
        """Return left, top, width and height of the box, in pixels."""
        height, width = shape
        ratio = target[0] / target[1]
        wide = max(1, int(min(width, height / ratio) * self.size / 100))
        high = min(height, max(1, round(wide * ratio)))
        return round((width - wide) * self.across / 100), round((height - high) * self.down / 100), wide, high

    def centred(self, shape: Size, target: Size, x: float, y: float) -> "CropChoice":
        """Return the box of this size with its middle as near to (x, y), in pixels, as the photo allows."""
        height, width = shape
        _, _, wide, high = self.box(shape, target)
        across, down = _percent(x - wide / 2, width - wide), _percent(y - high / 2, height - high)
        return CropChoice(BOX, self.size, across, down)

    def around(self, shape: Size, target: Size, corners: Sequence[tuple[float, float]]) -> "CropChoice":
        """Return the box that shows about what is between four corners, in pixels, clockwise from the upper left."""
        side = abs(complex(*corners[1]) - complex(*corners[0]))
        largest = CropChoice(BOX).box(shape, target)[2]
        middle_x, middle_y = (sum(values) / len(corners) for values in zip(*corners, strict=True))
        box = replace(self, kind=BOX, size=round(min(100.0, 100 * side / largest), 1))
        return box.centred(shape, target, middle_x, middle_y)


def _percent(offset: float, room: int) -> float:
    return 50 if room <= 0 else round(min(max(100 * offset / room, 0), 100), 1)
