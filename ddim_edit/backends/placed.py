"""Where and how precisely a network runs: devices and dtypes by name."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError


class Precision(NamedTuple):
    """The dtype of weights and activations, and whether float32 convolutions may be rounded to tf32 on the way."""

    dtype: torch.dtype
    tf32: bool = False


PRECISIONS: Mapping[str, Precision] = {
    "float32": Precision(torch.float32),
    "tf32": Precision(torch.float32, tf32=True),
    "bfloat16": Precision(torch.bfloat16),
    "float16": Precision(torch.float16),
}
_SHORT = {"auto": "float32", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def dtype_name(name: str) -> str:
    """The full name of a dtype; "auto" is float32, the only one in which inversion is accurate on every machine.

    Raises:
        ArgumentError: an unknown name.
    """
    full = _SHORT.get(name, name)
    if full not in PRECISIONS:
        raise ArgumentError(f"a dtype out of {', '.join(PRECISIONS)}", name, "choose one of these")
    return full


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" is the first of cuda, mps and cpu that this machine has.

    Raises:
        ArgumentError: no such device here.
    """
    present = _present()
    if name not in ("auto", *present):
        raise ArgumentError(f"a device of this machine ({', '.join(present)})", name, "use --device auto")
    return torch.device(present[0] if name == "auto" else name)


def _present() -> list[str]:
    """The devices here, fastest first, then each card by its number."""
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [kind for kind, there in kinds.items() if there] + cards


def state_device(device: torch.device) -> torch.device:
    """Where the state of a walk lives: beside the network, but on the CPU for devices without float64."""
    return torch.device("cpu") if device.type == "mps" else device


@dataclass(frozen=True)
class Placed:
    """A network on its device in its precision, fed from and answering to anywhere; never tracks gradients.

    Args:
        network: called with x [B, C, H, W] and indices [B].
        device: where its weights are.
        precision: what they are.
    """

    network: nn.Module
    device: torch.device
    precision: Precision

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """The network's output, on the device of x."""
        with torch.inference_mode(), _convolutions(self.device, self.precision.tf32):
            output: Tensor = self.network(x.to(self.device, self.precision.dtype), index.to(self.device))
        return output.to(x.device)


def _convolutions(device: torch.device, tf32: bool) -> AbstractContextManager[None]:
    if device.type != "cuda":
        return nullcontext()
    # Left alone, cuDNN rounds float32 to tf32, which costs an inversion two digits, and may add up in any order.
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32)
    return flags
