import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from ddim_edit.io.prefetch import draw_ahead, prefetch_map

from ..waiting import HANG


def test_everything_comes_in_order_with_its_own_result() -> None:
    gate = threading.Event()

    def slow_first(item: int) -> int:
        if item == 0:
            assert gate.wait(HANG)
        else:
            gate.set()
        return item * item

    assert [(item, result()) for item, result in prefetch_map(slow_first, range(50), depth=8)] == [
        (item, item * item) for item in range(50)
    ]


def test_results_may_be_asked_for_once_all_have_been_handed_out() -> None:
    def slow(item: int) -> int:
        time.sleep(0.01)
        return item

    handed = list(prefetch_map(slow, range(20), depth=4, threads=1))
    assert [result() for _, result in handed] == list(range(20))


@pytest.mark.parametrize("depth", [0, 1, 7])
def test_no_more_is_drawn_than_may_lie_ready(depth: int) -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for item in range(100):
            drawn += 1
            yield item

    for handed, (_, result) in enumerate(prefetch_map(str, items(), depth), 1):
        assert result() == str(handed - 1)
        assert drawn <= handed + depth


def test_a_failure_belongs_to_its_item_alone() -> None:
    results = dict(prefetch_map(lambda item: 1 // item, [1, 0, 2], depth=3))
    assert results[1]() == 1
    assert results[2]() == 0
    with pytest.raises(ZeroDivisionError):
        results[0]()


def test_work_that_nobody_waits_for_is_not_begun() -> None:
    """A walk that ends early leaves no thread behind."""
    begun, before = [], threading.active_count()
    stream = prefetch_map(begun.append, range(1000), depth=5, threads=1)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(begun) <= 7
    assert threading.active_count() == before


def test_nothing_gives_nothing() -> None:
    assert list(prefetch_map(str, [], depth=4)) == []


@pytest.mark.skipif(sys.platform == "win32", reason="does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_threads_of_forked_processes_find_the_pool_of_torch() -> None:
    torch.ones(1_000_000).half()  # makes the pool that a child loses
    together = threading.Barrier(8)

    def compute(_: int) -> torch.Tensor:
        together.wait(HANG)
        return torch.ones(1_000_000).half()

    for _ in range(40):
        child = os.fork()
        if not child:
            status = 1
            try:
                for _, result in prefetch_map(compute, range(8), 8, threads=8):
                    result()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_items_are_handed_out_when_the_next_one_was_drawn() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for item in range(3):
            drawn.append(item)
            yield item

    assert [(item, len(drawn)) for item in draw_ahead(items())] == [(0, 2), (1, 3), (2, 3)]


def test_an_item_that_fails_takes_no_other_with_it() -> None:
    handed: list[float] = []
    with pytest.raises(ZeroDivisionError):
        handed.extend(draw_ahead(1 / item for item in (1, 2, 0)))
    assert handed == [1.0, 0.5]
