"""Weights into a network: every tensor in its place, or an error that says which is not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn

from ddim_edit.errors import ModelError
from ddim_edit.models.entries import MOST

Net = TypeVar("Net", bound=nn.Module)
_FEW = 100
"""So many layers cost nothing, whatever the weights are."""


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
    _check_fit(wanted, weights, where)
    # `to_empty` would do, but loads sympy, which takes half a second.
    network.load_state_dict({name: _laid_out(weights[name], like) for name, like in wanted.items()}, assign=True)
    return network.eval().requires_grad_(False)


def _laid_out(weight: Tensor, like: Tensor) -> Tensor:
    """A copy of a weight in the dtype and memory layout of the parameter that it is for."""
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(weight)


def _check_fit(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: str) -> None:
    misfits = [f"no {name}" for name in wanted if name not in weights]
    misfits += [f"an unknown {name}" for name in weights if name not in wanted]
    misfits += [
        f"{name} of shape {list(tensor.shape)}, not {list(wanted[name].shape)}"
        for name, tensor in weights.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    misfits += [
        f"{name} of {tensor.dtype}"
        for name, tensor in weights.items()
        if name in wanted and wanted[name].is_floating_point() and not tensor.is_floating_point()
    ]
    if misfits:
        more = [f"{len(misfits) - 3} more misfits"] * (len(misfits) > 3)
        raise ModelError(
            f"in {where} the tensors that its config describes",
            ", ".join(misfits[:3] + more),
            "take both from one checkpoint",
        )


def require_room(config: Mapping[str, object], shapes: Sequence[Sequence[int]], where: str) -> None:
    """Refuse a config of more layers than there are tensors, or wider than there are weights, before it is built.

    Args:
        config: as its file has it; entries whose names have the word "layers" are counts of layers.
        shapes: of all tensors that there are for it.
        where: the file, for the error.

    Raises:
        ModelError: the first such entry.
    """
    weights, tensors = max(sum(map(prod, shapes)), MOST), max(len(shapes), _FEW)
    for name, value in config.items():
        most = tensors if "layers" in name else weights
        long = isinstance(value, list | tuple) and len(value) > tensors
        if long or any(number > most for number in _numbers(value)):
            given = f"{name!r:.60} of more than {tensors if long else most:,}"
            wanted = f"in {where} the tensors that its config describes"
            raise ModelError(wanted, given, "take both from one checkpoint")


def _numbers(value: object) -> Iterator[int]:
    """The whole numbers in an entry."""
    yield from (each for each in (value if isinstance(value, list | tuple) else [value]) if type(each) is int)
