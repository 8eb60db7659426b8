"""Do work in threads before it is needed, so that a device never waits for a file."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

THREADS = 4


def _renew_pool_of_torch() -> None:
    """Replace PyTorch's own thread pool, which a forked process has lost, while there is one thread only.

    It would be replaced by the first operation that asks for it. Where several threads ask at once, one of them may
    find none: "Invalid thread pool!", in 1 to 3 of 40 children whose eight threads began together.
    """
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(torch.get_num_threads())


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_renew_pool_of_torch)


def prefetch_map(
    work: Callable[[Item], Value], items: Iterable[Item], depth: int, threads: int = THREADS
) -> Iterator[tuple[Item, Callable[[], Value]]]:
    """Yield each item in order, with a function that waits for `work(item)` and returns or raises what it did.

    The function comes in place of the value so that the caller can handle the failure of one item and go on.

    Args:
        work: called in threads; for work that releases Python's lock, such as reading and decoding files.
        items: drawn only as far as `depth`.
        depth: largest number of results that are computed and not yet handed out, which bounds the memory.
        threads: how many work at once.
    """
    waiting = deque[tuple[Item, Callable[[], Value]]]()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item).result))
                if len(waiting) > depth:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        except BaseException:  # the caller stopped iterating, or the items failed: nobody waits for the rest
            pool.shutdown(cancel_futures=True)
            raise


def draw_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items in order, each when the next one has been drawn; what was drawn before an error comes before it."""
    source = iter(items)
    waiting = deque[Item]()
    while True:
        try:
            waiting.append(next(source))
        except StopIteration:
            yield from waiting
            return
        except Exception:
            yield from waiting
            raise
        if len(waiting) > 1:
            yield waiting.popleft()
