"""Where and how precisely a network runs: devices and dtypes by name, and the network on its device."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddim_edit.diffusion.bottleneck import Bottleneck, require_bottleneck
from ddim_edit.errors import ArgumentError
from ddim_edit.models.executors import Call
from ddim_edit.precision import float32_precision


class Precision(NamedTuple):
    """The dtype of weights and activations, and whether CUDA may round the factors of float32 products to tf32.

    Where `low` is given, it is the dtype of a second network, which runs at s < 1, where the noise is below the image.
    """

    dtype: torch.dtype
    tf32: bool = False
    low: torch.dtype | None = None


PRECISIONS: Mapping[str, Precision] = {
    "float32": Precision(torch.float32),
    "tf32": Precision(torch.float32, tf32=True),
    "bfloat16": Precision(torch.bfloat16),
    "float16": Precision(torch.float16),
    "mixed": Precision(torch.float32, low=torch.bfloat16),
}
_ALIASES = {"auto": "float32", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def dtype_name(name: str) -> str:
    """Return the full name of a dtype; "auto" is float32, in which everything works on every machine, `exact` too.

    Raises:
        ArgumentError: an unknown name.
    """
    full = _ALIASES.get(name, name)
    if full not in PRECISIONS:
        raise ArgumentError(f"dtype must be one of {', '.join(PRECISIONS)}, not {name}.")
    return full


def find_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is the first of cuda, mps and cpu that this machine has.

    Raises:
        ArgumentError: this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kinds = [kind for kind, there in available.items() if there]
    names = kinds + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if name not in ("auto", *names):
        raise ArgumentError(f"This machine has no device {name}, only {', '.join(names)}. Use --device auto.")
    return torch.device(kinds[0] if name == "auto" else name)


def is_native(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a device multiplies numbers of a dtype itself; what it emulates is slower than float32.

    On CPUs that is bfloat16 where the processor has instructions for it; float16 was never faster where we measured.
    """
    if dtype == torch.float32 or device.type == "mps":
        return True
    if device.type == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    # Private functions of torch, which older versions lack.
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        supported = getattr(torch.cpu, name, None)
        if supported is not None and supported():
            return dtype == torch.bfloat16
    return False


def suited_dtype(device: str) -> str:
    """Return the fastest dtype on a device that costs a round trip hardly anything.

    That is "tf32" on CUDA, where float32 takes four times as long, "mixed" on CPUs that multiply bfloat16, and float32
    elsewhere (docs/performance.md). It may not suit exact inversions.

    Raises:
        ArgumentError: this machine has no such device.
    """
    found = find_device(device)
    if found.type == "cuda":
        return "tf32"
    return "mixed" if found.type == "cpu" and is_native(found, torch.bfloat16) else "float32"


_MEMORY_FORMATS: Mapping[str, torch.memory_format] = {
    "cpu": torch.channels_last,  # measured: oneDNN convolves these faster, and `cpu_layers` needs them
    "cuda": torch.channels_last,  # tensor cores want these, and fused norms take them as they are
    "mps": torch.channels_last,  # not measured
}


def suited_memory_format(device: torch.device) -> torch.memory_format:
    """Return how the feature maps of a network lie in memory on a device where nothing else is asked for."""
    return _MEMORY_FORMATS[device.type]


def diffusers_memory_format(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """Return how the feature maps of a network of diffusers lie in memory where nothing else is asked for."""
    # Measured on the UNet of Stable Diffusion: in half precision either is as fast on a CPU, and weights that are laid
    # out as in their file need not be copied.
    if device.type == "cpu" and dtype.itemsize < torch.float32.itemsize:
        return torch.contiguous_format
    return suited_memory_format(device)


def state_device(device: torch.device) -> torch.device:
    """Return where the state of an integration is: beside the network, but on the CPU for devices without float64."""
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def evaluation_mode(*modules: object) -> Iterator[None]:
    """Have modules in eval mode inside the block, and afterwards each of their parts in the mode that it was in.

    Args:
        *modules: what is no module is left alone.
    """
    parts = [part for module in modules if isinstance(module, nn.Module) for part in module.modules()]
    training = [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@dataclass(frozen=True)
class DeviceNetwork:
    """A network on its device in its precision, called with tensors of any device; never tracks gradients.

    Args:
        network: called with x [B, C, H, W], time conditions [B] and its conditioning; a `Bottleneck`, if that is to be
            read or shifted. Of its output the first C channels count: the others are learned variances.
        device: where its weights are.
        precision: what they are.
        conditioning: further inputs [n, ...] by keyword; each row is for an equal share of the batch, in order.
        run: a faster way to the network's output, if there is one; where it is a `Bottleneck`, to that as well.
        shared: whether the network belongs to somebody else, as to a pipeline in memory. It is left as it was found.
    """

    network: Call
    device: torch.device
    precision: Precision
    conditioning: Mapping[str, Tensor] = field(default_factory=dict)
    run: Call | None = None
    shared: bool = False

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the network's output, on the device of x."""
        run = self.run or self.network
        with self._running():
            output = run(*self._inputs(x, index), **self._conditioning(len(x)))
        return _without_variances(output, x)

    def with_conditioning(self, conditioning: Mapping[str, Tensor]) -> "DeviceNetwork":
        """Return the same network with other conditioning."""
        cast = {}
        for name, value in conditioning.items():
            value = value.to(self.device)
            # Labels stay integers.
            cast[name] = value.to(self.precision.dtype) if value.is_floating_point() else value
        return replace(self, conditioning=cast)

    def read(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's output, and its bottleneck in float32, on the device of x.

        Raises:
            ModelError: a network without a bottleneck.
        """
        bottleneck = self._bottleneck()
        with self._running():
            output, h = bottleneck.read(*self._inputs(x, index), **self._conditioning(len(x)))
        # Unlike the output, h is kept: copied outside of inference mode it is an ordinary tensor, which may track
        # gradients.
        return _without_variances(output, x), h.to(x.device, torch.float32, copy=True)

    def differentiable_bottleneck(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the bottleneck alone, with gradients where the caller tracks them, on the device of the network."""
        network: Any = self.network
        h: Tensor = network.bottleneck(*self._inputs(x, index), **self._conditioning(len(x)))
        return h

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's output, and the one with the shift added to its bottleneck, on the device of x.

        Raises:
            ModelError: a network without a bottleneck.
            ArgumentError: a shift of another shape than the bottleneck's.
        """
        bottleneck = self._bottleneck()
        with self._running():
            shift = shift.to(self.device, self.precision.dtype)
            own, shifted = bottleneck.shifted(*self._inputs(x, index), shift, **self._conditioning(len(x)))
        return _without_variances(own, x), _without_variances(shifted, x)

    def _bottleneck(self) -> Bottleneck:
        network = require_bottleneck(self.network)
        return self.run if isinstance(self.run, Bottleneck) else network

    def _inputs(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return x.to(self.device, self.precision.dtype), index.to(self.device)

    def _conditioning(self, batch: int) -> dict[str, Tensor]:
        return {name: value.repeat_interleave(batch // len(value), 0) for name, value in self.conditioning.items()}

    @contextmanager
    def _running(self) -> Iterator[None]:
        if not self.shared:
            with torch.inference_mode(), float32_precision(self.precision.tf32):
                yield
            return
        # What a module caches in inference mode could not be trained with later, so others' networks run without it.
        with torch.no_grad(), evaluation_mode(self.network), float32_precision(self.precision.tf32):
            yield


def _without_variances(output: Tensor, x: Tensor) -> Tensor:
    return output[:, : x.shape[1]].to(x.device)
