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
"""Seconds after which a folder without a lock belongs to nobody: its page takes the lock right after making it."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder that only this user can read, and remove it at the end; first those of dead pages go.

    A page that is killed cannot clear up after itself. The system releases its lock, whatever it died of, so the next
    page knows.
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
            if not folder.is_symlink() and _is_mine(folder) and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_mine(folder: Path) -> bool:
    # In a temporary folder that everybody shares, root could remove what others own.
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


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
