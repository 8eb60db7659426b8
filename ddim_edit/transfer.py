"""Copy tensors to where they are needed."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, copied there while the device goes on with its work.

    Only from pinned memory does CUDA copy in the background; from any other the host waits until the device is idle.

    Args:
        x: a tensor of any shape, on any device.
        device: where to.

    Returns:
        The same numbers; x itself if it is there already.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def begin_copy_to_cpu(value: T) -> Callable[[], T]:
    """Begin to copy tensors to the CPU, and return a function that waits for the copies and returns them.

    What is queued on a CUDA device in between runs while the caller works on the copies: a plain copy would wait for
    it too. From other devices the copies are made at once.

    Args:
        value: a tensor, or nested tuples and dataclasses that hold tensors; other values in them are kept.
    """
    devices = set[torch.device]()

    def begin(x: Tensor) -> Tensor:
        if x.device.type != "cuda":
            return x.cpu()
        devices.add(x.device)
        return x.to("cpu", non_blocking=True)

    copies = _map_tensors(begin, value)
    events = []
    for device in devices:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        events.append(event)

    def finish() -> T:
        for event in events:
            event.synchronize()
        # Copies that do not block are in pinned memory, which is short: what the caller keeps must not stay there.
        kept: T = _map_tensors(Tensor.clone, copies) if events else copies
        return kept

    return finish


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to the tensors in nested tuples and dataclasses."""
    if isinstance(value, Tensor):
        return function(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{each.name: _map_tensors(function, getattr(value, each.name)) for each in fields(value)}
        )
    if not isinstance(value, tuple):
        return value
    parts = [_map_tensors(function, part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
