"""From the paths a user names to the picture files they mean."""

import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from ddim_edit.errors import ImageError

SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp"}
    | {".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".avif", ".jp2"}
)


def find(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """The picture files that `paths` mean: files as given, folders as the pictures in them.

    A folder's pictures are known by their suffix and come in natural order, 2.png before 10.png. Its hidden
    files and its subfolders are left alone.

    Errors: ImageError for a path where nothing is, and for a folder without a picture.
    """
    return [file for path in paths for file in _expanded(Path(path))]


def _expanded(path: Path) -> list[Path]:
    if not path.exists():
        raise ImageError("a picture file or a folder of them", f"{path}, where nothing is", "check the path")
    return _pictures_in(path) if path.is_dir() else [path]


def _pictures_in(folder: Path) -> list[Path]:
    try:
        pictures = sorted(filter(_looks_like_a_picture, folder.iterdir()), key=_natural)
    except OSError as error:
        given = f"{folder} ({error.strerror})"
        raise ImageError("a readable folder", given, "check its permissions") from error
    if not pictures:
        raise ImageError("a folder with pictures in it", f"{folder}, which holds none", "name another folder")
    return pictures


def _looks_like_a_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural(path: Path) -> tuple[list[str | int], str]:
    """Text and numbers in turn, so that equal places always compare alike; then the name, so that none are equal."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name
