"""A pretend GPU for machines without one: tensors of the CPU whose device is cuda:0, held to torch's device rules.

Inside `with pretend_gpu() as gpu:` every tensor that is made on "cuda", or moved there, is a `PretendTensor`. The CPU
computes what is asked of it, so results are the CPU's, but

- tensors of both devices in one operation raise torch's error, except scalars of the CPU in elementwise operations;
- so do an index on the GPU into a tensor of the CPU, and a generator of the CPU that is asked for numbers on the GPU;
- `gpu.launches` counts the operations that a GPU would be given: all but views and allocations;
- `gpu.waits` counts, by reason and line of code, what would make the host wait for a GPU: numbers read out of tensors,
  results whose shape depends on the data (such as a mask used as an index), events that are waited for, and copies
  between host and device, except those with `non_blocking=True`, to the device from pinned memory;
- a copy to the CPU that does not block holds garbage until an event that was recorded behind it is waited for.

It knows nothing of speed, memory, streams and graphs, and does not differentiate.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from ddim_edit import Model
from ddim_edit.diffusion.bottleneck import require_bottleneck
from ddim_edit.diffusion.denoisers import Network, NetworkDenoiser
from ddim_edit.models.conditioning import Conditioner
from ddim_edit.models.devices import DeviceNetwork

DEVICE = torch.device("cuda", 0)
_HERE, _TORCH = Path(__file__), Path(torch.__file__).parent

aten = torch.ops.aten
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
_TAKES_A_HOST_SCALAR = {aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}
"""Besides those tagged as elementwise."""
_LAUNCHES_NOTHING = {
    aten._local_scalar_dense.default,
    aten._unsafe_view.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
}
"""Besides views."""
_READ_BY_THE_HOST = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class PretendTensor(Tensor):
    """A tensor of the pretend GPU.

    Attributes:
        contents: the tensor of the CPU that holds its numbers.
    """

    contents: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, contents: Tensor) -> "PretendTensor":
        made: PretendTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            contents.size(),
            contents.stride(),
            contents.storage_offset(),
            dtype=contents.dtype,
            device=DEVICE,
        )
        made.contents = contents
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Refuse; inside of `pretend_gpu` its dispatcher comes first."""
        raise RuntimeError(f"{func} was given a tensor of the pretend GPU outside of `with pretend_gpu()`")

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return f"PretendTensor({self.contents})"

    def tolist(self) -> Any:
        """Return the numbers as lists; torch's own refuses subclasses."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refuse as torch does for tensors of a GPU."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")


class PretendGPU:
    """What has happened on the pretend GPU.

    Attributes:
        launches: operations it was given.
        waits: how often the host waited for it, by reason and place.
    """

    def __init__(self) -> None:
        self.launches = 0
        self.waits: Counter[str] = Counter()
        self._lock = Lock()
        self._pinned: dict[int, Tensor] = {}
        """Pinned tensors by their address, kept so that it is not given to others."""
        self._arriving: list[tuple[Tensor, Tensor]] = []
        """Copies that are under way to the CPU, and what they will hold."""

    def reset(self) -> None:
        """Count from 0 again."""
        self.launches = 0
        self.waits.clear()

    def launch(self) -> None:
        """Count an operation."""
        with self._lock:
            self.launches += 1

    def wait(self, reason: str) -> None:
        """Count a wait of the innermost caller outside of torch and of this file."""
        frames = ((Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_stack(None))
        file, line = next((file, line) for file, line in frames if file != _HERE and _TORCH not in file.parents)
        with self._lock:
            self.waits[f"{reason} at {file.parent.name}/{file.name}:{line}"] += 1

    def pin(self, x: Tensor) -> Tensor:
        """Return a copy of a tensor of the CPU in pinned memory, or the tensor itself if it is there."""
        if isinstance(x, PretendTensor):
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        if self.is_pinned(x):
            return x
        pinned = x.clone()
        self._pinned[pinned.untyped_storage().data_ptr()] = pinned
        return pinned

    def is_pinned(self, x: Tensor) -> bool:
        """Return whether a tensor is one, or a view of one, that `pin` made."""
        return not isinstance(x, PretendTensor) and x.untyped_storage().data_ptr() in self._pinned

    def send(self, x: Tensor) -> Tensor:
        """Return a tensor of the CPU that holds a copy of x once an event is waited for."""
        target = torch.empty_like(x)
        target.fill_(float("nan") if x.is_floating_point() else 1)
        self._arriving.append((target, x.clone()))
        return target

    def wait_for_event(self) -> None:
        """Let all copies arrive."""
        self.wait("an event")
        for target, contents in self._arriving:
            target.copy_(contents)
        self._arriving.clear()

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of the CPU, such as a network, with tensors of the GPU, as one launch that waits for nothing.

        Raises:
            RuntimeError: a tensor that is not on the GPU.
        """
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if not all(isinstance(each, PretendTensor) for each in tensors):
            raise _two_devices()
        self.launch()
        args, kwargs = tree_map_only(PretendTensor, lambda each: each.contents, (args, kwargs))
        with _disable_current_modes():
            results = function(*args, **kwargs)
        return tree_map_only(Tensor, PretendTensor, results)


@contextmanager
def pretend_gpu() -> Iterator[PretendGPU]:
    """Pretend that there is a GPU, in this thread and in those that start meanwhile; leave alone one that is there."""
    if not hasattr(torch._C, "_ensureCUDADeviceGuardSet"):
        pytest.skip(f"PyTorch {torch.__version__} cannot pretend that there is a GPU")
    gpu = PretendGPU()
    # Both do nothing where there is a GPU: torch looks for a device before it runs anything on it.
    torch._C._ensureCUDADeviceGuardSet()
    start = torch.cuda._lazy_init if torch.cuda.is_available() else _do_nothing
    run = Thread.run

    def run_with_gpu(thread: Thread) -> None:
        # Torch's modes are those of one thread.
        with _Factories(), _Dispatcher(gpu):
            run(thread)

    with (
        patch.object(torch.cuda, "_lazy_init", start),
        # Or modules that are moved would keep their parameters, which are no pretend tensors.
        patch.object(torch.__future__, "get_swap_module_params_on_conversion", lambda: True),
        patch.object(Thread, "run", run_with_gpu),
        patch.object(torch.cuda, "current_stream", lambda device=None: None),
        patch.object(torch.cuda, "Event", partial(_Event, gpu)),
        _Factories(),
        _Dispatcher(gpu),
    ):
        yield gpu


class _Event:
    """An event of the pretend GPU."""

    def __init__(self, gpu: PretendGPU) -> None:
        self._gpu = gpu

    def record(self, stream: object) -> None:
        """Do nothing: whatever is under way arrives with any event."""

    def synchronize(self) -> None:
        """Wait for the GPU."""
        with _disable_current_modes():
            self._gpu.wait_for_event()


class _Factories(TorchFunctionMode):
    """Makes tensors of Python numbers on the CPU first, as torch does, but where the dispatcher sees it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _is_gpu(kwargs.get("device")):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class _Dispatcher(TorchDispatchMode):
    """Runs operations on what pretend tensors contain, checks them and counts them."""

    def __init__(self, gpu: PretendGPU) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (aten.pin_memory.default, aten._pin_memory.default):
            return self._gpu.pin(args[0])
        if func is aten.is_pinned.default:
            return self._gpu.is_pinned(args[0])
        on_gpu = any(isinstance(each, PretendTensor) for each in _leaves(args, kwargs))
        if not on_gpu and not _is_gpu(kwargs.get("device")):
            return func(*args, **kwargs)
        # In inference mode operations that are made of others come here whole.
        with self:
            decomposed = func.decompose(*args, **kwargs)
        if decomposed is not NotImplemented:
            return decomposed
        if func in (aten._to_copy.default, aten.copy_.default):
            self._count_copy(func, args, kwargs)
            if (
                func is aten._to_copy.default
                and kwargs.get("non_blocking")
                and not _is_gpu(kwargs.get("device", DEVICE))
            ):
                return self._gpu.send(_run(func, args, kwargs))
        elif func in _INDEXING:
            _check_indexing(*args[:3])
            self._count_indexing(*args[:3])
        else:
            _check_devices(func, args, kwargs)
            self._count(func)
        return _run(func, args, kwargs)

    def _count(self, func: OpOverload) -> None:
        if _READ_BY_THE_HOST & set(func.tags) or func is aten._linalg_check_errors.default:
            self._gpu.wait(str(func))
        if not func.is_view and func not in _LAUNCHES_NOTHING:
            self._gpu.launch()

    def _count_copy(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Count a copy, which alone may lead from one device to the other."""
        self._gpu.launch()
        if func is aten.copy_.default:
            target, source = args[:2]
            to_gpu, non_blocking = isinstance(target, PretendTensor), len(args) > 2 and args[2]
        else:
            (source,) = args
            device = kwargs.get("device")
            to_gpu = isinstance(source, PretendTensor) if device is None else _is_gpu(device)
            non_blocking = kwargs.get("non_blocking", False)
        if isinstance(source, PretendTensor) and not to_gpu:
            if not non_blocking:
                self._gpu.wait("a copy to the CPU")
        elif not isinstance(source, PretendTensor) and not (non_blocking and self._gpu.is_pinned(source)):
            # From memory that is not pinned the driver copies first, and may wait before.
            self._gpu.wait("a blocking copy to the GPU")

    def _count_indexing(self, x: Tensor, indices: Sequence[Tensor | None], values: Tensor | None = None) -> None:
        self._gpu.launch()
        given = [index for index in indices if index is not None]
        masks = [index for index in given if index.dtype in (torch.bool, torch.uint8)]
        filled = values is not None and values.numel() == 1 and not isinstance(values, PretendTensor)
        if not all(isinstance(index, PretendTensor) for index in given):
            self._gpu.wait("an index copied from the CPU")
        # To set what a mask selects to one number, torch fills.
        if masks and not (filled and len(given) == 1):
            self._gpu.wait("a mask used as an index")


def _check_indexing(x: Tensor, indices: Sequence[Tensor | None], values: Tensor | None = None) -> None:
    if not isinstance(x, PretendTensor) and any(isinstance(index, PretendTensor) for index in indices):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    alike = isinstance(x, PretendTensor) == isinstance(values, PretendTensor)
    if values is not None and values.ndim and not alike:
        raise _two_devices()


def _check_devices(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    scalars = torch.Tag.pointwise in func.tags or func in _TAKES_A_HOST_SCALAR
    for each in _leaves(args, kwargs):
        if isinstance(each, Tensor) and not isinstance(each, PretendTensor) and not (scalars and each.ndim == 0):
            raise _two_devices()
        if isinstance(each, torch.Generator) and each.device.type == "cpu":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


def _run(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Compute an operation on the CPU, and put its results where they belong."""
    # What an operation writes to it also returns, and that has to stay the tensor that it was.
    known = {id(_on_host(each)): each for each in _leaves(args, kwargs) if isinstance(each, Tensor)}
    device = kwargs.get("device")
    to_host = device is not None and not _is_gpu(device)

    def placed(each: Any) -> Any:
        if not isinstance(each, Tensor) or to_host:
            return each
        return known[id(each)] if id(each) in known else PretendTensor(each)

    hosted = {name: _map(_on_host, value) for name, value in kwargs.items()}
    return _map(placed, func(*(_map(_on_host, value) for value in args), **hosted))


def _on_host(each: Any) -> Any:
    if isinstance(each, PretendTensor):
        return each.contents
    return torch.device("cpu") if isinstance(each, torch.device) else each


def _leaves(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the arguments of an operation, and what is in those that are lists."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to an argument or result of an operation, or to what is in it if it is a list."""
    return type(value)(map(function, value)) if isinstance(value, list | tuple) else function(value)


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _two_devices() -> RuntimeError:
    return RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
    )


def _do_nothing() -> None:
    """Stand in for CUDA's start."""


def model_on(gpu: PretendGPU, model: Model) -> Model:
    """Return a loaded model as if its network were on the pretend GPU, where each of its evaluations is one launch."""

    def moved(network: Network) -> DeviceNetwork:
        assert isinstance(network, DeviceNetwork)
        conditioning = {name: value.to(DEVICE) for name, value in network.conditioning.items()}
        return replace(
            network, network=_NetworkOnGPU(gpu, network.network), device=DEVICE, conditioning=conditioning, run=None
        )

    denoiser, conditioner = model.denoiser, model.conditioner
    if isinstance(conditioner, Conditioner):
        inner = replace(conditioner.denoiser, network=moved(conditioner.denoiser.network))
        conditioner = replace(conditioner, denoiser=inner, network=moved(conditioner.network))
        denoiser = conditioner.unconditional()
    else:
        assert isinstance(denoiser, NetworkDenoiser)
        denoiser = replace(denoiser, network=moved(denoiser.network))
    return replace(model, denoiser=denoiser, conditioner=conditioner, device=DEVICE, state_device=DEVICE)


class _NetworkOnGPU:
    """A network of the CPU with a bottleneck, called with tensors of the pretend GPU."""

    def __init__(self, gpu: PretendGPU, network: Callable[..., Tensor]) -> None:
        self._gpu, self._network = gpu, network

    def __call__(self, x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
        output: Tensor = self._gpu.run(self._network, x, index, **given)
        return output

    def read(self, x: Tensor, index: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        output, h = self._gpu.run(require_bottleneck(self._network).read, x, index, **given)
        return output, h

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        own, shifted = self._gpu.run(require_bottleneck(self._network).shifted, x, index, shift, **given)
        return own, shifted
