"""Which operations of a network make tensors in the memory of the host, found without a device.

A network on "meta" computes nothing, and refuses to tell a value, as a CUDA graph would: so it can be captured if all
that it makes is on "meta" too.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HostTensors(TorchDispatchMode):
    """While open, notes the operations whose results are not on "meta"."""

    def __init__(self) -> None:
        super().__init__()
        self.made_by: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) and leaf.device.type != "meta" for leaf in tree_leaves(made)):
            self.made_by.append(str(func))
        return made


def on_meta(**values: Tensor) -> dict[str, Tensor]:
    return {name: torch.empty_like(value, device="meta") for name, value in values.items()}
