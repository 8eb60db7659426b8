"""Refuse what is not a regular file before it is opened: a pipe or a device would be read without end."""

import stat
from pathlib import Path

from ddim_edit.errors import DDIMEditError


def require_regular(path: str | Path, error: type[DDIMEditError]) -> None:
    """Refuse a path that leads to anything but a regular file; one that leads nowhere passes, for the caller to open.

    Args:
        path: of a file that is about to be read, links followed.
        error: what to raise.

    Raises:
        error: a folder, a pipe, a device or a socket; the message names it.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # opening it says what is wrong with it
        return
    if stat.S_ISDIR(mode):
        raise error(f"{path}: this is a folder, not a file. Name a file in it.")
    if not stat.S_ISREG(mode):
        raise error(f"{path}: this is not a regular file. Save it to one first, or give it as standard input, -.")
