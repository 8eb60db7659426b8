"""Biases of convolutions, residual sums and their scale in one Triton kernel, in place and in either memory layout.

PyTorch adds the bias of a convolution by cuDNN in a kernel of its own, which reads and writes the whole map: at the end
of a residual block with a convolution as its shortcut there are two, then the kernel of the sum and the one of its
scale. Here all of them are one kernel, which reads both maps once and writes one.

It is calculated in float32 and rounded once. Every element depends on its own channel alone, so that an image has the
same result in every batch.

This module needs Triton, which comes with PyTorch on Linux only: `blocks.fuse_blocks` imports it where it is needed.

References:
    Tillet, Kung and Cox, "Triton: An Intermediate Language and Compiler for Tiled Neural Network Computations",
    MAPL 2019.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ddim_edit.models.group_norm import Tiling, is_channels_last, locate_tile
from ddim_edit.models.layers import FusedLayer, ResidualSum, UnbiasedConv2d, refuse_gradients


@triton.jit  # type: ignore[untyped-decorator]
def _sum_tiles(  # noqa: PLR0913
    h: tl.tensor,
    bias: tl.tensor,
    shortcut: tl.tensor,
    shortcut_bias: tl.tensor,
    factor: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    chunks: tl.tensor,
    BIAS: tl.constexpr,
    SHORTCUT: tl.constexpr,
    SHORTCUT_BIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Overwrite a tile of h by (h + shortcut + (bias + shortcut_bias)) * factor."""
    _, c, place, inside = locate_tile(pixels, channels, chunks, CHANNELS_LAST, PIXELS, CHANNELS)
    added = tl.zeros([1, CHANNELS], tl.float32)
    if BIAS:
        added += tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    if SHORTCUT_BIAS:
        added += tl.load(shortcut_bias + c, mask=c < channels, other=0.0).to(tl.float32)
    made = tl.load(h + place, mask=inside, other=0.0).to(tl.float32)
    if SHORTCUT:
        made += tl.load(shortcut + place, mask=inside, other=0.0).to(tl.float32)
    made = (made + added) * factor
    tl.store(h + place, made.to(h.dtype.element_ty), mask=inside)


def add_up(
    h: Tensor,
    bias: Tensor | None = None,
    shortcut: Tensor | None = None,
    shortcut_bias: Tensor | None = None,
    factor: float = 1.0,
) -> Tensor:
    """Return (h + shortcut + (bias + shortcut_bias)) * factor in the place of h; what is None counts as 0.

    Args:
        h: map [B, C, ...], contiguous or channels_last; others are copied, and left as they are.
        bias: [C].
        shortcut: map of the shape of h, copied where it is laid out otherwise.
        shortcut_bias: [C].
        factor: what the sum is multiplied by.

    Returns:
        A map of the shape and dtype of h.

    Raises:
        RuntimeError: a map requires gradients, which the kernel does not compute.
    """
    refuse_gradients(h)
    layout = torch.channels_last if is_channels_last(h) else torch.contiguous_format
    h = h.contiguous(memory_format=layout)
    if shortcut is not None:
        refuse_gradients(shortcut)
        shortcut = shortcut.contiguous(memory_format=layout)
    tiling = Tiling.of(h)
    with torch.cuda.device_of(h):  # type: ignore[no-untyped-call]
        _sum_tiles[tiling.grid](
            h,
            h if bias is None else bias,
            h if shortcut is None else shortcut,
            h if shortcut_bias is None else shortcut_bias,
            float(factor),
            tiling.pixels,
            tiling.channels,
            tiling.chunks,
            BIAS=bias is not None,
            SHORTCUT=shortcut is not None,
            SHORTCUT_BIAS=shortcut_bias is not None,
            **tiling.sizes,
        )
    return h


class FusedResidualSum(FusedLayer):
    """A `ResidualSum` that adds the biases of the convolutions before it, in one kernel; for inference only.

    Args:
        residual_sum: the layer to run.
        bias: bias [C] of the convolution that computes h, which that one leaves out; None for none.
        shortcut_bias: that of the convolution that computes the shortcut.
    """

    bias: Tensor | None
    shortcut_bias: Tensor | None

    def __init__(
        self, residual_sum: ResidualSum, bias: Tensor | None = None, shortcut_bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.factor, self.divisor = residual_sum.factor, residual_sum.divisor
        # The very parameters, but none of this layer: the convolutions have them under their own names.
        self.__dict__.update(bias=bias, shortcut_bias=shortcut_bias)

    def unfused(self) -> ResidualSum:
        """Return the same layer by operations of torch, without the biases."""
        return ResidualSum(self.factor, self.divisor)

    def forward(self, h: Tensor, shortcut: Tensor) -> Tensor:
        """Return the scaled sum in the place of h; see `ResidualSum`."""
        return add_up(h, self.bias, shortcut, self.shortcut_bias, self.factor / self.divisor)


class FusedBiasConv2d(UnbiasedConv2d):
    """A convolution that adds its bias in place, in the kernel of this module; for inference only."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x."""
        return add_up(super().forward(x), self.bias)
