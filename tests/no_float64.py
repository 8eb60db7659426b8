"""A pretended device without float64, as Apple's MPS is one: its tensors are the CPU's, and marked."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("mps")


class Marked(Tensor):
    """A tensor on the pretended device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __deepcopy__(self, memo: dict[int, Any]) -> "Marked":
        return self.detach().clone().as_subclass(Marked)


class WithoutFloat64(TorchFunctionMode):
    """While inside, there is the device, and what follows from tensors on it may not be float64.

    Parameters count as being on it. Holds in one thread, and in those of `Threads`.
    """

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        there = any(isinstance(each, Marked | nn.Parameter) for each in tensors)
        if function == Tensor.device.__get__:  # type: ignore[attr-defined]
            return DEVICE if there else function(*args)
        if function is Tensor.cpu:
            return args[0].as_subclass(Tensor).detach() if there else args[0]
        asked = [each for each in (*args, kwargs.get("device")) if isinstance(each, str | torch.device)]
        if asked and (function is Tensor.to or "device" in kwargs):
            there = torch.device(asked[0]).type == DEVICE.type
            args, kwargs = tree_map(_here, (args, kwargs))
        out = function(*args, **kwargs)
        return tree_map(lambda x: _marked(x) if there else _plain(x), out)


class Threads(ThreadPoolExecutor):
    """Threads in which there is the device too."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def work_there() -> Any:
            with WithoutFloat64():
                return work(*args, **kwargs)

        return super().submit(work_there)


def _here(x: Any) -> Any:
    return torch.device("cpu") if isinstance(x, str | torch.device) else x


def _marked(x: Any) -> Any:
    if not isinstance(x, Tensor) or isinstance(x, Marked | nn.Parameter):
        return x
    if x.dtype in (torch.float64, torch.complex128):
        raise RuntimeError(f"Cannot convert a MPS Tensor to {x.dtype}, which the MPS framework does not support")
    return x.as_subclass(Marked)


def _plain(x: Any) -> Any:
    return x.as_subclass(Tensor) if isinstance(x, Marked) else x
