"""Copy tensors to where they are needed."""

import torch
from torch import Tensor


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
