"""Digests of tensors, kept on disk by the path, size and time of the files that the tensors were read from.

Hashing the network of Stable Diffusion takes seconds, and its files hardly ever change. Small networks, such as the
packaged one, are hashed once by each process and leave no file behind. Nothing here is ever fatal: what cannot be read
or written is computed anew.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ddim_edit.io.atomic import atomic
from ddim_edit.models.announcements import announce

_VERSION = 1
_DIGEST = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_SMALLEST = 64 << 20
"""Bytes of files from which on their digest is kept on disk; less takes a quarter of a second."""
_SETTLED = 100_000_000
"""Nanoseconds after which a file has settled: one that changes again within a tick of its clock looks the same."""

_small: dict[str, str] = {}
"""Digests of small files, or of all without a home, that this process has hashed, by what `_describe` says of them."""


def cache_folder() -> Path | None:
    """Return where digests are kept: ddim-edit/digests in XDG_CACHE_HOME, or in ~/.cache; None without a home."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():  # as its specification has it
        try:
            root = Path.home() / ".cache"
        except RuntimeError:
            return None
    return root / "ddim-edit" / "digests"


def mark_used(path: Path) -> None:
    """Set the time of what is kept in a cache to now, by which what was not used for longest is told.

    The clock by which the system does so by itself stands still for some milliseconds, in which two would be alike.
    """
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def cached_digest(files: Iterable[Path], compute: Callable[[], str], part: str = "") -> str:
    """Return the digest of what some files hold, from the cache if none of them has changed since.

    Args:
        files: all files that it depends on; without any, nothing is cached.
        compute: returns the digest.
        part: which of the components in these files it is of; empty where they have one.
    """
    before = _describe(files)
    if not before:
        return compute()
    folder = cache_folder()
    if folder is None or sum(record[1] for record in before) < _SMALLEST:
        described = json.dumps([before, part])
        if described not in _small:
            digest = compute()
            if not _has_settled(before, files):
                return digest
            _small[described] = digest
        return _small[described]
    paths = json.dumps([_VERSION, *(record[0] for record in before), *([part] if part else [])])
    file = folder / f"{hashlib.sha256(paths.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, LookupError, RecursionError):
        kept = json.loads(file.read_bytes())
        digest = str(kept["digest"]) if isinstance(kept, dict) and kept.get("files") == before else ""
        if _DIGEST.fullmatch(digest):
            return digest
    announce("hashing the weights, which is done once")
    digest = compute()
    if _has_settled(before, files):
        with suppress(OSError, ValueError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic(file) as temporary:
                temporary.write_text(json.dumps({"files": before, "digest": digest}), encoding="utf-8")
    return digest


def _has_settled(before: list[list[Any]], files: Iterable[Path]) -> bool:
    """Return whether files are as they were described before, and cannot have changed unseen since."""
    newest = max(max(record[2:]) for record in before)
    return time.time_ns() - newest > _SETTLED and _describe(files) == before


def _describe(files: Iterable[Path]) -> list[list[Any]]:
    """Return path, size and times of each file; nothing where one of them cannot be looked at."""
    records: list[list[Any]] = []
    try:
        for file in sorted({Path(os.path.realpath(file)) for file in files}):
            status = file.stat()
            # The time of the last change of the file's record too: `touch -r` and `cp -p` set back only the other one.
            records.append([str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    except OSError:
        return []
    return records
