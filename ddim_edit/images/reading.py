"""Read image files into what a network takes, whatever form they have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from os import PathLike, fstat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, UnidentifiedImageError

from ddim_edit.errors import ArgumentError, DDIMEditError, ImageError
from ddim_edit.images.colour import find_grey_range, to_srgb
from ddim_edit.images.colour_tags import CODE_POINTS, find_encodings, read_code_points
from ddim_edit.images.crop import CentreSquare, Crop, apply_crop
from ddim_edit.images.encodings import ColourEncoding
from ddim_edit.images.pixels import from_image, to_float
from ddim_edit.images.plugins import HEIC, JXL, Plugin, register_plugins
from ddim_edit.images.recipe import SVG_HEAD, recipe_from_comment, recipe_from_image, recipe_from_svg
from ddim_edit.images.safeguards import MemoryBudget, require_small_jxl, return_freed_memory, silence_libtiff
from ddim_edit.images.video import find_container, read_comment
from ddim_edit.io import content
from ddim_edit.io.content import HEAD, describe_content
from ddim_edit.io.ignored_warnings import ignored_warnings
from ddim_edit.io.regular import require_regular

if TYPE_CHECKING:
    from torch import Tensor

PILLOW_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
PIXEL_LIMIT = 178_000_000
"""Larger images are refused; a square of this area has sides of 13,341 pixels."""

LARGE = 25_000_000
"""Pixels above which an image is shrunk while it is decoded; others keep every bit until they are cropped."""
OVERSAMPLING = 4
"""How many pixels of a shrunk image there are at least, along each side, for one of the network."""
STRIP = 1 << 22
"""Pixels of a large image that are converted at a time."""
DECODING = MemoryBudget(1 << 30)
"""Bytes that all readers together may take for images that they decode."""

FAR_TOO_SMALL = 8
"""Enlargement above which an image is warned of: fewer than one in 64 of its pixels would be its own."""

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
_SIDEWAYS = (5, 6, 7, 8)
_PLUGIN_OF: dict[str, Plugin] = {content.HEIC: HEIC, content.JPEG_XL: JXL}


@dataclass(frozen=True, eq=False)
class InputImage:
    """An image as a network takes it, and where it came from; the file itself is not kept.

    Attributes:
        pixels: uint8 [3, H, W], upright and in sRGB.
        name: the file's name without its suffix.
        source: SHA-256 of the file's bytes, in hexadecimal.
        notes: what had to be done to the file's image, in words and in order.
        preprocessing: crop and original size, for a recipe.
        enlargement: how many times the kept part was enlarged, below 1 where it was reduced.
    """

    pixels: Tensor
    name: str
    source: str
    notes: tuple[str, ...]
    preprocessing: dict[str, Any]
    enlargement: float = 1.0

    @property
    def caution(self) -> str | None:
        """What to warn of: an image far smaller than the network's has next to nothing of what its latent shows."""
        if self.enlargement <= FAR_TOO_SMALL:
            return None
        width, height = self.preprocessing["original_width"], self.preprocessing["original_height"]
        return (
            f"an image of {width}x{height} pixels was enlarged {self.enlargement:.3g} times for a model of "
            f"{self.pixels.shape[-1]}x{self.pixels.shape[-2]}, so that most of it is made up. Use a larger one."
        )

    @property
    def tensor(self) -> Tensor:
        """The pixels as float32 [3, H, W] in [-1, 1]."""
        return to_float(self.pixels)


def read(path: str | PathLike[str], size: int | tuple[int, int], crop: Crop | None = None) -> InputImage:
    """Read an image file for a network of input `size`; of an animation, the first frame.

    Depth is reduced to 8 bit, transparency laid over white, colours converted to sRGB, the image turned upright by its
    EXIF tag, cropped, and resized with an antialiased Lanczos filter. An image that needs none of this keeps every bit.
    Images of more than 25 million pixels are first shrunk by a whole factor, to four times the size that is needed.

    Args:
        path: a PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, AVIF or JPEG 2000 file of up to 178 million pixels; with the
            extras `heic` and `jxl` also HEIC and JPEG XL.
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
        image = _identify(file)
        with DECODING.reserve(_decoding_cost(image)):
            upright, (wide, high) = _load_upright(image, crop, (width, height), notes)
            pixels = from_image(apply_crop(upright, (wide, high), crop, (width, height), notes))
            del upright, image
        file.seek(0)
        source = hashlib.file_digest(file, "sha256").hexdigest()
    original = {"original_height": high, "original_width": wide}
    (left, top, right, bottom), inner = crop.place(wide, high, (width, height))
    enlargement = max(inner[0] / (right - left), inner[1] / (bottom - top))
    return InputImage(pixels, path.stem, source, tuple(notes), {"crop": crop.as_dict(), **original}, enlargement)


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
    require_regular(path, ImageError)
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
            found = describe_content(file.read(HEAD))
        plugin = _PLUGIN_OF.get(found or "")
        if plugin is not None and not plugin.installed:
            raise ImageError(f"{path}: this is {found}, which needs {plugin.package}. {plugin.remedy}") from error
        reason = "this is not a PNG, JPEG, WebP, GIF, BMP or TIFF image"
        if found is not None:
            reason += f", but {found}" if not found.endswith("image") else f", or a damaged one: it begins as {found}"
        remedy = "Convert it to PNG or JPEG." if found is None or "photograph" in found else "Name an image."
        raise ImageError(f"{path}: {reason}. {remedy}") from error
    except Exception as error:  # plugins raise SyntaxError, struct.error, EOFError, IndexError and more
        raise ImageError(f"{path}: the file is truncated or damaged. Download or save it again.") from error


def _identify(file: BufferedReader) -> Image.Image:
    """Open an image by its content, without decoding pixels."""
    # A format that this build of Pillow lacks must not be named to it: that is a KeyError.
    Image.init()
    silence_libtiff()
    return_freed_memory()
    code_points = read_code_points(file)
    known = (*PILLOW_FORMATS, *register_plugins())
    if "JXL" in known:
        require_small_jxl(file, PIXEL_LIMIT)  # its plugin decodes while it opens
    image = Image.open(file, formats=[name for name in known if name in Image.OPEN])
    # Pillow only warns up to twice its own limit, which users may have switched off.
    if image.width * image.height > PIXEL_LIMIT:
        raise Image.DecompressionBombError
    image.info[CODE_POINTS] = code_points  # which Pillow passes over
    return image


def _decoding_cost(image: Image.Image) -> int:
    """Return about how many bytes it takes to decode an image and to bring it to sRGB."""
    pixels = image.width * image.height
    # Small ones are converted at once, through up to four copies.
    return pixels * (8 if pixels > LARGE else 20)


def _load_upright(
    image: Image.Image, crop: Crop, target: tuple[int, int], notes: list[str]
) -> tuple[Image.Image, tuple[int, int]]:
    """Return an image in sRGB and upright, and the width and height that it has in full.

    A large one comes smaller than that, but still several times as large as the part of it in `target`.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"first of {frames} frames")
    if image.format == "PNG":
        image.load()  # before its EXIF block, which is looked for behind the pixels: their errors would be lost there
    tagged = _read_orientation(image)
    encodings = list(find_encodings(image, notes))  # before a TIFF is loaded, which closes it
    full = image.size
    if image.format in ("JPEG", "MPO") and full[0] * full[1] > LARGE:
        factor = _spare_factor(full, tagged in _SIDEWAYS, crop, target)
        image.draft(None, (full[0] // factor, full[1] // factor))  # the decoder itself shrinks to 1/2, 1/4 or 1/8
        image.load()
    else:
        image.load()
        full = image.size
    # Pillow turns a TIFF upright itself while it loads, so the tag counts only if it is still there.
    turn = _TURNS.get(_read_orientation(image))
    sideways = turn is not None and tagged in _SIDEWAYS
    if tagged in _TURNS:
        notes.append("rotated by its EXIF tag")
    if full[0] * full[1] > LARGE:
        factor = _spare_factor(full, sideways, crop, target)
        rgb = _shrink_to_srgb(image, max(1, factor * image.width // full[0]), encodings, notes)
    else:
        rgb = to_srgb(image, notes, encodings)
    upright = rgb if turn is None else rgb.transpose(turn)
    return upright, (full[1], full[0]) if sideways else full


def _spare_factor(full: tuple[int, int], sideways: bool, crop: Crop, target: tuple[int, int]) -> int:
    """Return by how much an image of a size can be shrunk and still be several times as large as it is needed."""
    width, height = (full[1], full[0]) if sideways else full
    (left, top, right, bottom), inner = crop.place(width, height, target)
    return max(1, min((right - left) // inner[0], (bottom - top) // inner[1]) // OVERSAMPLING)


def _shrink_to_srgb(
    image: Image.Image, factor: int, encodings: Sequence[bytes | ColourEncoding], notes: list[str]
) -> Image.Image:
    """Return an image in sRGB with its sides divided by a factor, converted in strips, which take little memory."""
    width, height = image.size
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    grey_range = find_grey_range(image) if image.mode in ("I", "F") else None
    rows = max(1, STRIP // (width * factor)) * factor
    found: list[str] = []
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        strip.info = image.info  # which holds transparent colours
        rgb = to_srgb(strip, found, encodings, grey_range)
        small.paste(rgb.reduce(factor) if factor > 1 else rgb, (0, top // factor))
    notes += dict.fromkeys(found)
    return small


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block must not cost the image
        return 1
