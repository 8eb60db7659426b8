"""The pictures that paths mean, by names that stay the same when their folder is moved."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from ddim_edit.images import find


class Listing(NamedTuple):
    """A folder, and the names of pictures relative to it, each once, with slashes."""

    root: Path
    names: list[str]


def listing(
    paths: Sequence[str | Path], surviving: Callable[[object], AbstractContextManager[object]] = nullcontext
) -> Listing:
    """The pictures of files and folders, in order; a folder's subfolders are left alone.

    The root is the folder that all of them share, so that naming other folders beside the same ones names the same
    pictures otherwise.

    Args:
        paths: files and folders.
        surviving: a context for each path in which its errors may be swallowed.

    Errors: ImageError as `images.find`.
    """
    folders, files = [], list[str]()
    for path in paths:
        with surviving(path):
            whole = Path(os.path.abspath(path))  # noqa: PTH100 - pathlib would keep ".." or follow links
            files += map(str, find([whole]))
            folders.append(whole if whole.is_dir() else whole.parent)
    root = Path(os.path.commonpath(folders or [Path.cwd()]))
    start = len(root.parts[0]) if root == Path(root.anchor) else len(str(root)) + 1
    return Listing(root, list(dict.fromkeys(file[start:].replace(os.sep, "/") for file in files)))
