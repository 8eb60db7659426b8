"""Layers that compute in another dtype than that of their weights, each of which is cast whenever it is used.

A network whose file has float16 so computes in float32, and a coarser copy of a network shares its weights, without a
second copy of all of them. Cast one at a time, they give the same results to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CastWeight(nn.Module):
    """A layer whose weight is no parameter but made at each use, of one that is kept in another dtype."""

    kept: Tensor
    """The weight as it is kept."""
    dtype: torch.dtype
    """What the layer computes in."""

    if not TYPE_CHECKING:  # where it would contradict the parameter of the layers

        @property
        def weight(self) -> Tensor:
            """The weight as the layer uses it."""
            return self.kept.to(self.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.__dict__["kept"] = fn(self.kept)  # which would become a parameter otherwise
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class CastLinear(CastWeight, nn.Linear):
    """A linear layer that casts its weight at each use."""


class CastConv2d(CastWeight, nn.Conv2d):
    """A convolution that casts its weight at each use."""


class CastEmbedding(CastWeight, nn.Embedding):
    """A table of which only the rows that are looked up are cast."""

    def forward(self, indices: Tensor) -> Tensor:
        """Return the rows of some indices."""
        return F.embedding(indices, self.kept, self.padding_idx).to(self.dtype)


_CAST: dict[type[nn.Module], type[CastWeight]] = {
    nn.Linear: CastLinear,
    nn.Conv2d: CastConv2d,
    nn.Embedding: CastEmbedding,
}


def cast_on_use(network: nn.Module, dtype: torch.dtype, *, fine: Collection[str] = (), shared: bool = False) -> None:
    """Have a network compute in a dtype with its weights kept in theirs, in place and for inference only.

    Plain linear layers, convolutions and embeddings cast their weights at each use; all other tensors are cast at once,
    and so are weights that would take more memory in their own dtype.

    Args:
        network: its weights are no parameters any more, nor in its `state_dict`.
        dtype: what it computes in.
        fine: names of parts that compute in float32 all the same.
        shared: whether all weights belong to another network and are kept, whatever they take.
    """
    replaced: dict[int, nn.Parameter] = {}
    originals = []  # alive, so that no two have one id
    for name, module in network.named_modules():
        kind = torch.float32 if any(part in fine for part in name.split(".")) else dtype
        cast = _CAST.get(type(module))
        weight = module._parameters.get("weight")
        if cast is not None and weight is not None and (shared or weight.dtype.itemsize < kind.itemsize):
            del module._parameters["weight"]
            module.__class__ = cast
            # Beside parameters and buffers, so that the dtype of the network is found to be that of the others. The
            # very object, so that copies and pickles of all that holds it share it too.
            module.__dict__.update(kept=weight, dtype=kind)
        for key, parameter in module._parameters.items():
            if parameter is not None and parameter.is_floating_point() and parameter.dtype != kind:
                # Never in place, as it may be another network's; by what it was, so that tied ones stay tied.
                made = replaced.setdefault(id(parameter), nn.Parameter(parameter.to(kind), requires_grad=False))
                module._parameters[key] = made
                originals.append(parameter)
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[key] = buffer.to(kind)


def kept_weights(network: nn.Module) -> list[Tensor]:
    """Return the weights that the layers of a network cast at each use."""
    return [module.kept for module in network.modules() if isinstance(module, CastWeight)]


def share_cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a network that computes in another dtype and shares its large weights.

    Args:
        network: its weights must not change any more.
        dtype: of the copy.
    """
    memo: dict[int, Any] = {}
    for module in network.modules():
        if type(module) in _CAST:
            weight = module._parameters["weight"]
            memo[id(weight)] = weight  # so that a deep copy of it is itself
    copy = deepcopy(network, memo)
    cast_on_use(copy, dtype, shared=True)
    return copy
