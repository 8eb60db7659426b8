"""Recipes inside picture files: what a picture was made by, as JSON, where each format has room for text."""

import json
import re
from collections.abc import Mapping
from html import unescape
from typing import Any, TypeAlias

from PIL import ExifTags, Image

Recipe: TypeAlias = Mapping[str, Any]

KEY = "ddim-edit"
_PREFIX = f"{KEY} "
PLOT = 8192
"""Bytes at the beginning of a drawing, in which its description stands."""


def as_text(recipe: Recipe | None) -> str | None:
    """ASCII JSON with sorted keys, so that equal recipes make equal files."""
    return None if recipe is None else json.dumps(recipe, sort_keys=True)


def as_exif(text: str | None) -> bytes:
    """The EXIF block for WebP and JPEG, empty without a text."""
    if text is None:
        return b""
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = KEY
    exif[ExifTags.Base.ImageDescription] = text
    return exif.tobytes()


def as_comment(text: str | None) -> str:
    """The comment for GIF and videos, empty without a text."""
    return "" if text is None else _PREFIX + text


def recipe_in(image: Image.Image) -> dict[str, Any] | None:
    """The recipe in an opened image's text chunk (PNG), comment (GIF) or EXIF block, or None."""
    return _parsed(_text_in(image))


def recipe_in_plot(start: bytes) -> dict[str, Any] | None:
    """The recipe in the description of a drawing that begins so (SVG), or None; its XML is not run through a parser."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", start.decode("utf-8", "replace"), re.DOTALL)
    return recipe_of(unescape(found[1])) if found else None


def recipe_of(comment: str) -> dict[str, Any] | None:
    """The recipe in a comment, or None."""
    return _parsed(comment.removeprefix(_PREFIX)) if comment.startswith(_PREFIX) else None


def _parsed(text: str | None) -> dict[str, Any] | None:
    try:
        recipe = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    return recipe if isinstance(recipe, dict) else None


def _text_in(image: Image.Image) -> str | None:
    if KEY in image.info:
        return str(image.info[KEY])
    comment = image.info.get("comment", b"")
    if isinstance(comment, bytes) and comment.startswith(_PREFIX.encode()):
        return comment.decode("ascii", "replace").removeprefix(_PREFIX)
    exif = image.getexif()
    ours = exif.get(ExifTags.Base.Software) == KEY
    return str(exif.get(ExifTags.Base.ImageDescription)) if ours else None
