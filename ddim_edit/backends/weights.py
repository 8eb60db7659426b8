"""Weights into a network: every tensor in its place, or an error that says which is not."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ddim_edit.errors import ModelError

Net = TypeVar("Net", bound=nn.Module)


def fill(make: Callable[[], Net], weights: Mapping[str, Tensor], where: str) -> Net:
    """The network that `make` builds with these weights, on the CPU, in eval mode, asking for no gradients.

    It is float32 whatever the weights are. Buffers that no checkpoint holds must be made on the CPU explicitly.

    Args:
        make: called once, on the "meta" device.
        weights: every parameter and persistent buffer by name, and no other.
        where: the file, for the error.

    Raises:
        ModelError: tensors that are missing, unknown or of another shape.
    """
    with torch.device("meta"):  # draws no random weights: they cost time and move the global generator
        network = make()
    wanted = network.state_dict()
    _check_fit({name: tensor.shape for name, tensor in wanted.items()}, weights, where)
    # `to_empty` would do, but loads sympy, which takes half a second.
    network.load_state_dict({name: _laid_out(weights[name], like) for name, like in wanted.items()}, assign=True)
    return network.eval().requires_grad_(False)


def _laid_out(weight: Tensor, like: Tensor) -> Tensor:
    """A copy of a weight in the dtype and memory layout of the parameter that it is for."""
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(weight)


def _check_fit(wanted: Mapping[str, torch.Size], weights: Mapping[str, Tensor], where: str) -> None:
    misfits = [f"no {name}" for name in wanted if name not in weights]
    misfits += [f"an unknown {name}" for name in weights if name not in wanted]
    misfits += [
        f"{name} of shape {list(tensor.shape)}, not {list(wanted[name])}"
        for name, tensor in weights.items()
        if name in wanted and tensor.shape != wanted[name]
    ]
    if misfits:
        more = [f"{len(misfits) - 3} more misfits"] * (len(misfits) > 3)
        raise ModelError(
            f"in {where} the tensors that its config describes",
            ", ".join(misfits[:3] + more),
            "take both from one checkpoint",
        )
