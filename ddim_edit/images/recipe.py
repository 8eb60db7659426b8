"""Recipes inside picture files: what a picture was made by, as JSON, where each format has room for text."""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from PIL import ExifTags, Image

Recipe: TypeAlias = Mapping[str, Any]

KEY = "ddim-edit"
_PREFIX = f"{KEY} ".encode()


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


def as_comment(text: str | None) -> bytes:
    """The comment for GIF, empty without a text."""
    return b"" if text is None else _PREFIX + text.encode()


def recipe_in(image: Image.Image) -> dict[str, Any] | None:
    """The recipe in an opened image's text chunk (PNG), comment (GIF) or EXIF block, or None."""
    try:
        recipe = json.loads(_text_in(image) or "null")
    except ValueError:
        return None
    return recipe if isinstance(recipe, dict) else None


def _text_in(image: Image.Image) -> str | None:
    if KEY in image.info:
        return str(image.info[KEY])
    comment = image.info.get("comment", b"")
    if isinstance(comment, bytes) and comment.startswith(_PREFIX):
        return comment.removeprefix(_PREFIX).decode("ascii", "replace")
    exif = image.getexif()
    ours = exif.get(ExifTags.Base.Software) == KEY
    return str(exif.get(ExifTags.Base.ImageDescription)) if ours else None
