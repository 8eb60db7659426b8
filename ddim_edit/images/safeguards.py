"""What keeps hostile and huge images from taking the machine's memory or the user's terminal."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BufferedReader

from PIL import Image, _imaging

JXL_HEAD = 4096
"""Bytes at the beginning of a JPEG XL file within which its size stands."""


class MemoryBudget:
    """Bytes that several threads share: whoever wants more than is left waits until others are done.

    Args:
        size: bytes in all. One that wants more than that gets it as soon as it is alone.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, bytes_wanted: int) -> Iterator[None]:
        """Wait until that many bytes are free, and keep them until the block ends."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + bytes_wanted <= self.size)
            self._taken += bytes_wanted
        try:
            yield
        finally:
            with self._changed:
                self._taken -= bytes_wanted
                self._changed.notify_all()


@cache
def return_freed_memory() -> None:
    """Have Pillow take its memory in pieces so large that the system gets them back as soon as they are free.

    Left to itself it takes 16 MB at a time, which glibc keeps for the thread: after two images of 0.7 GB in two threads
    the process would hold both.
    """
    _imaging.set_block_size(1 << 26)


@cache
def silence_libtiff() -> None:
    """Keep libtiff from writing to standard error, past Python, what it thinks of a file; its errors are raised too."""
    try:
        # The symbols of a library's own libraries are found through it.
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetWarningHandler", "TIFFSetErrorHandler"):
            function = getattr(library, name)
            function.argtypes = [ctypes.c_void_p]
            function.restype = ctypes.c_void_p
            function(None)
    except (AttributeError, OSError):  # a build without libtiff, or one that hides it
        return


def require_small_jxl(file: BufferedReader, limit: int) -> None:
    """Refuse a JPEG XL file that says it has more pixels than the limit, by its first bytes; others pass.

    Raises:
        DecompressionBombError: it has.

    References:
        ISO/IEC 18181-1, annex D.2 (SizeHeader), and 18181-2 (boxes).
    """
    head = file.peek(JXL_HEAD)[:JXL_HEAD]
    if head.startswith(b"\0\0\0\x0cJXL "):
        start = max(head.find(b"jxlc"), head.find(b"jxlp"))
        if start < 0:
            return
        start += 8 if head[start : start + 4] == b"jxlp" else 4  # a partial codestream is numbered
        head = head[start:]
    if not head.startswith(b"\xff\x0a"):
        return
    bits = _Bits(int.from_bytes(head[2:16], "little"))
    small = bits.take(1)
    height = _side(bits, small)
    ratio = bits.take(3)
    width = _side(bits, small) if not ratio else height * 2  # the widest of the fixed ratios is 2:1
    if width * height > limit:
        raise Image.DecompressionBombError


class _Bits:
    def __init__(self, number: int) -> None:
        self._number = number

    def take(self, count: int) -> int:
        value = self._number & ((1 << count) - 1)
        self._number >>= count
        return value


def _side(bits: _Bits, small: int) -> int:
    if small:
        return 8 * (bits.take(5) + 1)
    return bits.take((9, 13, 18, 30)[bits.take(2)]) + 1
