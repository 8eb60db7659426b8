"""Copies to a device that the host need not wait for."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_edit.transfer import begin_copy_to_cpu, to_device

from .pretend_gpu import DEVICE, PretendTensor, pretend_gpu

X = torch.arange(6.0).view(2, 3)


def test_copy_to_gpu_is_asynchronous() -> None:
    with pretend_gpu() as gpu:
        copied = to_device(X, DEVICE)
        assert isinstance(copied, PretendTensor)
        assert not gpu.waits
        assert torch.equal(copied.cpu(), X)


def test_tensor_on_the_device_is_returned() -> None:
    assert to_device(X, torch.device("cpu")) is X
    with pretend_gpu() as gpu:
        x = to_device(X, DEVICE)
        gpu.reset()
        assert to_device(x, DEVICE) is x
        assert (gpu.launches, gpu.waits) == (0, {})


def test_copy_to_cpu_is_synchronous() -> None:
    with pretend_gpu() as gpu:
        x = to_device(X, DEVICE)
        assert torch.equal(to_device(x, torch.device("cpu")), X)
        assert sum(gpu.waits.values()) == 1


@dataclass(frozen=True)
class Inner:
    x: Tensor


class Pair(NamedTuple):
    x: Tensor
    rest: tuple[Tensor, None, Inner]


def test_a_copy_to_the_cpu_that_was_begun_is_waited_for_where_it_is_needed() -> None:
    with pretend_gpu() as gpu:
        x = to_device(X, DEVICE)
        finish = begin_copy_to_cpu(Pair(x, (X, None, Inner(x))))
        assert not gpu.waits
        x += 1  # queued behind the copy
        copied = finish()
        assert sum(gpu.waits.values()) == 1
    assert isinstance(copied, Pair)
    assert torch.equal(copied.x, X)
    assert torch.equal(copied.rest[0], X)
    assert torch.equal(copied.rest[2].x, X)
