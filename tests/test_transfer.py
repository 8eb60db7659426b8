"""Copies to a device that the host need not wait for."""

import torch

from ddim_edit.transfer import to_device

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
