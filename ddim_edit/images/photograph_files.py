"""The formats that photographs are written in: the one that they came in, as far as it can be written.

They differ from the formats of `formats`, in which only made images are written, by what they keep of a photograph: its
colour profile, its EXIF block and its transparency.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from ddim_edit.errors import ImageError, MissingExtraError
from ddim_edit.images.plugins import HEIC, register_plugins
from ddim_edit.images.recipe import KEYWORD, text_to_comment

JPEG_QUALITY = 95
LARGEST_BLOCK = 65533
"""Bytes of an EXIF block or a comment of JPEG."""

Writer = Callable[[Image.Image, Path, str | None, bytes | None, Image.Exif | None, Mapping[str, str] | None], None]
"""Writes an image to a path, with the text of a recipe, a colour profile, an EXIF block and text chunks, if any."""


@dataclass(frozen=True)
class PhotographFormat:
    """A format that photographs are written in.

    Attributes:
        name: as people know it.
        suffixes: of its files, in lower case, the usual one first.
        lossless: whether every pixel comes back unchanged.
        modes: of Pillow's images that it can hold.
        save: writes a file.
    """

    name: str
    suffixes: tuple[str, ...]
    lossless: bool
    modes: tuple[str, ...]
    save: Writer


def _save_png(
    image: Image.Image,
    path: Path,
    text: str | None,
    profile: bytes | None,
    exif: Image.Exif | None,
    texts: Mapping[str, str] | None,
) -> None:
    chunks = PngInfo()
    for name, value in (texts or {}).items():
        chunks.add_itxt(name, value)
    if text is not None:
        chunks.add_text(KEYWORD, text)
    image.save(path, "PNG", pnginfo=chunks, icc_profile=profile, exif=exif.tobytes() if exif else b"")


def _save_jpeg(
    image: Image.Image,
    path: Path,
    text: str | None,
    profile: bytes | None,
    exif: Image.Exif | None,
    texts: Mapping[str, str] | None,
) -> None:
    # The recipe is a comment, so that the description and the software in EXIF stay the photographer's.
    comment = text_to_comment(text).encode()
    block = exif.tobytes() if exif else b""
    if max(len(comment), len(block)) > LARGEST_BLOCK:
        raise ImageError("JPEG has room for 64 KB of recipe and of EXIF. Choose PNG, or --no-metadata.")
    image.save(
        path, "JPEG", quality=JPEG_QUALITY, subsampling=0, icc_profile=profile, exif=block, comment=comment or None
    )


def _with_recipe(text: str | None, exif: Image.Exif | None) -> bytes:
    """Return an EXIF block with the recipe, where formats have no other place for it."""
    if text is None:
        return exif.tobytes() if exif else b""
    block = Image.Exif()
    if exif:
        block.load(exif.tobytes())
    block[ExifTags.Base.Software] = KEYWORD
    block[ExifTags.Base.ImageDescription] = text
    return block.tobytes()


def _save_webp(
    image: Image.Image,
    path: Path,
    text: str | None,
    profile: bytes | None,
    exif: Image.Exif | None,
    texts: Mapping[str, str] | None,
) -> None:
    # Exact, or else the colours under transparent pixels would be lost.
    image.save(path, "WEBP", lossless=True, exact=True, icc_profile=profile or b"", exif=_with_recipe(text, exif))


def _save_heic(
    image: Image.Image,
    path: Path,
    text: str | None,
    profile: bytes | None,
    exif: Image.Exif | None,
    texts: Mapping[str, str] | None,
) -> None:
    if not HEIC.installed:
        raise MissingExtraError(HEIC.package, HEIC.extra, "Writing HEIC files")
    register_plugins()
    buffer = BytesIO()
    image.save(
        buffer, "HEIF", quality=JPEG_QUALITY, chroma=444, icc_profile=profile, exif=_with_recipe(text, exif) or None
    )
    path.write_bytes(buffer.getvalue())  # the plugin chooses the codec by the suffix of a path


PNG = PhotographFormat("PNG", (".png",), True, ("L", "LA", "RGB", "RGBA", "I;16"), _save_png)
_FORMATS = (
    PNG,
    PhotographFormat("WebP", (".webp",), True, ("L", "RGB", "RGBA"), _save_webp),
    PhotographFormat("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), False, ("L", "RGB"), _save_jpeg),
    PhotographFormat("HEIC", (".heic", ".heif", ".hif"), False, ("RGB", "RGBA"), _save_heic),
)
PHOTOGRAPH_FORMATS: Mapping[str, PhotographFormat] = {suffix: each for each in _FORMATS for suffix in each.suffixes}
"""Formats of photographs by suffix."""


def find_photograph_format(path: str | PathLike[str]) -> PhotographFormat:
    """Return the format in which `Photograph.save` will write a file of that name.

    Raises:
        ImageError: no format has that suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in PHOTOGRAPH_FORMATS:
        *first, last = (each.suffixes[0] for each in _FORMATS)
        raise ImageError(f"{path}: photographs are written as {', '.join(first)} or {last}. Change the suffix.")
    return PHOTOGRAPH_FORMATS[suffix]


def photograph_suffix(path: str | PathLike[str]) -> str:
    """Return the suffix under which an edited photograph is written: its own, or .png if its format is only read.

    Examples:
        >>> photograph_suffix("group.JPG"), photograph_suffix("old.tif")
        ('.jpg', '.png')
    """
    form = PHOTOGRAPH_FORMATS.get(Path(path).suffix.lower(), PNG)
    if form.name == HEIC.name and not HEIC.installed:
        form = PNG
    return form.suffixes[0]
