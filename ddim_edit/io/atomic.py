"""Files that appear whole or not at all."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and is removed when it fails.

    A file that stood at `path` before survives a failure. The temporary is a hidden file beside `path`, so
    that the final rename never crosses a file system. Missing parent folders are made first, and stay.

    Errors: OSError as the system raised it; the caller knows what kind of file it was writing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".ddim-edit-{secrets.token_hex(8)}{path.suffix}"
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
