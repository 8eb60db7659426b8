"""Jobs share the model: the one with the fewest evaluations left runs, and says how far it is."""

from threading import Event, Thread

import pytest

from ddim_edit.ui.model_queue import ModelQueue

from ..waiting import HANG


def test_shares_are_reported_inside_a_job_only() -> None:
    queue, heard = ModelQueue(), []
    queue(5)
    with queue.job(4, heard.append):
        for _ in range(5):
            queue(1)
    queue(1)
    assert heard == [0.25, 0.5, 0.75, 1, 1]


def test_a_short_job_passes_a_long_one() -> None:
    queue, order, started, waiting = ModelQueue(), [], Event(), Event()

    def run_long() -> None:
        with queue.job(100, lambda share: None):
            queue(1)
            started.set()
            assert waiting.wait(HANG)
            for _ in range(99):
                queue(1)
            order.append("long")

    thread = Thread(target=run_long)
    thread.start()
    assert started.wait(HANG)
    # Its callback is called while it waits.
    with queue.job(2, lambda share: waiting.set()):
        queue(1)
        order.append("short")
    thread.join(HANG)
    assert order == ["short", "long"]


def test_a_job_that_is_stopped_while_it_waits_leaves_the_queue() -> None:
    queue, started, finish = ModelQueue(), Event(), Event()

    def run_first() -> None:
        with queue.job(1, lambda share: None):
            started.set()
            assert finish.wait(HANG)

    def stop(share: float) -> None:
        raise KeyError("stopped")

    thread = Thread(target=run_first)
    thread.start()
    assert started.wait(HANG)
    with pytest.raises(KeyError), queue.job(9, stop):
        pass
    finish.set()
    thread.join(HANG)
    with queue.job(1, lambda share: None):
        queue(1)
