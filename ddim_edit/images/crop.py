"""Choose the part of an image that a network of fixed input size gets to see."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.images.alignment import Similarity
from ddim_edit.images.face_templates import FaceTemplate
from ddim_edit.images.faces import Face, can_find_faces


class Placement(NamedTuple):
    """A region (left, top, right, bottom) of an image, and the size (width, height) that it is resized to."""

    region: tuple[int, int, int, int]
    inner: tuple[int, int]

    def alignment(self, target: tuple[int, int]) -> Similarity:
        """Return the map from the image into the network's frame of `target` (width, height), where it is centred."""
        left, top, right, bottom = self.region
        scale = (self.inner[0] / (right - left) + self.inner[1] / (bottom - top)) / 2  # equal up to rounding
        padding = complex((target[0] - self.inner[0]) // 2, (target[1] - self.inner[1]) // 2)
        return Similarity(scale, padding - scale * complex(left, top))


@dataclass(frozen=True)
class CentreSquare:
    """The largest centred region of the network's shape, nearly always a square; the rest is cut off.

    Examples:
        >>> CentreSquare().place(800, 640, target=(64, 64))
        Placement(region=(80, 0, 720, 640), inner=(64, 64))
    """

    def __str__(self) -> str:
        return "centre square"

    def as_dict(self) -> dict[str, Any]:
        """Return the crop as recipes record it."""
        return {"kind": "centre square"}

    def place(self, width: int, height: int, target: tuple[int, int]) -> Placement:
        """Return the region in an image of this size; `target` is the network's (width, height), all in pixels."""
        scale = min(width / target[0], height / target[1])
        wide = max(1, round(target[0] * scale))
        high = max(1, round(target[1] * scale))
        left = (width - wide) // 2
        top = (height - high) // 2
        return Placement((left, top, left + wide, top + high), target)


@dataclass(frozen=True)
class Box:
    """The square of `size` pixels whose upper left corner is (x, y) of the upright image.

    For a network that is not square, `size` is the width and the height follows from the network's shape. An image
    that the box does not fit in is refused with an ImageError.

    Raises:
        ArgumentError: a negative corner, or a size below 1.

    Examples:
        >>> Box(10, 20, 100).place(800, 640, target=(64, 64))
        Placement(region=(10, 20, 110, 120), inner=(64, 64))
    """

    x: int
    y: int
    size: int

    def __post_init__(self) -> None:
        if min(self.x, self.y) < 0 or self.size < 1:
            raise ArgumentError(f"{self}: x and y must be at least 0 and size at least 1. They count pixels.")

    def __str__(self) -> str:
        return f"box at ({self.x}, {self.y})"

    def as_dict(self) -> dict[str, Any]:
        """Return the crop as recipes record it."""
        return {"kind": "box", **asdict(self)}

    def place(self, width: int, height: int, target: tuple[int, int]) -> Placement:
        """Return the region in an image of this size; `target` is the network's (width, height), all in pixels.

        Raises:
            ImageError: the box reaches outside the image.
        """
        right = self.x + self.size
        bottom = self.y + max(1, round(self.size * target[1] / target[0]))
        if right > width or bottom > height:
            raise ImageError(
                f"the box from ({self.x}, {self.y}) to ({right}, {bottom}) reaches outside the image of "
                f"{width}x{height} pixels. Move or shrink it."
            )
        return Placement((self.x, self.y, right, bottom), target)


@dataclass(frozen=True)
class Fit:
    """The whole image, scaled to fit; what it does not cover is filled with its edge pixels.

    Examples:
        >>> Fit().place(800, 400, target=(64, 64))
        Placement(region=(0, 0, 800, 400), inner=(64, 32))
    """

    def __str__(self) -> str:
        return "whole image"

    def as_dict(self) -> dict[str, Any]:
        """Return the crop as recipes record it."""
        return {"kind": "fit"}

    def place(self, width: int, height: int, target: tuple[int, int]) -> Placement:
        """Return the region in an image of this size; `target` is the network's (width, height), all in pixels."""
        scale = min(target[0] / width, target[1] / height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        return Placement((0, 0, width, height), inner)


@dataclass(frozen=True)
class FaceCrop:
    """A face, aligned by its landmarks to the template of a model: turned, scaled and shifted, never squeezed.

    What the frame shows beyond the border of the image is its reflection. An image without such a face is refused with
    an ImageError.

    Args:
        template: where the model expects the landmarks, such as `Model.face_template`.
        which: "largest", or the number of a face in the order of `detect_faces`, from 1.

    Raises:
        ArgumentError: another `which`.

    Examples:
        >>> from importlib import resources
        >>> from ddim_edit.images import FaceTemplate, read
        >>> portrait = resources.files("ddim_edit.assets") / "images" / "astronaut.png"
        >>> image = read(str(portrait), 64, FaceCrop(FaceTemplate.named("faces64")))
        >>> list(image.pixels.shape), round(image.alignment.scale, 1)
        ([3, 64, 64], 0.6)
    """

    template: FaceTemplate
    which: int | str = "largest"

    def __post_init__(self) -> None:
        _require_face_choice(self.which)

    def __str__(self) -> str:
        return "face" if self.which == "largest" else f"face {self.which}"

    def as_dict(self) -> dict[str, Any]:
        """Return the crop as settings record it; recipes have the name of the template and what was found."""
        return {"kind": "face", "which": self.which, "template": self.template.as_dict()}

    def index(self, faces: Sequence[Face]) -> int:
        """Return the index of the face of this crop among those of an image, of which the largest is the first.

        Raises:
            ImageError: there is no such face.
        """
        if not faces:
            raise ImageError(
                "no face was found. Choose the part to use by another crop (--crop centre, fit or X,Y,SIZE)."
            )
        number = 1 if isinstance(self.which, str) else self.which
        if number > len(faces):
            found = "1 face was found" if len(faces) == 1 else f"{len(faces)} faces were found"
            raise ImageError(f"there is no face {number}: {found}, as `ddim-edit faces` shows.")
        return number - 1


@dataclass(frozen=True)
class AutoCrop:
    """The face of an image as in `FaceCrop`, if it has one, and else its centre square.

    An image that has the network's own size is kept as it is: such images are aligned already.

    Args:
        template: where the model expects the landmarks.
        which: as for `FaceCrop`; there must be a face of that number.
        face_required: whether an image without a face is refused with an ImageError instead.
    """

    template: FaceTemplate
    which: int | str = "largest"
    face_required: bool = False

    def __post_init__(self) -> None:
        _require_face_choice(self.which)

    def __str__(self) -> str:
        return "face or centre square"

    def as_dict(self) -> dict[str, Any]:
        """Return the crop as settings record it; a recipe has what became of it for its image."""
        return {"kind": "auto", "which": self.which, "template": self.template.as_dict()}

    @property
    def face(self) -> FaceCrop:
        """The crop of an image that has a face."""
        return FaceCrop(self.template, self.which)


Crop: TypeAlias = CentreSquare | Box | Fit | FaceCrop | AutoCrop
PlacedCrop: TypeAlias = CentreSquare | Box | Fit
"""Crops that the size of an image decides alone."""


def default_crop(template: FaceTemplate | None) -> Crop:
    """Return the crop of images that are given without one: the face for a face model, if OpenCV can look for it."""
    return CentreSquare() if template is None or not can_find_faces() else AutoCrop(template)


def _require_face_choice(which: int | str) -> None:
    is_number = isinstance(which, int) and not isinstance(which, bool) and which >= 1
    if which != "largest" and not is_number:
        raise ArgumentError(f"which must be 'largest' or the number of a face, from 1, not {which!r}.")


def apply_crop(
    image: Image.Image, full: tuple[int, int], crop: PlacedCrop, target: tuple[int, int], notes: list[str]
) -> Image.Image:
    """Return the RGB `image` cropped, resized and padded to `target` (width, height); add what was done to `notes`.

    Args:
        image: the image, which may be smaller than it is in full.
        full: the width and height that it has in full, which the crop counts in.
        crop: the part to keep.
        target: (width, height) of the result.
        notes: is added to.

    Raises:
        ImageError: the crop does not fit in the image.
    """
    region, inner = crop.place(*full, target)
    left, top, right, bottom = region
    size = right - left, bottom - top
    if size != full:
        notes.append(f"{crop} {_by(size)} of {_by(full)}")
    if size != inner:
        verb = "enlarged" if size[0] < inner[0] or size[1] < inner[1] else "resized"
        notes.append(f"{verb} from {_by(size)} to {_by(inner)}")
    if image.size != full:
        across, down = image.width / full[0], image.height / full[1]
        part = image.resize(inner, Image.Resampling.LANCZOS, (left * across, top * down, right * across, bottom * down))
    else:
        # Not by Image.crop, which warns again about large images that were admitted already.
        part = Image.fromarray(np.asarray(image)[top:bottom, left:right]) if size != full else image
        if size != inner:
            part = part.resize(inner, Image.Resampling.LANCZOS)  # Pillow's is antialiased; torch's would not be
    if inner != target:
        notes.append(f"padded from {_by(inner)} to {_by(target)} with its edge pixels")
        wide, high = target[0] - inner[0], target[1] - inner[1]
        sides = ((high // 2, high - high // 2), (wide // 2, wide - wide // 2), (0, 0))
        part = Image.fromarray(np.pad(np.asarray(part), sides, mode="edge"))
    return part


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
