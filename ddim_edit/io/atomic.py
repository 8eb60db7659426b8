"""Write files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends well, and is removed when it fails.

    A file that stood at `path` before survives a failure, of the block or of the power. Missing parent folders are made
    first, and stay.

    Args:
        path: the file to write.

    Raises:
        OSError: as the system raises it; the caller knows what kind of file it was writing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the file, so that the final rename never crosses a file system, where it would copy.
    temporary = path.parent / f".ddim-edit-{secrets.token_hex(8)}{path.suffix}"
    try:
        yield temporary
        # Without this, file systems may rename first and write later: after a crash the file would be there, and empty.
        _synchronise(temporary)
        temporary.replace(path)
        with suppress(OSError):  # not every system opens folders, and the file itself is safe already
            _synchronise(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
