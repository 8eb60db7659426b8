"""Find what an image file says about its colours.

    PNG                 cICP, then iCCP, then sRGB, then cHRM and gAMA, then EXIF
    HEIC, AVIF          ICC profile, then the code points of `colr`, then EXIF
    JPEG, WebP, TIFF    ICC profile, then EXIF

References:
    W3C, Portable Network Graphics (PNG) Specification (third edition), 2025, section 4.3.
    CIPA DC-009 (2010), Design rule for Camera File system, 2.0: R03, the optional colour space.
    ISO/IEC 14496-12 (2022), ISO base media file format, section 12.1.5: ColourInformationBox.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import ExifTags, Image

from ddim_edit.images.encodings import (
    ADOBE_RGB,
    BT709,
    PRIMARIES,
    SRGB,
    TRANSFERS,
    UNSPECIFIED,
    ColourEncoding,
    Primaries,
    Transfer,
    gamma,
)

CODE_POINTS = "code_points"
"""Where an image's `info` has them."""
META_LIMIT = 1 << 20
"""Bytes of the metadata of a HEIC or AVIF file in which its colours are looked for."""
_ADOBE_RGB_TAG = 2
"""Of EXIF's ColorSpace. It is not in the standard, but some cameras write it."""


class CodePoints(NamedTuple):
    """Primaries and transfer function by the numbers of H.273, and whether 0 is black and 255 white."""

    primaries: int
    transfer: int
    full_range: bool
    origin: str


def read_code_points(file: BinaryIO) -> CodePoints | None:
    """Return the code points of a PNG, HEIC or AVIF file, or None if it has none; the file is at its start after."""
    file.seek(0)
    head = file.read(12)
    found = None
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        found = _read_png(file)
    elif head[4:8] == b"ftyp":
        found = _read_iso_media(file)
    file.seek(0)
    return found


def _read_png(file: BinaryIO) -> CodePoints | None:
    file.seek(8)
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"cICP" and length == 4:
            primaries, transfer, matrix, full_range = file.read(4).ljust(4, b"\0")
            # PNG is RGB: the specification allows no other matrix.
            return None if matrix else CodePoints(primaries, transfer, bool(full_range), "cICP")
        if kind == b"IDAT":
            return None
        file.seek(length + 4, 1)
    return None


def _read_iso_media(file: BinaryIO) -> CodePoints | None:
    file.seek(0)
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"meta":
            # The first one belongs to the image itself; those of its alpha or depth come after it, if they have any.
            _, found, rest = file.read(min(length, META_LIMIT)).partition(b"colrnclx")
            if not found or len(rest) < 4:
                return None
            # Decoders have already done what the matrix and the range say.
            primaries, transfer = struct.unpack_from(">2H", rest)
            return CodePoints(primaries, transfer, True, "nclx")
        if length < 8:
            return None
        file.seek(length - 8, 1)
    return None


def find_encodings(image: Image.Image, notes: list[str]) -> Iterator[bytes | ColourEncoding]:
    """Yield what an opened image says about its colours, ICC profiles as bytes, the most decisive first.

    Args:
        image: opened by Pillow, with the code points of its file, if any, in `info` under `CODE_POINTS`. Of a PNG, with
            its pixels loaded, since its EXIF block may stand behind them.
        notes: is added to if the code points are unknown.
    """
    profile = image.info.get("icc_profile")
    code_points = image.info.get(CODE_POINTS)
    codes = code_points and _decode(code_points, notes)
    if image.format == "PNG":
        yield from filter(None, (codes, profile))
        if "srgb" in image.info:
            yield ColourEncoding(BT709, SRGB, "sRGB")
        yield from _find_chromaticities(image)
    else:
        yield from filter(None, (profile, codes))
    if _is_adobe_rgb(image):
        yield ColourEncoding(*ADOBE_RGB, "EXIF")


def _decode(code_points: CodePoints, notes: list[str]) -> ColourEncoding | None:
    primaries, transfer, full_range, origin = code_points
    if (primaries, transfer, full_range) == (UNSPECIFIED, UNSPECIFIED, True):
        return None
    if primaries not in PRIMARIES or transfer not in TRANSFERS:
        notes.append(f"unknown colours ignored: primaries {primaries}, transfer {transfer} ({origin})")
        return None
    return ColourEncoding(PRIMARIES[primaries], TRANSFERS[transfer], origin, full_range)


def _find_chromaticities(image: Image.Image) -> Iterator[ColourEncoding]:
    points = image.info.get("chromaticity", ())
    exponent = image.info.get("gamma", 0)
    origins = []
    primaries: Primaries = BT709
    transfer: Transfer = SRGB
    if len(points) == 8:
        origins.append("cHRM")
        primaries = Primaries("own primaries", points[0:2], points[2:4], points[4:6], points[6:8])
    if exponent > 0:
        origins.append("gAMA")
        transfer = gamma(1 / exponent)
    if origins:
        yield ColourEncoding(primaries, transfer, ", ".join(origins))


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Return whether a camera says that it has written Adobe RGB, which many do without an ICC profile."""
    try:
        exif = image.getexif()
        tags = exif.get_ifd(ExifTags.IFD.Exif)
        space = tags.get(ExifTags.Base.ColorSpace)
        if space == _ADOBE_RGB_TAG or ExifTags.IFD.Interop not in tags:
            return bool(space == _ADOBE_RGB_TAG)
        index = exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex, "")
    except Exception:  # a damaged EXIF block must not cost the image
        return False
    text = index.decode("latin-1") if isinstance(index, bytes) else str(index)
    return text.startswith("R03") and space != 1
