"""A bar of tqdm for calls of the Python API: how many evaluations of the network are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def evaluation_bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar, in a notebook that of notebooks, and yield a function that counts evaluations.

    Args:
        description: what is being done, before the bar.
        total: evaluations that are expected; None where that is not known. A tolerance may take more or fewer.
    """
    from tqdm.auto import tqdm

    with tqdm(desc=description, total=total, unit=" evaluations") as bar:

        def count(evaluations: int) -> None:
            if bar.total is not None:
                bar.total = max(bar.total, bar.n + evaluations)
            bar.update(evaluations)

        yield count
        if bar.total != bar.n:  # a call that took fewer is complete all the same
            bar.total = bar.n
            bar.refresh()
