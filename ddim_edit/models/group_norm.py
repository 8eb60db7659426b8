"""Group norm, bias, embedding and SiLU in Triton kernels that read a map twice and write it once, in either layout.

PyTorch's group norm on CUDA works on contiguous maps only: a channels_last map is copied before it, its result is
copied back, and the embedding and the activation each read and write the map again. Three kernels take their place:

1. Reduce every tile of pixels to the mean and the sum of squared deviations of each channel.
2. Combine these over a group's tiles and channels, by the formula of Chan et al., into three numbers per image and
   channel.
3. Write y = act((x - centre) * scale + offset) from them.

The bias of the convolution before a norm moves the means of channels, and is added to them in the second kernel, where
it takes no time: PyTorch runs a kernel over the whole map for it.

All of it is calculated in float32. Tiles do not depend on the batch and no sum depends on the order in which programs
finish, so that an image has the same result in every run and in every batch.

This module needs Triton, which comes with PyTorch on Linux only: `blocks.fuse_norms` imports it where it is needed.

References:
    Wu and He, "Group Normalization", ECCV 2018, arXiv:1803.08494.
    Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", COMPSTAT 1982.
    Tillet, Kung and Cox, "Triton: An Intermediate Language and Compiler for Tiled Neural Network Computations",
    MAPL 2019.
"""

from math import prod
from typing import NamedTuple, Self

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from ddim_edit.models.layers import FusedLayer, GroupNormAct, refuse_gradients, share_norm

_TILE = 4096
"""Elements of a map that one program holds at a time."""
_CHANNELS = 64
_PIXELS = 1024
"""Width of a tile along the axis that is contiguous in memory: channels in channels_last maps, pixels in others."""
_CHUNKS = 32
"""Tiles of a group that are combined at a time."""


@triton.jit  # type: ignore[untyped-decorator]
def _reduce_tiles(
    x: tl.tensor,
    moments: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    chunks: tl.tensor,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Write the mean and the sum of squared deviations of each channel of a tile to moments [B, chunks, 2, C]."""
    row = tl.program_id(0)
    image, chunk = row // chunks, row % chunks
    p = chunk * PIXELS + tl.arange(0, PIXELS)[:, None]
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    inside = (p < pixels) & (c < channels)
    # A batch may have more than 2^31 elements, an image may not.
    x += image.to(tl.int64) * pixels * channels
    values = tl.load(x + (p * channels + c if CHANNELS_LAST else c * pixels + p), mask=inside, other=0.0)
    values = values.to(tl.float32)
    count = tl.minimum(PIXELS, pixels - chunk * PIXELS)
    mean = tl.sum(values, axis=0, keep_dims=True) / count
    deviation = tl.where(inside, values - mean, 0.0)
    moments += row.to(tl.int64) * 2 * channels + c
    tl.store(moments, mean, mask=c < channels)
    tl.store(moments + channels, tl.sum(deviation * deviation, axis=0, keep_dims=True), mask=c < channels)


@triton.jit  # type: ignore[untyped-decorator]
def _combine_tiles(  # noqa: PLR0913
    moments: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    conv_bias: tl.tensor,
    emb: tl.tensor,
    coefficients: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    chunks: tl.tensor,
    width: tl.tensor,
    emb_stride: tl.tensor,
    eps: tl.tensor,
    CONV_BIAS: tl.constexpr,
    ADD: tl.constexpr,
    SCALE_SHIFT: tl.constexpr,
    PIXELS: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Write centre, scale and offset of the `width` channels of a group to coefficients [B, 3, C]."""
    image = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)[None, :]
    c = tl.program_id(1) * width + i
    valid = i < width
    emb += image * emb_stride + c
    moments += image * chunks * 2 * channels + c
    # What is added to a channel moves its mean, and leaves the deviations as they are.
    added = tl.zeros([1, WIDTH], tl.float32)
    if CONV_BIAS:
        added += tl.load(conv_bias + c, mask=valid, other=0.0).to(tl.float32)
    if ADD:
        added += tl.load(emb, mask=valid, other=0.0).to(tl.float32)

    total = tl.zeros([CHUNKS, WIDTH], tl.float32)
    for start in range(0, chunks, CHUNKS):
        k = start + tl.arange(0, CHUNKS)[:, None]
        inside = (k < chunks) & valid
        mean = tl.load(moments + k * 2 * channels, mask=inside, other=0.0) + added
        total += tl.where(inside, tl.minimum(PIXELS, pixels - k * PIXELS) * mean, 0.0)
    group_mean = tl.sum(total) / (pixels * width)

    total = tl.zeros([CHUNKS, WIDTH], tl.float32)
    for start in range(0, chunks, CHUNKS):
        k = start + tl.arange(0, CHUNKS)[:, None]
        inside = (k < chunks) & valid
        away = tl.load(moments + k * 2 * channels, mask=inside, other=0.0) + added - group_mean
        squares = tl.load(moments + k * 2 * channels + channels, mask=inside, other=0.0)
        total += tl.where(inside, squares + tl.minimum(PIXELS, pixels - k * PIXELS) * away * away, 0.0)
    variance = tl.sum(total) / (pixels * width)

    scale = tl.load(weight + c, mask=valid, other=0.0).to(tl.float32) / tl.sqrt_rn(variance + eps)
    offset = tl.load(bias + c, mask=valid, other=0.0).to(tl.float32)
    if SCALE_SHIFT:
        factor = 1.0 + tl.load(emb, mask=valid, other=0.0).to(tl.float32)
        scale *= factor
        offset = offset * factor + tl.load(emb + channels, mask=valid, other=0.0).to(tl.float32)
    coefficients += image * 3 * channels + c
    tl.store(coefficients, group_mean - added, mask=valid)
    tl.store(coefficients + channels, scale, mask=valid)
    tl.store(coefficients + 2 * channels, offset, mask=valid)


@triton.jit  # type: ignore[untyped-decorator]
def locate_tile(
    pixels: tl.tensor,
    channels: tl.tensor,
    chunks: tl.tensor,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Return where this program's tile is: image, channels [1, CHANNELS], offsets [PIXELS, CHANNELS] and their mask."""
    row = tl.program_id(0)
    image, chunk = (row // chunks).to(tl.int64), row % chunks
    p = chunk * PIXELS + tl.arange(0, PIXELS)[:, None]
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    inside = (p < pixels) & (c < channels)
    place = image * pixels * channels + (p * channels + c if CHANNELS_LAST else c * pixels + p)
    return image, c, place, inside


@triton.jit  # type: ignore[untyped-decorator]
def _normalize_tiles(
    x: tl.tensor,
    coefficients: tl.tensor,
    y: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    chunks: tl.tensor,
    SILU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Write a tile of y = act((x - centre) * scale + offset)."""
    image, c, place, inside = locate_tile(pixels, channels, chunks, CHANNELS_LAST, PIXELS, CHANNELS)
    coefficients += image * 3 * channels + c
    centre = tl.load(coefficients, mask=c < channels, other=0.0)
    scale = tl.load(coefficients + channels, mask=c < channels, other=0.0)
    offset = tl.load(coefficients + 2 * channels, mask=c < channels, other=0.0)
    made = (tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - centre) * scale + offset
    if SILU:
        made = made / (1.0 + tl.exp(-made))
    tl.store(y + place, made.to(y.dtype.element_ty), mask=inside)


class Tiling(NamedTuple):
    """How the kernels share a map out, one program for each tile of an image.

    Fields: images, channels and pixels of the map; chunks, tiles of an image along its pixels; grid of the programs;
    sizes of a tile, as the kernels' constants.
    """

    images: int
    channels: int
    pixels: int
    chunks: int
    grid: tuple[int, int]
    sizes: dict[str, int]

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Return the tiles of a map [B, C, ...] that is contiguous or channels_last."""
        channels_last = is_channels_last(x)
        images, channels, pixels = x.shape[0], x.shape[1], prod(x.shape[2:])
        if channels_last:
            tile_channels = min(_CHANNELS, triton.next_power_of_2(channels))
            tile_pixels = min(_TILE // tile_channels, triton.next_power_of_2(pixels))
        else:
            tile_pixels = min(_PIXELS, triton.next_power_of_2(pixels))
            tile_channels = min(_TILE // tile_pixels, triton.next_power_of_2(channels))
        chunks = triton.cdiv(pixels, tile_pixels)
        grid = (images * chunks, triton.cdiv(channels, tile_channels))
        sizes = {"CHANNELS_LAST": channels_last, "PIXELS": tile_pixels, "CHANNELS": tile_channels}
        return cls(images, channels, pixels, chunks, grid, sizes)


def is_channels_last(x: Tensor) -> bool:
    """Return whether the channels of a pixel lie side by side in memory, and its pixels one after the other."""
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


class FusedGroupNorm(FusedLayer):
    """A `GroupNormAct` or `torch.nn.GroupNorm` that runs in the kernels of this module; for inference only.

    Activations other than SiLU run after the kernels. Maps may be contiguous or channels_last, and the result is laid
    out alike; others are made contiguous first.

    Args:
        norm: the layer to run; its parameters are shared.
        conv_bias: bias [C] of the convolution before it, which that one leaves out; None for none.
    """

    conv_bias: Tensor | None

    def __init__(self, norm: nn.GroupNorm, conv_bias: Tensor | None = None) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        # The very parameter, but beside those of this layer: the convolution has it under its own name.
        self.__dict__["conv_bias"] = conv_bias
        activation = norm.activation if isinstance(norm, GroupNormAct) else nn.Identity()
        self.silu = isinstance(activation, nn.SiLU)
        self.activation = nn.Identity() if self.silu else activation
        self.scale_shift = isinstance(norm, GroupNormAct) and norm.scale_shift

    def unfused(self) -> GroupNormAct:
        """Return the same layer by operations of torch; its parameters are shared."""
        activation = nn.SiLU() if self.silu else self.activation
        return share_norm(self.weight, self.bias, self.groups, self.eps, activation, self.scale_shift)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """Return the normalized and activated features of x + conv_bias; see `GroupNormAct`.

        Args:
            x: features [B, C, ...], which are left as they are.
            emb: embedding [B, C] or [B, 2 C], or [1, ...] for all rows.

        Returns:
            Features of the shape, dtype and memory layout of x.

        Raises:
            RuntimeError: x requires gradients, which the kernels do not compute.
        """
        refuse_gradients(x)
        if not is_channels_last(x):
            x = x.contiguous()
        images, channels, pixels, chunks, grid, sizes = Tiling.of(x)
        width = channels // self.groups
        moments = x.new_empty(images, chunks, 2, channels, dtype=torch.float32)
        coefficients = x.new_empty(images, 3, channels, dtype=torch.float32)
        y = torch.empty_like(x)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            _reduce_tiles[grid](x, moments, pixels, channels, chunks, **sizes)
            _combine_tiles[images, self.groups](
                moments,
                self.weight,
                self.bias,
                self.weight if self.conv_bias is None else self.conv_bias,
                self.weight if emb is None else emb.contiguous(),
                coefficients,
                pixels,
                channels,
                chunks,
                width,
                0 if emb is None or len(emb) == 1 else emb.shape[1],
                self.eps,
                CONV_BIAS=self.conv_bias is not None,
                ADD=emb is not None and not self.scale_shift,
                SCALE_SHIFT=emb is not None and self.scale_shift,
                PIXELS=sizes["PIXELS"],
                CHUNKS=min(_CHUNKS, triton.next_power_of_2(chunks)),
                WIDTH=triton.next_power_of_2(width),
            )
            _normalize_tiles[grid](x, coefficients, y, pixels, channels, chunks, SILU=self.silu, **sizes)
        activated: Tensor = self.activation(y)
        return activated
