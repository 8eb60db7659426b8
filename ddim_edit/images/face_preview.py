"""Previews of an image: its faces, each with its number, and the part of it that a network sees."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from ddim_edit.images.alignment import Point
from ddim_edit.images.crop import Fit
from ddim_edit.images.faces import Face
from ddim_edit.images.pixels import from_image, to_image
from ddim_edit.images.reading import read

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 1024
"""Pixels of the longer side of a preview, at most."""
COLOUR = (255, 214, 10)
DARK = (0, 0, 0)
DIMMED = 0.45
"""Brightness of what a network does not see."""


def draw_faces(path: str | PathLike[str], faces: Sequence[Face]) -> "Tensor":
    """Return an image with boxes, landmarks and numbers of its faces, uint8 [3, H, W], of at most 1024 pixels a side.

    Args:
        path: an image file.
        faces: its faces, as `detect_faces` returns them.

    Raises:
        ImageError: a file that cannot be read as an image.
    """
    original = read(path, 1).preprocessing
    width, height = original["original_width"], original["original_height"]
    scale = min(1.0, LONGEST / max(width, height))
    image = to_image(read(path, (max(1, round(height * scale)), max(1, round(width * scale))), Fit()).pixels)
    _draw_boxes(image, faces, scale, with_numbers=True)
    draw = ImageDraw.Draw(image)
    radius = 1.5 * _line(image)
    for face in faces:
        for x, y in face.landmarks:
            draw.circle((x * scale, y * scale), radius, fill=COLOUR)
    return from_image(image)


def draw_choice(preview: "Tensor", scale: float, corners: Sequence[Point], faces: Sequence[Face]) -> "Tensor":
    """Return a preview of an image in which all but the part that a network sees is dimmed, uint8 [3, H, W].

    Boxes are drawn around faces. They have numbers if there are several.

    Args:
        preview: the image, uint8 [3, H, W], in a smaller size.
        scale: pixels of the preview for one of the image.
        corners: of that part, in pixels of the image; they may lie outside of it.
        faces: in the image.
    """
    image = to_image(preview)
    outline = [(x * scale, y * scale) for x, y in corners]
    seen = Image.new("L", image.size)
    ImageDraw.Draw(seen).polygon(outline, fill=255)
    image = Image.composite(image, image.point(lambda level: DIMMED * level), seen)
    _draw_boxes(image, faces, scale, with_numbers=len(faces) > 1)
    ImageDraw.Draw(image).line([*outline, *outline[:2]], fill=(255, 255, 255), width=2 * _line(image), joint="curve")
    return from_image(image)


def _line(image: Image.Image) -> int:
    return max(1, max(image.size) // 300)


def _draw_boxes(image: Image.Image, faces: Sequence[Face], scale: float, with_numbers: bool) -> None:
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(10, max(image.size) // 36))
    for number, face in enumerate(faces, 1):
        left, top, wide, high = (side * scale for side in face.box)
        draw.rectangle((left, top, left + wide, top + high), outline=COLOUR, width=_line(image))
        if not with_numbers:
            continue
        text = f" {number} "
        # Inside of the box where there is no room above it.
        anchor = "lb" if draw.textbbox((left, top), text, font=font, anchor="lb")[1] >= 0 else "lt"
        draw.rectangle(draw.textbbox((left, top), text, font=font, anchor=anchor), fill=COLOUR)
        draw.text((left, top), text, fill=DARK, font=font, anchor=anchor)
