"""The private temporary folder of a page, and what pages that were killed left behind."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddim_edit.io.locks import FolderLock

PREFIX = "ddim-edit-ui-"
LOCK = "lock"
STARTING = 60.0
"""Seconds after which a folder without a lock is abandoned: its page takes the lock right after making it."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder that only this user can read, and remove it at the end; first those of dead pages go.

    A page that is killed cannot clear up after itself. The system releases its lock however it ended, which
    the next page notices.
    """
    remove_abandoned_folders(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        with FolderLock(folder / LOCK):
            yield folder


def remove_abandoned_folders(parent: Path) -> None:
    """Remove the folders of pages of this user that no longer run."""
    for folder in parent.glob(f"{PREFIX}*"):
        # A folder of somebody else, or one that a second page removes at the same time.
        with suppress(OSError):
            # In a temporary folder that everybody shares, root could remove what others own.
            is_mine = not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()
            if is_mine and not folder.is_symlink() and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    if not (folder / LOCK).exists():
        return time.time() - folder.stat().st_mtime > STARTING
    lock = FolderLock(folder / LOCK)
    lock.acquire()
    try:
        # Where nothing can be locked, nothing is known of the other page, and its folder stays.
        return lock.is_held
    finally:
        lock.release()
