"""Base class for UNets that expose their bottleneck."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError

Split = tuple[Tensor, Callable[[Tensor], Tensor]]
"""A bottleneck h [B, C, h, w], and the rest of the network: from any h of that shape to the output."""


class UNetBase(nn.Module):
    """Base of UNets for inference that can be split at their bottleneck h.

    x [B, channels, H, W], index [B] (or [1] for all rows) and, for networks with classes, label [B] -> [B, outputs, H,
    W], in the dtype of the weights, which x must have. Indices may be fractional and are read in float32.

    Raises:
        ArgumentError: when called, a shape that does not fit, or a label that is missing or not expected.
    """

    memory_format: torch.memory_format = torch.channels_last
    """Memory format of the weights, and of the feature maps between layers."""

    def to_memory_format(self, memory_format: torch.memory_format) -> Self:
        """Return the network itself, its weights and maps in `torch.channels_last` or `torch.contiguous_format`."""
        self.memory_format = memory_format
        return self.to(memory_format=memory_format)

    def split_at_bottleneck(self, x: Tensor, index: Tensor, label: Tensor | None) -> Split:
        """Return the bottleneck of x, and the rest of the network."""
        raise NotImplementedError

    def forward(self, x: Tensor, index: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the raw output for x at an index."""
        output, _ = self.read(x, index, label)
        return output

    def read(self, x: Tensor, index: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the raw output, and the bottleneck h [B, C, h, w] that it came from."""
        h, decode = self.split_at_bottleneck(x, index, label)
        return decode(h), h

    def bottleneck(self, x: Tensor, index: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the bottleneck h alone, without running the rest of the network."""
        h, _ = self.split_at_bottleneck(x, index, label)
        return h

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the raw output, and the one with shift [C, h, w] or [B, C, h, w] added to h.

        Only the decoder runs twice.
        """
        h, decode = self.split_at_bottleneck(x, index, label)
        require_shift(shift, h)
        # In place on a copy: the memory layout of h decides how its convolutions round.
        return decode(h), decode(h.clone().add_(shift))


def require_shift(shift: Tensor, h: Tensor) -> None:
    """Check that a shift fits a bottleneck, one for all images or one for each.

    Raises:
        ArgumentError: another shape.
    """
    if shift.shape[-3:] != h.shape[1:] or shift.shape[:-3] not in ((), (1,), h.shape[:1]):
        raise ArgumentError(
            f"A shift of h must have the shape {list(h.shape[1:])}, for all images, or one for each of {len(h)}, not "
            f"{list(shift.shape)}. Use one from this model's h-space."
        )


def require_images(x: Tensor, channels: int, stride: int) -> None:
    """Check that a network can halve images as often as it does.

    Raises:
        ArgumentError: another shape.
    """
    if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % stride or x.shape[3] % stride:
        raise ArgumentError(
            f"Images must have the shape [B, {channels}, H, W] with H and W multiples of {stride}, not "
            f"{list(x.shape)}. Resize or pad them."
        )


def require_label(label: Tensor | None, classes: bool) -> None:
    """Check that there is a label where a network has classes, and none where it has not.

    Raises:
        ArgumentError: otherwise.
    """
    if label is not None and not classes:
        raise ArgumentError("This network has no classes. Leave the label out.")
    if label is None and classes:
        raise ArgumentError("This network has classes. Give a label for each image.")
