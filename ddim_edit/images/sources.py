"""Open images as files, whatever they are: files, their bytes, open files, Pillow images and arrays."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO, TextIOBase
from os import PathLike
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ddim_edit.errors import ImageError
from ddim_edit.images.arrays import image_from_array
from ddim_edit.images.opening import (
    DECODING,
    decoding_cost,
    load_upright,
    open_file,
    read_orientation,
    reporting_bad_files,
    require_few_pixels,
)

LARGEST_FILE = 1 << 30
"""Bytes that are read of an open file at most, which may have no end."""
_PART = 1 << 20
"""Bytes that are read of it at a time."""
UNNAMED = "the image"
"""What errors call an image that has no name."""
_COPYING = threading.Lock()
"""Held while a Pillow image is copied, which loads it: several threads may get the same one."""


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file, and the name of the file if it has one."""

    data: bytes
    name: str | None = None


ImageSource: TypeAlias = (
    str | PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | EncodedImage | Image.Image | NDArray[Any]
)
"""What `read` takes: a path, the bytes of a file, a file that is open in binary mode, a Pillow image or an array."""


class OpenedSource(NamedTuple):
    """An image as an open file.

    Attributes:
        file: of an image in memory, one that holds its upright sRGB pixels.
        name: without a suffix, or None.
        notes: what had to be done to an image in memory, in words.
    """

    file: BufferedReader
    name: str | None
    notes: Sequence[str] = ()

    def digest(self) -> str:
        """Return the SHA-256 of the file, in hexadecimal."""
        self.file.seek(0)
        return hashlib.file_digest(self.file, "sha256").hexdigest()


@contextmanager
def open_source(source: ImageSource, name: str | None = None) -> Iterator[OpenedSource]:
    """Open an image of any kind, and report what is wrong with it under its name.

    Args:
        source: the image.
        name: what to call one in memory.

    Raises:
        ImageError: a file that cannot be read or is no image, or whatever else fails in the block; it names the image.
        ArgumentError: an array that cannot be an image.
    """
    if isinstance(source, str | PathLike):
        path = Path(source)
        with open_file(path) as file, reporting_bad_files(str(path), file):
            yield OpenedSource(file, name or path.stem)
        return
    notes: list[str] = []
    if isinstance(source, Image.Image | np.ndarray):
        image = image_from_array(source) if isinstance(source, np.ndarray) else source
        name = name or getattr(image, "filename", None) or None
        with reporting_bad_files(name or UNNAMED):
            encoded = EncodedImage(_encode(image, notes))
    elif isinstance(source, bytes | bytearray | memoryview):
        encoded = EncodedImage(bytes(source))
    else:
        encoded = source if isinstance(source, EncodedImage) else read_stream(source)
        name = name or encoded.name
    if not encoded.data:
        raise ImageError(f"{name or UNNAMED}: the file is empty. Download or save it again.")
    file = BufferedReader(BytesIO(encoded.data))  # a BytesIO cannot be peeked into
    with reporting_bad_files(name or UNNAMED, file):
        yield OpenedSource(file, Path(name).stem if name else None, notes)


def read_stream(stream: IO[bytes]) -> EncodedImage:
    """Return the content of a file that is open in binary mode, from its beginning where it can be rewound.

    Raises:
        ImageError: a file that is closed, open as text, too large, or that cannot be read.
    """
    name = getattr(stream, "name", None)
    name = name if isinstance(name, str) else None  # of a file that was opened by its number, that number
    label = name or UNNAMED
    if getattr(stream, "closed", False):
        raise ImageError(f"{label}: the file is closed. Open it again.")
    given: object = stream
    if isinstance(given, TextIOBase):
        raise ImageError(f"{label}: the file is open as text. Open it in binary mode, 'rb'.")
    data = bytearray()
    try:
        if getattr(stream, "seekable", bool)():
            stream.seek(0)
        # In parts, as pipes and sockets return less than they were asked for.
        while part := stream.read(_PART):
            data += part
            if len(data) > LARGEST_FILE:
                raise ImageError(f"{label}: the file has more than {LARGEST_FILE:,} bytes. Name a smaller one.")
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{label}: cannot read: {reason}. Open it again, in binary mode, 'rb'.") from error
    return EncodedImage(bytes(data), name)


def reread(source: ImageSource) -> ImageSource:
    """Return an image that can be read more than once, which an open file may be only once."""
    if isinstance(source, str | PathLike | bytes | bytearray | memoryview | EncodedImage | Image.Image | np.ndarray):
        return source
    return read_stream(source)


def _encode(image: Image.Image, notes: list[str]) -> bytes:
    """Return the upright sRGB pixels of an image as a file, which takes no time; so equal pixels have equal bytes.

    Raises:
        ImageError: an image without pixels, or one that is closed.
    """
    require_pixels(image)
    buffer = BytesIO()
    with DECODING.reserve(decoding_cost(image)):
        upright, _ = load_upright(copy_image(image), lambda width, height: 1, notes)
        upright.save(buffer, "PPM")
    return buffer.getvalue()


def require_pixels(image: Image.Image) -> None:
    """Refuse a Pillow image without pixels, or with too many.

    Raises:
        ImageError: it has none, or too many.
    """
    if not all(image.size):
        raise ImageError(f"it has no pixels, but a size of {image.width}x{image.height}.")
    require_few_pixels(image)


def copy_image(image: Image.Image) -> Image.Image:
    """Return a copy of the current frame of an image, which its owner may use and change meanwhile."""
    with _COPYING:
        try:
            copy = image.copy()
        except ValueError as error:
            if "closed" not in str(error):
                raise
            raise ImageError("the image is closed. Open it again.") from error
        orientation = read_orientation(image)
    copy.format = image.format  # some formats say of their colours what others do not
    # Copies have the EXIF block of the file, but not what was changed of it since.
    if read_orientation(copy) != orientation:
        copy.getexif()[ExifTags.Base.Orientation] = orientation
    return copy
