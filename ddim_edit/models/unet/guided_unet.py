"""The UNet of guided-diffusion and improved-diffusion, under its own parameter names."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.errors import ModelError
from ddim_edit.models.layers import GroupNormAct, ResidualBlock
from ddim_edit.models.unet.base import Opened, UNetBase, require_images, require_label
from ddim_edit.models.unet.time_features import TimeFeatures

_GROUPS = 32


class Resampling(NamedTuple):
    """How a network of these layers changes resolution: makes a module of h and emb that halves or doubles h."""

    down: "Callable[[Layers, int], nn.Module]"
    up: "Callable[[Layers, int], nn.Module]"


@dataclass(frozen=True)
class Layers:
    """The layers of one network; says all that shapes its weights, so nothing of attention heads.

    Attributes:
        in_channels: channels of x.
        out_channels: channels of the answer.
        model_channels: width of the time features; the time embedding is four times as wide.
        widths: channels of each level, from the full resolution down, in multiples of 32.
        num_res_blocks: residual blocks of a level on the way down; there is one more on the way up.
        attention: the levels that attend, counted from 0.
        num_classes: size of the table of labels, or None.
        use_scale_shift_norm: whether the time scales and shifts what is normed, instead of being added before.
        resampling: how resolutions change, `BY_BLOCKS`, `BY_CONVOLUTIONS` or `WITHOUT_WEIGHTS`.
    """

    in_channels: int
    out_channels: int
    model_channels: int
    widths: tuple[int, ...]
    num_res_blocks: int
    attention: frozenset[int]
    num_classes: int | None
    use_scale_shift_norm: bool
    resampling: Resampling

    @property
    def time_width(self) -> int:
        """Width of the time embedding."""
        return 4 * self.model_channels

    @property
    def stride(self) -> int:
        """What heights and widths must be multiples of: every level but the last halves them."""
        return 1 << (len(self.widths) - 1)


Order = Callable[[Tensor, int], tuple[Tensor, ...]]
"""Takes q, k and v, each [B, heads, C / heads, N], out of [B, 3 C, N]."""


def head_first(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """The legacy order: channels are split by head, then into q, k and v."""
    return qkv.reshape(len(qkv), heads, 3, -1, qkv.shape[2]).unbind(2)


def role_first(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """The order of `use_new_attention_order`: channels are split into q, k and v, then by head."""
    return qkv.reshape(len(qkv), 3, heads, -1, qkv.shape[2]).unbind(1)


@dataclass(frozen=True)
class Heads:
    """How attentions share their channels out; no weight tells.

    Attributes:
        num_heads: heads of every attention.
        num_head_channels: channels of every head instead, or -1.
        order: `head_first` or `role_first`.
    """

    num_heads: int
    num_head_channels: int
    order: Order

    def of(self, width: int) -> int:
        """Heads of an attention over that many channels.

        Raises:
            ModelError: the channels cannot be shared out evenly.
        """
        by_width = self.num_head_channels != -1
        name = "num_head_channels" if by_width else "num_heads"
        value = self.num_head_channels if by_width else self.num_heads
        if width % value:
            raise ModelError(f"{name} that divides {width} channels", f"{value}", f"give the {name} of its training")
        return width // value if by_width else value


class _PositionalTime(TimeFeatures):
    """Cosines, then sines, of index 10000^(-2i / width), i < width / 2: [B] -> [B, width], in float32."""

    def __init__(self, width: int) -> None:
        # Real numbers even where the network is made on "meta", since no checkpoint holds them.
        i = torch.arange(width // 2, dtype=torch.float32, device="cpu")
        super().__init__(torch.exp(-math.log(10000) * i / (width // 2)), persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        angle = index[:, None].float() * self.weight
        return torch.cat((angle.cos(), angle.sin()), dim=1)


def _activated_norm(width: int, scale_shift: bool = False) -> nn.Module:
    # Epsilon is torch's own; in place, as nobody else holds what was normalized.
    return GroupNormAct(_GROUPS, width, 1e-5, nn.SiLU(inplace=True), scale_shift)


def _doubled() -> nn.Module:
    return nn.Upsample(scale_factor=2.0, mode="nearest")


class _ResBlock(ResidualBlock):
    """Two convolutions, the second one told the time, plus a shortcut; `resample` acts on both before the first."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, resample: nn.Module | None = None) -> None:
        super().__init__()
        scaled = layers.use_scale_shift_norm
        self.in_layers = nn.Sequential(
            _activated_norm(inputs),
            nn.Identity(),  # the activation, done by the layer before
            nn.Conv2d(inputs, outputs, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(),
            nn.Linear(layers.time_width, 2 * outputs if scaled else outputs),
        )
        self.out_layers = nn.Sequential(
            _activated_norm(outputs, scaled),
            nn.Identity(),  # the activation
            nn.Identity(),  # dropout
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.resample = resample or nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, _, conv = self.in_layers
        h = conv(self.resample(norm(x)))
        norm, _, _, conv = self.out_layers
        out: Tensor = conv(norm(h, self.emb_layers(emb)))
        return out.add_(self.skip_connection(self.resample(x)))


class _Attention(nn.Module):
    """Self-attention over the pixels, plus its input: [B, width, H, W] -> same; the time embedding is not used."""

    def __init__(self, width: int, heads: Heads) -> None:
        super().__init__()
        self.heads, self.order = heads.of(width), heads.order
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        parts = self.order(self.qkv(self.norm(x).flatten(2)), self.heads)
        q, k, v = (part.transpose(2, 3) for part in parts)
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
        out: Tensor = x + self.proj_out(h).view_as(x)
        return out


class _Downsample(nn.Module):
    """Halves heights and widths by `op`; the time embedding is not used."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        halved: Tensor = self.op(h)
        return halved


class _Upsample(nn.Module):
    """Doubles heights and widths, then `conv`; the time embedding is not used."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.enlarge = _doubled()
        self.conv = conv

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        doubled: Tensor = self.conv(self.enlarge(h))
        return doubled


BY_BLOCKS = Resampling(
    down=lambda layers, width: _ResBlock(layers, width, width, nn.AvgPool2d(2)),
    up=lambda layers, width: _ResBlock(layers, width, width, _doubled()),
)
BY_CONVOLUTIONS = Resampling(
    down=lambda layers, width: _Downsample(nn.Conv2d(width, width, 3, stride=2, padding=1)),
    up=lambda layers, width: _Upsample(nn.Conv2d(width, width, 3, padding=1)),
)
WITHOUT_WEIGHTS = Resampling(
    down=lambda layers, width: _Downsample(nn.AvgPool2d(2)),
    up=lambda layers, width: _Upsample(nn.Identity()),
)


def _attending(layers: Layers, heads: Heads, level: int) -> list[nn.Module]:
    return [_Attention(layers.widths[level], heads)] if level in layers.attention else []


def _input_blocks(layers: Layers, heads: Heads) -> tuple[nn.ModuleList, list[int]]:
    """The blocks on the way down, and the channels that each of them answers with."""
    answered = [layers.widths[0]]
    blocks: list[list[nn.Module]] = [[nn.Conv2d(layers.in_channels, layers.widths[0], 3, padding=1)]]
    for level, width in enumerate(layers.widths):
        if level:
            blocks.append([layers.resampling.down(layers, answered[-1])])
            answered.append(answered[-1])
        for _ in range(layers.num_res_blocks):
            blocks.append([_ResBlock(layers, answered[-1], width), *_attending(layers, heads, level)])
            answered.append(width)
    return nn.ModuleList(map(nn.ModuleList, blocks)), answered


def _output_blocks(layers: Layers, heads: Heads, skips: list[int]) -> nn.ModuleList:
    """The blocks on the way up, each of which sees the last of the skips that is left."""
    blocks, h, skips = nn.ModuleList(), layers.widths[-1], list(skips)
    for level, width in reversed(list(enumerate(layers.widths))):
        for _ in range(layers.num_res_blocks + 1):
            made = [_ResBlock(layers, h + skips.pop(), width), *_attending(layers, heads, level)]
            blocks.append(nn.ModuleList(made))
            h = width
        if level:
            made.append(layers.resampling.up(layers, width))
            blocks[-1] = nn.ModuleList(made)
    return blocks


class GuidedUNet(UNetBase):
    """The network of one checkpoint, for inference: dropout is left out, and no picture is upsampled or classified.

    x [B, in_channels, H, W], index [B] (or [1] for all rows) -> [B, out_channels, H, W], in the dtype of the weights,
    which x must have. Indices may be fractional and are read in float32. label [B] goes to networks with classes, and
    only to them.

    Errors: ArgumentError for a shape that does not fit, or a label that is missing or not expected.

    Nichol and Dhariwal (2021); Dhariwal and Nichol (2021).
    """

    def __init__(self, layers: Layers, heads: Heads) -> None:
        super().__init__()
        self.layers = layers
        widths, bottom = layers.widths, layers.widths[-1]
        self.features = _PositionalTime(layers.model_channels)
        self.time_embed = nn.Sequential(
            nn.Linear(layers.model_channels, layers.time_width),
            nn.SiLU(),
            nn.Linear(layers.time_width, layers.time_width),
        )
        self.label_emb = nn.Embedding(layers.num_classes, layers.time_width) if layers.num_classes else None
        self.input_blocks, answered = _input_blocks(layers, heads)
        self.middle_block = nn.ModuleList(
            [_ResBlock(layers, bottom, bottom), _Attention(bottom, heads), _ResBlock(layers, bottom, bottom)]
        )
        self.output_blocks = _output_blocks(layers, heads, answered)
        self.out = nn.Sequential(
            _activated_norm(widths[0]),
            nn.Identity(),  # the activation
            nn.Conv2d(widths[0], layers.out_channels, 3, padding=1),
        )
        self.laid_out(self.memory_format)

    def opened(self, x: Tensor, index: Tensor, label: Tensor | None) -> Opened:
        """The bottleneck, and what makes an output of it."""
        emb = self._embed(index, label)
        skips = self._down(x, emb)
        return _through(self.middle_block, skips[-1], emb), lambda h: self._up(h, skips, emb)

    def _embed(self, index: Tensor, label: Tensor | None) -> Tensor:
        require_label(label, self.label_emb is not None)
        features = self.features(index).to(self.time_embed[0].weight.dtype)
        emb: Tensor = self.time_embed(features)
        return emb if self.label_emb is None else emb + self.label_emb(label)

    def _down(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        require_images(x, self.layers.in_channels, self.layers.stride)
        stem, *blocks = self.input_blocks.children()
        (conv,) = stem.children()
        skips = [conv(x.contiguous(memory_format=self.memory_format))]
        for block in blocks:
            skips.append(_through(block, skips[-1], emb))
        return skips

    def _up(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        for block, skip in zip(self.output_blocks, reversed(skips), strict=True):
            h = _through(block, torch.cat((h, skip), dim=1), emb)
        out: Tensor = self.out(h)
        return out


def _through(block: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    for layer in block.children():
        h = layer(h, emb)
    return h
