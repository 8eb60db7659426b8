"""Open image files of any kind, decode them within a budget of memory, and turn them upright."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from os import fstat
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from ddim_edit.errors import DDIMEditError, ImageError
from ddim_edit.images.colour import find_grey_range, to_srgb
from ddim_edit.images.colour_tags import CODE_POINTS, find_encodings, read_code_points
from ddim_edit.images.encodings import ColourEncoding
from ddim_edit.images.plugins import HEIC, JXL, Plugin, register_plugins
from ddim_edit.images.safeguards import MemoryBudget, require_small_jxl, return_freed_memory, silence_libtiff
from ddim_edit.io import content
from ddim_edit.io.content import HEAD, describe_content
from ddim_edit.io.ignored_warnings import ignored_warnings
from ddim_edit.io.regular import require_regular

PILLOW_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
PIXEL_LIMIT = 178_000_000
"""Larger images are refused; a square of this area has sides of 13,341 pixels."""

LARGE = 25_000_000
"""Pixels above which an image is shrunk while it is decoded; others keep every bit until they are cropped."""
STRIP = 1 << 22
"""Pixels of a large image that are converted at a time."""
DECODER_BYTES = {"WEBP": 20, "AVIF": 14, "JPEG2000": 24}
"""Bytes that decoders take for each pixel of a large image, measured where that is more than the 8 of others: libwebp
keeps two whole frames, and OpenJPEG four bytes of every sample. Such images are refused from fewer pixels on."""
DECODING = MemoryBudget(1 << 30)
"""Bytes that all readers together may take for images that they decode."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""
SIDEWAYS = (5, 6, 7, 8)
_PLUGIN_OF: dict[str, Plugin] = {content.HEIC: HEIC, content.JPEG_XL: JXL}


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading.

    Raises:
        ImageError: it is no regular file, is empty or cannot be read.
    """
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
def reporting_bad_files(label: str, file: BufferedReader | None = None) -> Iterator[None]:
    """Raise whatever a bad file causes as an ImageError that names it, and ignore Pillow's warnings.

    Args:
        label: what to call it.
        file: the file, if there is one, which is looked into where it is no image.
    """
    try:
        with ignored_warnings:
            yield
    except ImageError as error:
        raise ImageError(f"{label}: {error}") from error
    except DDIMEditError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{label}: the image has more than {PIXEL_LIMIT:,} pixels. Shrink it first.") from error
    except UnidentifiedImageError as error:
        found = None
        if file is not None:
            file.seek(0)
            found = describe_content(file.read(HEAD))
        plugin = _PLUGIN_OF.get(found or "")
        if plugin is not None and not plugin.installed:
            raise ImageError(f"{label}: this is {found}, which needs {plugin.package}. {plugin.remedy}") from error
        reason = "this is not a PNG, JPEG, WebP, GIF, BMP or TIFF image"
        if found is not None:
            reason += f", but {found}" if not found.endswith("image") else f", or a damaged one: it begins as {found}"
        remedy = "Convert it to PNG or JPEG." if found is None or "photograph" in found else "Name an image."
        raise ImageError(f"{label}: {reason}. {remedy}") from error
    except Exception as error:  # plugins raise SyntaxError, struct.error, EOFError, IndexError and more
        raise ImageError(f"{label}: the file is truncated or damaged. Download or save it again.") from error


def identify(file: BufferedReader) -> Image.Image:
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
    require_few_pixels(image)
    image.info[CODE_POINTS] = code_points  # which Pillow passes over
    return image


def require_few_pixels(image: Image.Image) -> None:
    """Refuse an image that would take too much memory, before it is decoded.

    Raises:
        ImageError: it has more pixels than `PIXEL_LIMIT`, or fewer where its decoder takes more for each.
    """
    # Pillow only warns up to twice its own limit, which users may have switched off.
    limit = PIXEL_LIMIT * 8 // _decoder_bytes(image)
    if image.width * image.height > limit:
        kind = f", too many for {image.format}" if limit < PIXEL_LIMIT else ""
        raise ImageError(f"the image has more than {limit:,} pixels{kind}. Shrink it first.")


def _decoder_bytes(image: Image.Image) -> int:
    return DECODER_BYTES.get(image.format or "", 8)


def decoding_cost(image: Image.Image) -> int:
    """Return about how many bytes it takes to decode an image and to bring it to sRGB."""
    pixels = image.width * image.height
    # Small ones are converted at once, through up to four copies.
    return pixels * (_decoder_bytes(image) if pixels > LARGE else 20)


class UprightImage(NamedTuple):
    """An image in sRGB and upright, which may be smaller than in full, and its full width and height."""

    image: Image.Image
    full: tuple[int, int]


def load_upright(
    image: Image.Image, choose_factor: Callable[[int, int], int], notes: list[str], draft_above: int = LARGE
) -> UprightImage:
    """Return an opened image in sRGB and upright; a large one may be shrunk while it is decoded.

    Args:
        image: of any kind.
        choose_factor: returns by how much a large image of a width and height may be shrunk.
        notes: is added to.
        draft_above: number of pixels above which a JPEG file counts as large.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"first of {frames} frames")
    if image.format == "PNG":
        image.load()  # before its EXIF block, which is looked for behind the pixels: their errors would be lost there
    tagged = read_orientation(image)
    encodings = list(find_encodings(image, notes))  # before a TIFF is loaded, which closes it
    full = image.size
    if image.format in ("JPEG", "MPO") and full[0] * full[1] > draft_above:
        factor = choose_factor(*(reversed(full) if tagged in SIDEWAYS else full))
        image.draft(None, (full[0] // factor, full[1] // factor))  # the decoder itself shrinks to 1/2, 1/4 or 1/8
        image.load()
    else:
        image.load()
        full = image.size
    # Pillow turns a TIFF upright itself while it loads, so the tag counts only if it is still there.
    turn = TURNS.get(read_orientation(image))
    upright_full = (full[1], full[0]) if turn is not None and tagged in SIDEWAYS else full
    if tagged in TURNS:
        notes.append("rotated by its EXIF tag")
    if full[0] * full[1] > LARGE:
        rgb = _shrink_to_srgb(image, max(1, choose_factor(*upright_full) * image.width // full[0]), encodings, notes)
    else:
        rgb = to_srgb(image, notes, encodings)
    return UprightImage(rgb if turn is None else rgb.transpose(turn), upright_full)


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


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 where it has none."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block must not cost the image
        return 1
