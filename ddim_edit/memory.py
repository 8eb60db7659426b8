"""Batches as large as memory allows: halved where memory runs out, larger again once it suffices."""

import gc
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar
from weakref import WeakSet

import torch

from ddim_edit.errors import ArgumentError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Cache(Protocol):
    """Holds memory only to be faster, and can do without."""

    def release(self) -> bool:
        """Drop what is held, and return whether there was anything."""
        ...


_lock = threading.Lock()
_caches: WeakSet[Cache] = WeakSet()


def register_cache(cache: Cache) -> None:
    """Have a cache released whenever memory runs out, for as long as it lives."""
    with _lock:
        _caches.add(cache)


def release_caches() -> bool:
    """Release all registered caches, and return whether any of them held anything."""
    with _lock:
        caches = list(_caches)
    released = [cache.release() for cache in caches]
    return any(released)


class Batches:
    """Does work batch by batch, in batches of a size that memory allows.

    Where memory runs out, caches are released and the batch is done once more. Where that does not help, it is done in
    halves, and so are all after it. After `PATIENCE` full batches that fit, the size is doubled again, up to the first
    one; each time that a doubled size does not fit, twice as many are waited for before the next attempt.

    Args:
        size: how many items at once, at least 1.

    Raises:
        ArgumentError: a size below 1; when called, not even one item fits.
    """

    PATIENCE = 8
    """Full batches that must fit before a larger one is tried."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ArgumentError("a batch size of at least 1", str(size), "8 is a good start")
        self.size = self._limit = size
        self._patience, self._fitted, self._grown = self.PATIENCE, 0, False

    def __call__(self, work: Callable[[Sequence[Item]], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield what `work` makes of one batch after another; items are drawn as they are needed."""
        source, batch, retried = iter(items), list[Item](), False
        while batch := batch + list(islice(source, max(self.size - len(batch), 0))):
            now, results = batch[: self.size], list[Result]()
            try:
                results.append(work(now))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                retried = release_caches() and not retried
                if len(now) == 1 and not retried:
                    wanted, remedy = "memory for one picture", "choose a smaller --size or another device"
                    raise ArgumentError(wanted, "less than that takes", remedy) from error
            if results:
                batch, retried = batch[len(now) :], False
                self._fit(len(now))
                yield from results
            else:
                # Here, where the failed attempt and all that it held have gone.
                _return_memory()
                if not retried:
                    self._halve(len(now))

    def _fit(self, size: int) -> None:
        if size < self.size:
            return
        self._fitted, self._grown = self._fitted + 1, False
        if self._fitted >= self._patience and self.size < self._limit:
            self.size, self._fitted, self._grown = min(2 * self.size, self._limit), 0, True

    def _halve(self, size: int) -> None:
        if self._grown:
            self._patience *= 2
        self.size, self._fitted, self._grown = size // 2, 0, False


def _return_memory() -> None:
    """Give back to the device what allocators keep for later."""
    if torch.cuda.is_available():
        gc.collect()  # a failed attempt may have left cycles of frames and errors behind
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        gc.collect()
        torch.mps.empty_cache()


_OUT_OF_MEMORY = re.compile(
    r"out of memory"  # CUDA, HIP and MPS, in torch.AcceleratorError or in a plain RuntimeError
    r"|\b(CUBLAS|CUDNN|CUFFT|CUSOLVER|CUSPARSE)\w*_ALLOC\w*_FAILED\b"
    r"|DefaultCPUAllocator"
    r"|Invalid buffer size",  # MPS, of one tensor that no buffer can hold
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a device or in the machine."""
    # Only the caching allocator of CUDA has a type of error of its own.
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
