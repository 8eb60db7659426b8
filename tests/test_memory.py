from collections.abc import Sequence
from itertools import pairwise
from weakref import WeakSet

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.errors import ArgumentError
from ddim_edit.memory import AdaptiveBatcher, is_out_of_memory, register_cache, release_caches


@pytest.fixture(autouse=True)
def no_other_caches() -> None:
    """What other tests have left behind must not be released in these."""
    release_caches()


class Machine:
    """Work that runs out of memory above so many items at once."""

    def __init__(self, room: int, error: BaseException | None = None) -> None:
        self.room, self.error, self.done = room, error or torch.OutOfMemoryError("CUDA out of memory"), list[int]()
        self.tried = list[int]()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.tried.append(len(items))
        if len(items) > self.room:
            raise self.error
        self.done.append(len(items))
        return list(items)


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 20))
def test_every_item_is_processed_once_and_in_order(n: int, size: int, room: int) -> None:
    machine = Machine(room)
    found = [item for result in AdaptiveBatcher(size)(machine, iter(range(n))) for item in result]
    assert found == list(range(n))
    assert all(1 <= done <= min(size, room) for done in machine.done)


@given(st.integers(1, 40), st.integers(1, 20))
def test_batches_are_full_except_the_last(n: int, size: int) -> None:
    machine = Machine(size)
    list(AdaptiveBatcher(size)(machine, range(n)))
    assert machine.done == [size] * (n // size) + [n % size] * (n % size > 0)


def test_failed_size_is_not_retried_soon() -> None:
    batches, machine = AdaptiveBatcher(16), Machine(5)
    list(batches(machine, range(4 * AdaptiveBatcher.PATIENCE - 1)))
    assert machine.tried[:3] == [16, 8, 4]
    assert machine.done == machine.tried[2:]
    assert batches.size == 4


def test_batches_grow_again() -> None:
    batches, machine = AdaptiveBatcher(16), Machine(5)
    list(batches(machine, range(16)))
    machine.room = 16
    list(batches(machine, range(16 * 4 * AdaptiveBatcher.PATIENCE)))
    assert batches.size == 16
    assert machine.done[-1] == 16
    assert machine.tried[2:] == machine.done  # nothing failed any more
    assert max(machine.done) == 16


def test_patience_doubles_after_growing_too_early() -> None:
    machine, patience = Machine(5), AdaptiveBatcher.PATIENCE
    list(AdaptiveBatcher(8)(machine, range(4 * 8 * patience)))
    failures = [place for place, size in enumerate(machine.tried) if size > 5]
    between = [later - earlier - 1 for earlier, later in pairwise(failures)]
    assert between == [patience, 2 * patience, 4 * patience]


def test_earlier_successes_do_not_count() -> None:
    batches, machine, patience = AdaptiveBatcher(16), Machine(16), AdaptiveBatcher.PATIENCE
    list(batches(machine, range(16 * (patience - 1))))
    machine.room = 8
    list(batches(machine, range(8 * patience)))
    assert machine.tried == [16] * patience + [8] * patience


def test_partial_batches_do_not_count() -> None:
    batches, machine = AdaptiveBatcher(8), Machine(5)
    list(batches(machine, range(8)))
    machine.room = 8
    for _ in range(2 * AdaptiveBatcher.PATIENCE):
        list(batches(machine, range(3)))
    assert batches.size == 4


class Cache:
    """Takes room on a machine until it is released; work fills it again, if it is told to."""

    def __init__(self, machine: Machine, takes: int) -> None:
        self.machine, self.takes, self.held = machine, takes, 0
        register_cache(self)

    def fill(self) -> None:
        self.machine.room -= self.takes - self.held
        self.held = self.takes

    def release(self) -> bool:
        held, self.held = self.held, 0
        self.machine.room += held
        return held > 0


def test_caches_are_released_before_a_batch_is_halved() -> None:
    machine = Machine(20)
    cache = Cache(machine, 8)
    cache.fill()
    batches = AdaptiveBatcher(16)
    assert [len(result) for result in batches(machine, range(16))] == [16]
    assert machine.tried == [16, 16]
    assert batches.size == 16


def test_batch_that_fills_a_cache_is_halved() -> None:
    """Releasing it again and again would not end."""
    machine = Machine(20)
    cache = Cache(machine, 8)

    def work(items: Sequence[int]) -> list[int]:
        cache.fill()
        return machine(items)

    batches = AdaptiveBatcher(16)
    assert [len(result) for result in batches(work, range(16))] == [8, 8]
    assert machine.tried == [16, 16, 8, 8]


def test_single_image_is_retried_without_caches() -> None:
    machine = Machine(1)
    cache = Cache(machine, 1)
    cache.fill()
    assert list(AdaptiveBatcher(1)(machine, range(1))) == [[0]]
    cache.fill()
    machine.room = -1
    with pytest.raises(ArgumentError, match="not enough memory for one image"):
        list(AdaptiveBatcher(1)(machine, range(1)))


def test_collected_caches_are_forgotten() -> None:
    machine = Machine(9)
    cache = Cache(machine, 3)
    cache.fill()
    assert release_caches()
    assert not release_caches()
    cache.fill()
    del cache
    assert not release_caches()


def test_results_are_not_kept_alive() -> None:
    class Result:
        pass

    alive = WeakSet[Result]()

    def work(items: Sequence[int]) -> Result:
        assert not alive
        result = Result()
        alive.add(result)
        return result

    stream = AdaptiveBatcher(2)(work, range(6))
    for _ in range(3):
        next(stream)


def test_items_are_drawn_lazily() -> None:
    drawn = iter(range(100))
    stream = AdaptiveBatcher(8)(Machine(8), drawn)
    next(stream)
    assert next(drawn) == 8


def test_single_image_that_does_not_fit_is_a_plain_error() -> None:
    with pytest.raises(ArgumentError, match=r"not enough memory for one image\. Choose a smaller --size"):
        list(AdaptiveBatcher(8)(Machine(0), range(3)))


def test_batches_below_one_are_refused() -> None:
    with pytest.raises(ArgumentError, match="batch size must be at least 1"):
        AdaptiveBatcher(0)


def test_only_out_of_memory_errors_are_retried() -> None:
    machine = Machine(2, RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side"):
        list(AdaptiveBatcher(8)(machine, range(8)))


def test_messages_of_allocators_are_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**42, dtype=torch.float64)  # more than any address space here
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())


class AcceleratorError(RuntimeError):
    """As torch.AcceleratorError, which is later than torch 2.6."""


@pytest.mark.parametrize(
    "error",
    [
        AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 7.64 GiB, other allocations: 1.91 GiB)"),
        RuntimeError("Invalid buffer size: 42.00 GiB"),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    ],
    ids=str,
)
def test_out_of_memory_messages_are_recognised(error: RuntimeError) -> None:
    assert is_out_of_memory(error)
    batches = AdaptiveBatcher(8)
    list(batches(Machine(4, error), range(8)))
    assert batches.size == 4


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        ArgumentError("This message says out of memory."),
    ],
    ids=str,
)
def test_other_errors_are_not_out_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="this torch raises RuntimeErrors instead")
def test_accelerator_error_is_recognised() -> None:
    assert is_out_of_memory(torch.AcceleratorError("CUDA error: out of memory"))
