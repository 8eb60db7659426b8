"""Find the image files that paths stand for."""

import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from ddim_edit.errors import ImageError

READABLE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp"}
    | {".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".avif", ".jp2"}
)


def find(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """Return the image files that `paths` stand for: files as given, folders replaced by the images in them.

    Images in a folder are recognised by their suffix and come in natural order, 2.png before 10.png. Hidden files and
    subfolders are skipped.

    Raises:
        ImageError: a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise ImageError(f"{path}: no such file or folder. Check the path.")
        files += _list_images(path) if path.is_dir() else [path]
    return files


def _list_images(folder: Path) -> list[Path]:
    try:
        found = [
            file
            for file in folder.iterdir()
            if file.suffix.lower() in READABLE_SUFFIXES and not file.name.startswith(".") and file.is_file()
        ]
    except OSError as error:
        raise ImageError(f"{folder}: cannot list: {error.strerror}. Check its permissions.") from error
    if not found:
        raise ImageError(f"{folder}: there are no images in this folder. Name another one.")
    return sorted(found, key=_natural_order)


def _natural_order(path: Path) -> tuple[list[str | int], str]:
    # Splitting at digits gives text and numbers in turn, so that equal places always compare alike. The name itself
    # comes last, so that no two files are equal and the order is the same on every system.
    parts = re.split(r"(\d+)", path.name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name
