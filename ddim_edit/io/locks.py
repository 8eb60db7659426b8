"""Lock folders against other processes that write to them; a lock ends with the process that holds it."""

import os
import sys
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl


class FolderLock:
    """A lock on a folder, which leaves no file in it.

    File systems that cannot lock folders, such as some network ones, are taken to be free.

    Args:
        folder: the folder, made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor: int | None = None

    def acquire(self, wait: bool = False) -> bool:
        """Take the lock and return whether that succeeded; with `wait`, as soon as it is free."""
        if sys.platform == "win32":  # where nothing is locked
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            return True
        self._descriptor = descriptor
        return True

    @property
    def is_held(self) -> bool:
        """Whether this lock is really held, and not only taken to be free."""
        return self._descriptor is not None

    def release(self) -> None:
        """Give the lock back; it may be given back already."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "FolderLock":
        self.acquire(wait=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
