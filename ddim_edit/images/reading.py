"""From picture files to what a network takes in, whatever form they come in."""

import hashlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from os import PathLike, fstat
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from ddim_edit.errors import ArgumentError, DDIMEditError, ImageError
from ddim_edit.images.colour import in_srgb
from ddim_edit.images.crop import CentreSquare, Crop, framed
from ddim_edit.images.pixels import from_image, to_float
from ddim_edit.images.recipe import PLOT, recipe_in, recipe_in_plot, recipe_of
from ddim_edit.images.video import comment_in, container_of

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
PIXEL_LIMIT = 178_000_000
"""Larger pictures are refused; a square of this area has sides of 13,341 pixels."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@dataclass(frozen=True, eq=False)
class InputImage:
    """A picture as a network takes it in, and where it came from; the file itself is not kept.

    Attributes:
        pixels: uint8 [3, H, W], upright and in sRGB.
        name: the file's name without its suffix.
        source: SHA-256 of the file's bytes, in hexadecimal.
        notes: in words, what had to be done to the file's picture, in order.
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
    """The picture in a file, made ready for a network of input `size`; of an animation, its first frame.

    Depth is reduced to 8 bit, transparency laid over white, colours brought to sRGB, the picture turned
    upright by its EXIF tag, cropped, and resized with an antialiased Lanczos filter. What needs none of that
    is not changed in a single bit.

    Args:
        path: a PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, AVIF or JPEG 2000 file of up to 178 million pixels.
        size: (height, width) in pixels, or the side of a square.
        crop: what to keep of the picture; the centre square unless told otherwise.

    Errors: ImageError for a file that cannot be read as a picture, ArgumentError for an impossible size.
    """
    path, crop = Path(path), crop or CentreSquare()
    height, width = _checked_size(size)
    notes: list[str] = []
    with _opened(path) as file, _translated(path):
        upright = _upright_rgb(file, notes)
        file.seek(0)
        source = hashlib.file_digest(file, "sha256").hexdigest()
    pixels = from_image(framed(upright, crop, (width, height), notes))
    original = {"original_height": upright.height, "original_width": upright.width}
    return InputImage(pixels, path.stem, source, tuple(notes), {"crop": crop.as_dict(), **original})


def read_recipe(path: str | PathLike[str]) -> dict[str, Any] | None:
    """The recipe that `write`, `write_animation` or a plot left in a file; None if it holds none.

    Errors: ImageError for a file that is neither a picture nor a video, and for a video without PyAV.
    """
    path = Path(path)
    with _opened(path) as file, _translated(path):
        container = container_of(file.peek(12))
        if container:
            return recipe_of(comment_in(file, container))
        start = file.peek(PLOT)[:PLOT]
        return recipe_in_plot(start) if b"<svg" in start else recipe_in(_identified(file))


def _checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ArgumentError("a picture size of at least 1x1", f"{width}x{height}", "give it in pixels")
    return height, width


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    if path.is_dir():
        raise ImageError("a picture file", f"the folder {path}", "name a file in it")
    if path.exists() and not path.is_file():
        raise ImageError("a picture file", f"{path}, which is not a regular file", "save it to one first")
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:  # the latter for a name with a NUL in it
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError("a readable picture file", f"{path} ({reason})", "check the path") from error
    with file:
        if not fstat(file.fileno()).st_size:
            raise ImageError("a picture file", f"{path}, which is empty", "fetch or save it again")
        yield file


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Tells whatever Pillow raises over a bad file as an ImageError, and keeps its warnings to itself."""
    try:
        with _QUIET:
            yield
    except DDIMEditError:
        raise
    except Image.DecompressionBombError as error:
        wanted = f"a picture of at most {PIXEL_LIMIT:,} pixels"
        raise ImageError(wanted, f"{path}, which is larger", "shrink it first") from error
    except UnidentifiedImageError as error:
        raise _unknown(path) from error
    except Exception as error:
        # The plugins raise SyntaxError, struct.error, EOFError, IndexError and more over damaged files.
        given = f"{path}, which is cut short or damaged"
        raise ImageError("a whole picture file", given, "fetch or save it again") from error


class _Quiet:
    """Ignores warnings while any thread is inside: Python keeps one list of filters for all of them."""

    def __init__(self) -> None:
        self._lock, self._inside, self._caught = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


_QUIET = _Quiet()


def _unknown(path: Path) -> ImageError:
    with path.open("rb") as file:
        start = file.read(12)
    is_heic = start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS
    given = f"{path}, a HEIC picture" if is_heic else f"{path}, which is none of these"
    return ImageError("a PNG, JPEG, WebP, GIF, BMP or TIFF picture", given, "convert it to PNG or JPEG")


def _identified(file: BufferedReader) -> Image.Image:
    # A format that this build of Pillow lacks must not be named to it: that is a KeyError.
    Image.init()
    image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    if image.width * image.height > PIXEL_LIMIT:
        raise Image.DecompressionBombError
    return image


def _upright_rgb(file: BufferedReader, notes: list[str]) -> Image.Image:
    image = _identified(file)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"first of {frames} frames")
    if image.format == "PNG":
        image.load()  # before its EXIF block, which is looked for behind the pixels: their errors would be lost there
    tagged = _orientation(image)
    image.load()
    # Pillow turns a TIFF upright itself while it loads, so the tag counts only if it is still there.
    turn = _TURNS.get(_orientation(image))
    if tagged in _TURNS:
        notes.append("rotated by its EXIF tag")
    rgb = in_srgb(image, notes)
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # A damaged EXIF block must not cost the picture.
        return 1
