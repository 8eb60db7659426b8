"""Recipes inside image files: how an image was made, as JSON, in the place that each format has for text.

    PNG              a text chunk with the keyword "ddim-edit"
    WebP, JPEG       EXIF: Software is "ddim-edit", ImageDescription the JSON
    GIF, MP4, WebM   a comment, "ddim-edit " and the JSON
    SVG              the same in the description of its metadata

Every other program ignores these places, and most keep them when they copy an image.
"""

import json
import re
from collections.abc import Mapping
from html import unescape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

KEYWORD = "ddim-edit"
COMMENT_PREFIX = f"{KEYWORD} "
SVG_HEAD = 8192
"""Bytes at the beginning of an SVG file in which its description stands."""


def recipe_to_text(recipe: Mapping[str, Any] | None) -> str | None:
    """Return the recipe as ASCII JSON with sorted keys, so that equal recipes make equal files."""
    return None if recipe is None else json.dumps(recipe, sort_keys=True)


def text_to_exif(text: str | None) -> bytes:
    """Return an EXIF block that holds the text of a recipe; empty without one."""
    from PIL import ExifTags, Image

    if text is None:
        return b""
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = KEYWORD
    exif[ExifTags.Base.ImageDescription] = text
    return exif.tobytes()


def text_to_comment(text: str | None) -> str:
    """Return a comment that holds the text of a recipe; empty without one."""
    return "" if text is None else COMMENT_PREFIX + text


def recipe_from_image(image: "Image.Image") -> dict[str, Any] | None:
    """Return the recipe in the text chunk, comment or EXIF block of an opened image, or None."""
    from PIL import ExifTags

    if KEYWORD in image.info:
        return _parse(str(image.info[KEYWORD]))
    comment = image.info.get("comment", b"")
    if isinstance(comment, bytes) and comment.startswith(COMMENT_PREFIX.encode()):
        return recipe_from_comment(comment.decode("ascii", "replace"))
    exif = image.getexif()
    if exif.get(ExifTags.Base.Software) != KEYWORD:
        return None
    return _parse(str(exif.get(ExifTags.Base.ImageDescription)))


def recipe_from_comment(comment: str) -> dict[str, Any] | None:
    """Return the recipe in a comment, or None."""
    return _parse(comment.removeprefix(COMMENT_PREFIX)) if comment.startswith(COMMENT_PREFIX) else None


def recipe_from_svg(head: bytes) -> dict[str, Any] | None:
    """Return the recipe in the first bytes of an SVG file, or None."""
    # By a search, since XML parsers of untrusted files can be made to expand entities without end.
    found = re.search(r"<dc:description>(.*?)</dc:description>", head.decode("utf-8", "replace"), re.DOTALL)
    return recipe_from_comment(unescape(found[1])) if found else None


def _parse(text: str) -> dict[str, Any] | None:
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError):  # a text of another program, or brackets nested to exhaust the stack
        return None
    return recipe if isinstance(recipe, dict) else None
