"""Batches as large as memory allows: halved where they were too bold."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch

from ddim_edit.errors import ArgumentError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batches:
    """Does work batch by batch; one that does not fit in memory is done again in halves, and so are all after it.

    Args:
        size: how many items at once, at least 1; falls where memory runs out.

    Raises:
        ArgumentError: a size below 1; when called, not even one item fits.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ArgumentError("a batch size of at least 1", str(size), "8 is a good start")
        self.size = size

    def __call__(self, work: Callable[[Sequence[Item]], Result], items: Iterable[Item]) -> Iterator[Result]:
        """What `work` makes of one batch after another; items are drawn as they are needed."""
        source, batch = iter(items), list[Item]()
        while batch := batch + list(islice(source, max(self.size - len(batch), 0))):
            now = batch[: self.size]
            results = _tried(work, now)
            if not results:
                self._halve(len(now))
                continue
            batch = batch[len(now) :]
            yield from results

    def _halve(self, size: int) -> None:
        # Here, where the failed attempt and all that it held have gone.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.size = size // 2


def _tried(work: Callable[[Sequence[Item]], Result], batch: Sequence[Item]) -> list[Result]:
    """The result in a list, which stays empty where memory ran out."""
    try:
        return [work(batch)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            given = "less than that takes"
            raise ArgumentError("memory for one picture", given, "choose a smaller --size or another device") from error
    return []


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a device or in the machine."""
    # The CPU's allocator has no type of error of its own.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
