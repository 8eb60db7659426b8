"""A preview of the faces in an image, each with its number."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from PIL import ImageDraw, ImageFont

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
    draw = ImageDraw.Draw(image)
    line = max(1, max(image.size) // 300)
    font = ImageFont.load_default(size=max(10, max(image.size) // 36))
    for number, face in enumerate(faces, 1):
        left, top, wide, high = (side * scale for side in face.box)
        draw.rectangle((left, top, left + wide, top + high), outline=COLOUR, width=line)
        for x, y in face.landmarks:
            draw.circle((x * scale, y * scale), 1.5 * line, fill=COLOUR)
        text = f" {number} "
        label = draw.textbbox((left, top), text, font=font, anchor="lb")
        draw.rectangle(label, fill=COLOUR)
        draw.text((left, top), text, fill=DARK, font=font, anchor="lb")
    return from_image(image)
