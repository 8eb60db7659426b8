"""Images that no command takes, in every format that the tool reads."""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from itertools import cycle
from pathlib import Path

from PIL import Image

from .. import tiny
from .kit import Kit, Line, Make
from .spoiling import BYTES

SUFFIXES = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "ppm": "PPM"}
BOMB = 60_000
"""Pixels a side of what a few bytes claim to be."""


@cache
def good(suffix: str) -> bytes:
    """A small image as a file."""
    file = BytesIO()
    Image.fromarray(tiny.pixels(0)).save(file, SUFFIXES[suffix])
    return file.getvalue()


def malformed() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Names, of which the first word is that of the file, and contents."""
    # Every damage once and every format with two: readers tell formats apart by their first bytes.
    damages = cycle(BYTES.items())
    for suffix in SUFFIXES:
        for name, spoil in (next(damages), next(damages)):
            yield f"a.{suffix} {name}", lambda suffix=suffix, spoil=spoil: spoil(good(suffix))
    yield "a.png a bomb", lambda: png(BOMB, BOMB)
    yield "a.png of no width", lambda: png(0, 16)
    yield "a.png of a negative width", lambda: png(2**32 - 1, 16)
    yield "a.png with a wrong checksum", lambda: png(16, 16)[:29] + b"????" + png(16, 16)[33:]
    yield "a.png without data", lambda: png(16, 16, b"")
    yield "a.png with too little data", lambda: png(16, 16, zlib.compress(bytes(20)))
    yield "a.png with data that is no zlib", lambda: png(16, 16, b"no zlib")
    yield "a.png with an unknown colour type", lambda: png(16, 16, kind=5)
    yield "a.bmp a bomb", lambda: good("bmp")[:18] + struct.pack("<ii", BOMB, BOMB) + good("bmp")[26:]
    yield "a.bmp of no height", lambda: good("bmp")[:18] + struct.pack("<ii", 16, 0) + good("bmp")[26:]
    yield "a.gif a bomb", lambda: good("gif")[:6] + struct.pack("<HH", BOMB, BOMB) + good("gif")[10:]
    yield "a.ppm a bomb", lambda: f"P6 {BOMB} {BOMB} 255\n".encode() + bytes(100)
    yield "a.ppm of words", lambda: b"P6 many more 255\n" + bytes(768)
    yield "a.ppm of a negative width", lambda: b"P6 -16 16 255\n" + bytes(768)
    yield "a.ppm of very many digits", lambda: b"P6 " + b"9" * 10_000 + b" 16 255\n" + bytes(768)
    yield "a.jpg a bomb", lambda: jpeg_of_size(60_000, 60_000)
    yield "a.png a HEIC", lambda: b"\0\0\0\x18ftypheic" + bytes(100)
    yield "a.png an SVG", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "a.png PostScript", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(a) run\n"
    yield "a.png a PDF", lambda: b"%PDF-1.7\n"


def png(width: int, height: int, data: bytes | None = None, kind: int = 2) -> bytes:
    """A PNG file that claims to be of a size, with some data or a good deal of zeros."""
    body = zlib.compress(bytes(49 * 16)) if data is None else data
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, *zip(*chunks, strict=True)))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG file that claims to be of a size."""
    blob = good("jpg")
    start = blob.index(b"\xff\xc0") + 5
    return blob[:start] + struct.pack(">HH", height, width) + blob[start + 4 :]


def image_file(name: str, content: Callable[[], bytes]) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        (folder / name).write_bytes(content())
        return ["invert", folder / name, "-o", folder / "out", "--steps", "2"]

    return make


def odd_image(prepare: Callable[[Path], object]) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        prepare(folder / "a.png")
        return ["reconstruct", folder / "a.png", "-o", folder / "out", "--steps", "2"]

    return make


def image_cases() -> Iterator[tuple[str, Make]]:
    for name, content in malformed():
        yield f"image {name}", image_file(name.partition(" ")[0], content)
    yield "image a folder without any", odd_image(Path.mkdir)
    yield "image absent", odd_image(lambda path: None)
    yield "image a link to itself", odd_image(lambda path: path.symlink_to(path))
    yield "image a link to nothing", odd_image(lambda path: path.symlink_to("nothing.png"))
    yield "image a pipe", odd_image(os.mkfifo)
    yield "image of a very long name", lambda kit, folder: ["invert", folder / ("a" * 300), "-o", folder / "out"]
    yield "image without a recipe", lambda kit, folder: ["show", tiny.save_picture(folder / "a.png")]
