"""Find the image files that paths stand for."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from ddim_edit.errors import ImageError
from ddim_edit.images.plugins import PLUGINS

PILLOW_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp"}
    | {".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm", ".avif", ".jp2"}
)
READABLE_SUFFIXES = PILLOW_SUFFIXES | PLUGINS.keys()
"""Suffixes of image files, of which some need a package that may not be installed."""


def readable_suffixes() -> frozenset[str]:
    """Return the suffixes of the image files that can be read here, in lower case."""
    return PILLOW_SUFFIXES | {suffix for suffix, plugin in PLUGINS.items() if plugin.installed}


class FolderListing(NamedTuple):
    """What is in a folder.

    Attributes:
        files: those that were looked for, in natural order.
        others: number of other files by their suffix, in lower case; hidden ones do not count.
        folders: number of subfolders that were not looked into.
        unreadable: subfolders that cannot be listed.
        irregular: number of entries that are neither files nor folders.
    """

    files: list[Path]
    others: Mapping[str, int]
    folders: int
    unreadable: list[Path]
    irregular: int

    @property
    def skipped(self) -> str:
        """What was passed over, in words; empty if that is nothing."""
        parts = []
        if self.folders:
            parts.append(f"{_count(self.folders, 'subfolder')} (--recursive looks into them)")
        parts += [f"{folder}, which cannot be listed" for folder in self.unreadable]
        for suffix, number in sorted(self.others.items()):
            plugin = PLUGINS.get(suffix)
            hint = f" (needs {plugin.package}: pip install 'ddim-edit[{plugin.extra}]')" if plugin else ""
            parts.append(_count(number, f"{suffix} file" if suffix else "suffixless file") + hint)
        if self.irregular:
            parts.append(_count(self.irregular, "broken link or pipe", "broken links or pipes"))
        return ", ".join(parts)


def list_folder(folder: Path, recursive: bool = False, wanted: Callable[[str], bool] | None = None) -> FolderListing:
    """Return the files in a folder whose name is wanted, by default those that can be read as images.

    They come in natural order, 2.png before 10.png, and those of subfolders after those of their folder. Hidden files
    and folders are passed over, and links to folders are not followed below the first.

    Raises:
        ImageError: a folder that cannot be listed.
    """
    if wanted is None:
        suffixes = readable_suffixes()

        def wanted(name: str) -> bool:
            return os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122 - a Path for each of a million names

    files: list[Path] = []
    others: Counter[str] = Counter()
    unreadable: list[Path] = []
    skipped_folders = irregular = 0
    waiting = [folder]
    while waiting:
        below = waiting.pop()
        try:
            names, subfolders, rest = _list(below)
        except OSError as error:
            if below == folder:
                raise ImageError(f"{folder}: cannot list: {error.strerror}. Check its permissions.") from error
            unreadable.append(below)
            continue
        irregular += rest
        for name in names:
            if wanted(name):
                files.append(below / name)
            else:
                others[Path(name).suffix.lower()] += 1
        if not recursive:
            skipped_folders = len(subfolders)
            break
        # From the end, since the last one is taken first. A link to a folder may lead back here.
        waiting += [below / name for name in reversed(subfolders) if not (below / name).is_symlink()]
    return FolderListing(files, others, skipped_folders, unreadable, irregular)


def find(
    paths: Iterable[str | PathLike[str]],
    recursive: bool = False,
    on_skip: Callable[[Path, str], object] | None = None,
) -> list[Path]:
    """Return the image files that `paths` stand for: files as given, folders replaced by the images in them.

    Images in a folder are recognised by their suffix and come in natural order, 2.png before 10.png. Hidden files are
    skipped, and subfolders unless `recursive`.

    Args:
        paths: files and folders.
        recursive: whether to look into subfolders.
        on_skip: called with a folder and what in it was passed over, in words, where that is anything.

    Raises:
        ImageError: a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise ImageError(f"{path}: no such file or folder. Check the path.")
        if not path.is_dir():
            files.append(path)
            continue
        listing = list_folder(path, recursive)
        if not listing.files:
            instead = f", but {listing.skipped}" if listing.skipped else ""
            raise ImageError(f"{path}: there are no images in this folder{instead}. Name another one.")
        if listing.skipped and on_skip is not None:
            on_skip(path, listing.skipped)
        files += listing.files
    return files


def _list(folder: Path) -> tuple[list[str], list[str], int]:
    """Return the names of the files and of the subfolders of a folder, in natural order, and how many others there are.

    Hidden ones are left out.
    """
    names = []
    subfolders = []
    rest = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                is_folder = is_file = False
            if is_folder:
                subfolders.append(entry.name)
            elif is_file:
                names.append(entry.name)
            else:
                rest += 1
    return sorted(names, key=_natural_order), sorted(subfolders, key=_natural_order), rest


def _natural_order(name: str) -> tuple[list[str | int], str]:
    # Splitting at digits gives text and numbers in turn, so that equal places always compare alike. The name itself
    # comes last, so that no two files are equal and the order is the same on every system.
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def _count(number: int, what: str, several: str | None = None) -> str:
    return f"{number:,} {what if number == 1 else several or what + 's'}"
