"""Read image files into what a network takes, whatever form they have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from os import PathLike, fstat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, UnidentifiedImageError

from ddim_edit.errors import ArgumentError, DDIMEditError, ImageError
from ddim_edit.images.colour import to_srgb
from ddim_edit.images.crop import CentreSquare, Crop, apply_crop
from ddim_edit.images.pixels import from_image, to_float
from ddim_edit.images.recipe import SVG_HEAD, recipe_from_comment, recipe_from_image, recipe_from_svg
from ddim_edit.images.video import find_container, read_comment
from ddim_edit.io.ignored_warnings import ignored_warnings

if TYPE_CHECKING:
    from torch import Tensor

PILLOW_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
PIXEL_LIMIT = 178_000_000
"""Larger images are refused; a square of this area has sides of 13,341 pixels."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@dataclass(frozen=True, eq=False)
class InputImage:
    """An image as a network takes it, and where it came from; the file itself is not kept.

    Attributes:
        pixels: uint8 [3, H, W], upright and in sRGB.
        name: the file's name without its suffix.
        source: SHA-256 of the file's bytes, in hexadecimal.
        notes: what had to be done to the file's image, in words and in order.
        preprocessing: crop and original size, for a recipe.
    """

    pixels: Tensor
    name: str
    source: str
    notes: tuple[str, ...]
    preprocessing: dict[str, Any]

    @property
    def tensor(self) -> Tensor:
        """The pixels as float32 [3, H, W] in [-1, 1]."""
        return to_float(self.pixels)


def read(path: str | PathLike[str], size: int | tuple[int, int], crop: Crop | None = None) -> InputImage:
    """Read an image file for a network of input `size`; of an animation, the first frame.

    Depth is reduced to 8 bit, transparency laid over white, colours converted to sRGB, the image turned upright by its
    EXIF tag, cropped, and resized with an antialiased Lanczos filter. An image that needs none of this keeps every bit.

    Args:
        path: a PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, AVIF or JPEG 2000 file of up to 178 million pixels.
        size: (height, width) in pixels, or the side of a square.
        crop: the part of the image to keep, by default the centre square.

    Raises:
        ImageError: a file that cannot be read as an image, or that the crop does not fit in.
        ArgumentError: a size below 1.

    Examples:
        >>> from importlib import resources
        >>> from ddim_edit.images import read
        >>> image = read(str(resources.files("ddim_edit.assets") / "images" / "astronaut.png"), 64)
        >>> list(image.pixels.shape), image.notes
        ([3, 64, 64], ('resized from 512x512 to 64x64',))
    """
    path = Path(path)
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ArgumentError(f"The size of an image must be at least 1x1 pixels, not {width}x{height}.")
    crop = crop or CentreSquare()
    notes: list[str] = []
    with _open(path) as file, _reporting_bad_files(path):
        upright = _load_upright(file, notes)
        file.seek(0)
        source = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        pixels = from_image(apply_crop(upright, crop, (width, height), notes))
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    original = {"original_height": upright.height, "original_width": upright.width}
    return InputImage(pixels, path.stem, source, tuple(notes), {"crop": crop.as_dict(), **original})


def read_recipe(path: str | PathLike[str]) -> dict[str, Any] | None:
    """Return the recipe that `write`, `write_animation` or a plot left in a file, or None if it holds none.

    Raises:
        ImageError: a file that is neither an image nor a video.
        MissingExtraError: a video without PyAV.
    """
    path = Path(path)
    with _open(path) as file, _reporting_bad_files(path):
        container = find_container(file.peek(12))
        if container:
            return recipe_from_comment(read_comment(file, container))
        head = file.peek(SVG_HEAD)[:SVG_HEAD]
        return recipe_from_svg(head) if b"<svg" in head else recipe_from_image(_identify(file))


@contextmanager
def _open(path: Path) -> Iterator[BufferedReader]:
    if path.is_dir():
        raise ImageError(f"{path}: this is a folder, not an image file. Name a file in it.")
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise ImageError(f"{path}: this is not a regular file. Save the image to one first.")
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:  # the latter for a name with a NUL in it
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{path}: cannot read: {reason}. Check the path.") from error
    with file:
        if not fstat(file.fileno()).st_size:
            raise ImageError(f"{path}: the file is empty. Download or save it again.")
        yield file


@contextmanager
def _reporting_bad_files(path: Path) -> Iterator[None]:
    """Raise whatever a bad file causes as an ImageError that names it, and ignore Pillow's warnings."""
    try:
        with ignored_warnings:
            yield
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except DDIMEditError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: the image has more than {PIXEL_LIMIT:,} pixels. Shrink it first.") from error
    except UnidentifiedImageError as error:
        with path.open("rb") as file:
            head = file.read(12)
        if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
            reason = "this is a HEIC image, which Pillow cannot read"
        else:
            reason = "this is not a PNG, JPEG, WebP, GIF, BMP or TIFF image"
        raise ImageError(f"{path}: {reason}. Convert it to PNG or JPEG.") from error
    except Exception as error:  # plugins raise SyntaxError, struct.error, EOFError, IndexError and more
        raise ImageError(f"{path}: the file is truncated or damaged. Download or save it again.") from error


def _identify(file: BufferedReader) -> Image.Image:
    """Open an image by its content, without decoding pixels."""
    # A format that this build of Pillow lacks must not be named to it: that is a KeyError.
    Image.init()
    image = Image.open(file, formats=[name for name in PILLOW_FORMATS if name in Image.OPEN])
    # Pillow only warns up to twice its own limit, which users may have switched off.
    if image.width * image.height > PIXEL_LIMIT:
        raise Image.DecompressionBombError
    return image


def _load_upright(file: BufferedReader, notes: list[str]) -> Image.Image:
    image = _identify(file)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"first of {frames} frames")
    if image.format == "PNG":
        image.load()  # before its EXIF block, which is looked for behind the pixels: their errors would be lost there
    tagged = _read_orientation(image)
    image.load()
    # Pillow turns a TIFF upright itself while it loads, so the tag counts only if it is still there.
    turn = _TURNS.get(_read_orientation(image))
    if tagged in _TURNS:
        notes.append("rotated by its EXIF tag")
    rgb = to_srgb(image, notes)
    return rgb if turn is None else rgb.transpose(turn)


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block must not cost the image
        return 1
