from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.errors import ArgumentError
from ddim_edit.models.memory import Batches, is_out_of_memory


class Machine:
    """Work that runs out of memory above so many items at once."""

    def __init__(self, room: int, error: BaseException | None = None) -> None:
        self.room, self.error, self.done = (
            room,
            error or torch.OutOfMemoryError("CUDA out of memory"),
            list[int](),
        )

    def __call__(self, items: Sequence[int]) -> list[int]:
        if len(items) > self.room:
            raise self.error
        self.done.append(len(items))
        return list(items)


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 20))
def test_every_item_is_done_once_and_in_order_however_often_memory_runs_out(n: int, size: int, room: int) -> None:
    machine = Machine(room)
    found = [item for result in Batches(size)(machine, iter(range(n))) for item in result]
    assert found == list(range(n))
    assert all(1 <= done <= min(size, room) for done in machine.done)


@given(st.integers(1, 40), st.integers(1, 20))
def test_batches_that_fit_are_full_but_for_the_last(n: int, size: int) -> None:
    machine = Machine(size)
    list(Batches(size)(machine, range(n)))
    assert machine.done == [size] * (n // size) + [n % size] * (n % size > 0)


def test_what_did_not_fit_is_not_tried_again() -> None:
    batches, machine = Batches(16), Machine(5)
    list(batches(machine, range(30)))
    assert batches.size == 4
    list(batches(machine, range(8)))
    assert machine.done[-2:] == [4, 4]


def test_items_are_drawn_as_they_are_needed() -> None:
    drawn = iter(range(100))
    stream = Batches(8)(Machine(8), drawn)
    next(stream)
    assert next(drawn) == 8


def test_one_picture_that_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(ArgumentError, match=r"^wanted memory for one picture, .*: choose a smaller --size"):
        list(Batches(8)(Machine(0), range(3)))


def test_batches_below_one_are_refused() -> None:
    with pytest.raises(ArgumentError, match="batch size of at least 1"):
        Batches(0)


def test_only_what_says_that_memory_ran_out_is_tried_again() -> None:
    machine = Machine(2, RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side"):
        list(Batches(8)(machine, range(8)))


def test_the_allocators_own_words_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**42, dtype=torch.float64)  # more than any address space here
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
