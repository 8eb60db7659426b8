"""Batches as large as memory allows: halved where memory runs out, doubled again once it suffices."""

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
    """Something that holds memory only to be faster, and can do without."""

    def release(self) -> bool:
        """Drop what is held, and return whether there was anything."""
        ...


_lock = threading.Lock()
_caches: WeakSet[Cache] = WeakSet()


def register_cache(cache: Cache) -> None:
    """Release a cache whenever memory runs out, for as long as it lives."""
    with _lock:
        _caches.add(cache)


def release_caches() -> bool:
    """Release all registered caches, and return whether any of them held anything."""
    with _lock:
        caches = list(_caches)
    released = [cache.release() for cache in caches]
    return any(released)


class AdaptiveBatcher:
    """Applies a function to items in batches of a size that memory allows.

    Where memory runs out, caches are released and the batch is tried once more. Where that does not help, it is halved,
    and so are all after it. After `PATIENCE` full batches that fit, the size is doubled again, up to the first one.
    Each time that a doubled size does not fit, twice as many batches must fit before the next attempt.

    Args:
        size: largest number of items at once, at least 1.

    Raises:
        ArgumentError: a size below 1; when called, not even one item fits.
    """

    PATIENCE = 8
    """Full batches that must fit before a larger one is tried."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ArgumentError(f"The batch size must be at least 1, not {size}. 8 is a good start.")
        self.size = size
        self._limit = size
        self._patience = self.PATIENCE
        self._fitted = 0
        """Full batches that fitted since the size last changed."""
        self._just_grown = False

    def __call__(self, function: Callable[[Sequence[Item]], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of one batch after another; items are drawn as they are needed."""
        source = iter(items)
        waiting: list[Item] = []
        retried = False
        while True:
            waiting += islice(source, max(self.size - len(waiting), 0))
            if not waiting:
                return
            batch = waiting[: self.size]
            results: list[Result] = []
            try:
                results.append(function(batch))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                retried = release_caches() and not retried
                if len(batch) == 1 and not retried:
                    raise ArgumentError(
                        "There is not enough memory for one image. Choose a smaller --size or another device."
                    ) from error
            # Outside the handler, where the error and the tensors that its traceback held are gone.
            if results:
                waiting = waiting[len(batch) :]
                retried = False
                self._grow_after(len(batch))
                yield from results
            else:
                _empty_allocators()
                if not retried:
                    self._halve(len(batch))

    def _grow_after(self, size: int) -> None:
        """Count a batch that fitted, and double the size after enough full ones."""
        if size < self.size:
            return
        self._fitted += 1
        self._just_grown = False
        if self._fitted >= self._patience and self.size < self._limit:
            self.size = min(2 * self.size, self._limit)
            self._fitted = 0
            self._just_grown = True

    def _halve(self, size: int) -> None:
        if self._just_grown:
            self._patience *= 2
        self.size = size // 2
        self._fitted = 0
        self._just_grown = False


def _empty_allocators() -> None:
    """Return to the device what allocators keep for later."""
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
