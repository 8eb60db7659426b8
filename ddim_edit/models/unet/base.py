"""What UNets of ours have in common: they open at their bottleneck h."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError

Opened = tuple[Tensor, Callable[[Tensor], Tensor]]
"""A bottleneck h [B, C, h, w], and what makes the network's output of any h of that shape."""


class UNetBase(nn.Module):
    """A UNet for inference, by what its parts make of x; says nothing of those parts.

    x [B, channels, H, W], index [B] (or [1] for all rows) and, for networks with classes, label [B] -> [B, answers, H,
    W], in the dtype of the weights, which x must have. Indices may be fractional and are read in float32.

    Raises:
        ArgumentError: when called, a shape that does not fit, or a label that is missing or not expected.
    """

    memory_format: torch.memory_format = torch.channels_last
    """Of the weights, and of the maps between layers."""

    def laid_out(self, memory_format: torch.memory_format) -> Self:
        """Return the network itself, its weights and maps in `torch.channels_last` or `torch.contiguous_format`."""
        self.memory_format = memory_format
        return self.to(memory_format=memory_format)

    def opened(self, x: Tensor, index: Tensor, label: Tensor | None) -> Opened:
        """The bottleneck, and what makes an output of it."""
        raise NotImplementedError

    def forward(self, x: Tensor, index: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's raw output for x at an index."""
        output, _ = self.read(x, index, label)
        return output

    def read(self, x: Tensor, index: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The raw output, and the bottleneck h [B, C, h, w] that it came from."""
        h, answer = self.opened(x, index, label)
        return answer(h), h

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The raw output, and the one with shift [C, h, w] or [B, C, h, w] added to h; all but the way up runs once."""
        h, answer = self.opened(x, index, label)
        require_shift(shift, h)
        # In place on a copy: the memory layout of h decides how its convolutions round.
        return answer(h), answer(h.clone().add_(shift))


def require_shift(shift: Tensor, h: Tensor) -> None:
    """Insist on a shift that fits a bottleneck, one for all images or one for each.

    Raises:
        ArgumentError: another shape.
    """
    if shift.shape[-3:] != h.shape[1:] or shift.shape[:-3] not in ((), (1,), h.shape[:1]):
        wanted = f"a shift {list(h.shape[1:])}, one for all images or one for each of {len(h)}"
        raise ArgumentError(wanted, f"the shape {list(shift.shape)}", "use one from this model's h-space")


def require_images(x: Tensor, channels: int, stride: int) -> None:
    """Insist on images that a network can halve as often as it does.

    Raises:
        ArgumentError: another shape.
    """
    if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % stride or x.shape[3] % stride:
        wanted = f"images [B, {channels}, H, W] with H and W multiples of {stride}"
        raise ArgumentError(wanted, f"the shape {list(x.shape)}", "resize or pad the images")


def require_label(label: Tensor | None, classes: bool) -> None:
    """Insist on a label where a network has classes, and on none where it has not.

    Raises:
        ArgumentError: otherwise.
    """
    if label is not None and not classes:
        raise ArgumentError("no label", "one", "this network has no classes, so leave it out")
    if label is None and classes:
        raise ArgumentError("a label per image", "none", "this network has classes, so choose one")
