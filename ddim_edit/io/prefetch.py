"""Work that is done in threads before it is asked for, so that a device never waits for a file."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

THREADS = 4


def prefetch_map(
    work: Callable[[Item], Value], items: Iterable[Item], depth: int, threads: int = THREADS
) -> Iterator[tuple[Item, Callable[[], Value]]]:
    """Each item in order with a call that waits for what `work` made of it, or raises what it raised.

    Args:
        work: called in threads; for work that leaves Python's lock alone, such as reading and decoding files.
        items: drawn only as far as `depth`.
        depth: at most so many results are made and not yet handed out, so that memory stays bounded.
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
        except BaseException:  # whoever asked has gone, or the items have failed
            pool.shutdown(cancel_futures=True)
            raise
