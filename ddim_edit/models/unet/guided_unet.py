"""The UNet of guided-diffusion and improved-diffusion, under its own parameter names.

Its attention keeps channels first and projects by 1x1 convolutions, which round otherwise than the matrices of our
`UNet`; so it is a network of its own, not a renamed `UNet`.

References:
    Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021, arXiv:2102.09672.
    Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, arXiv:2105.05233.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.errors import ModelError
from ddim_edit.models.layers import GroupNormAct, ResidualBlock, ResidualSum, SinusoidalFeatures
from ddim_edit.models.unet.base import Split, UNetBase, require_images, require_label

_GROUPS = 32


@dataclass(frozen=True)
class GuidedUNetConfig:
    """The layers of one network: all that shapes its weights, so nothing of attention heads.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output.
        model_channels: width of the time features; the time embedding is four times as wide.
        widths: channels of each level, from the full resolution down, in multiples of 32.
        num_res_blocks: residual blocks of a level on the way down; there is one more on the way up.
        attention: the levels that attend, counted from 0.
        num_classes: size of the table of labels, or None.
        use_scale_shift_norm: whether the time scales and shifts what is normed, instead of being added before.
        resampling: what changes the resolution: "resblock" for residual blocks, "conv" for convolutions, or "pool" for
            pooling and nearest-neighbour upsampling, which have no weights.
    """

    in_channels: int
    out_channels: int
    model_channels: int
    widths: tuple[int, ...]
    num_res_blocks: int
    attention: frozenset[int]
    num_classes: int | None
    use_scale_shift_norm: bool
    resampling: str

    @property
    def time_width(self) -> int:
        """Width of the time embedding."""
        return 4 * self.model_channels

    @property
    def stride(self) -> int:
        """Heights and widths must be multiples of it: every level but the last halves them."""
        return 1 << (len(self.widths) - 1)


@dataclass(frozen=True)
class AttentionHeads:
    """How attentions divide their channels into heads, which the weights do not show.

    Args:
        num_heads: heads of every attention.
        num_head_channels: channels of every head instead, or -1.
        use_new_attention_order: whether the channels of qkv are split into q, k and v, then by head; otherwise, as in
            the legacy order, by head, then into q, k and v.
    """

    num_heads: int
    num_head_channels: int
    use_new_attention_order: bool

    def count(self, width: int) -> int:
        """Return the number of heads of an attention over that many channels.

        Raises:
            ModelError: the channels cannot be shared out evenly.
        """
        by_width = self.num_head_channels != -1
        name = "num_head_channels" if by_width else "num_heads"
        value = self.num_head_channels if by_width else self.num_heads
        if width % value:
            raise ModelError(
                f"{name} must divide {width} channels, which {value} does not. Give the one of its training."
            )
        return width // value if by_width else value

    def split(self, qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
        """Return q, k and v, each [B, heads, C / heads, N], of qkv [B, 3 C, N]."""
        if self.use_new_attention_order:
            return qkv.reshape(len(qkv), 3, heads, -1, qkv.shape[2]).unbind(1)
        return qkv.reshape(len(qkv), heads, 3, -1, qkv.shape[2]).unbind(2)


def _activated_norm(width: int, scale_shift: bool = False) -> nn.Module:
    # Epsilon is torch's default; in place, because the normalized features are used only here.
    return GroupNormAct(_GROUPS, width, 1e-5, nn.SiLU(inplace=True), scale_shift)


class GuidedResBlock(ResidualBlock):
    """Two convolutions, the second one with the embedding, plus a shortcut; `resample` acts on both before the first.

    x [B, inputs, H, W], emb [B, time_width] -> [B, outputs, H', W'].
    """

    normed = (("in_layers.2", "out_layers.0"),)
    summed = ("out_layers.3", "skip_connection")

    def __init__(self, config: GuidedUNetConfig, inputs: int, outputs: int, resample: nn.Module | None = None) -> None:
        super().__init__()
        scale_shift = config.use_scale_shift_norm
        self.in_layers = nn.Sequential(
            _activated_norm(inputs),
            nn.Identity(),  # the activation, done by the layer before
            nn.Conv2d(inputs, outputs, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(),
            nn.Linear(config.time_width, 2 * outputs if scale_shift else outputs),
        )
        self.out_layers = nn.Sequential(
            _activated_norm(outputs, scale_shift),
            nn.Identity(),  # the activation
            nn.Identity(),  # dropout
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.resample = resample or nn.Identity()
        self.residual_sum = ResidualSum()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the features."""
        norm, _, conv = self.in_layers
        h = conv(self.resample(norm(x)))
        norm, _, _, conv = self.out_layers
        h = conv(norm(h, self.emb_layers(emb)))
        out: Tensor = self.residual_sum(h, self.skip_connection(self.resample(x)))
        return out


class GuidedAttention(nn.Module):
    """Self-attention over the pixels, plus its input: [B, width, H, W] -> same; the time embedding is not used."""

    def __init__(self, width: int, heads: AttentionHeads) -> None:
        super().__init__()
        self.heads = heads
        self.count = heads.count(width)
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the features."""
        parts = self.heads.split(self.qkv(self.norm(x).flatten(2)), self.count)
        q, k, v = (part.transpose(2, 3) for part in parts)
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
        out: Tensor = x + self.proj_out(h).view_as(x)
        return out


class GuidedDownsample(nn.Module):
    """Halves heights and widths by `op`; the time embedding is not used."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Return the features."""
        halved: Tensor = self.op(h)
        return halved


class GuidedUpsample(nn.Module):
    """Doubles heights and widths, then applies `conv`; the time embedding is not used."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        # Registered right before the convolution, which is how `cpu_layers` finds the two.
        self.enlarge = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.conv = conv

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Return the features."""
        doubled: Tensor = self.conv(self.enlarge(h))
        return doubled


def _downsampler(config: GuidedUNetConfig, width: int) -> nn.Module:
    if config.resampling == "resblock":
        return GuidedResBlock(config, width, width, nn.AvgPool2d(2))
    if config.resampling == "conv":
        return GuidedDownsample(nn.Conv2d(width, width, 3, stride=2, padding=1))
    return GuidedDownsample(nn.AvgPool2d(2))


def _upsampler(config: GuidedUNetConfig, width: int) -> nn.Module:
    if config.resampling == "resblock":
        return GuidedResBlock(config, width, width, nn.Upsample(scale_factor=2.0, mode="nearest"))
    return GuidedUpsample(nn.Conv2d(width, width, 3, padding=1) if config.resampling == "conv" else nn.Identity())


class GuidedUNet(UNetBase):
    """The network of one checkpoint, for inference: without dropout.

    x [B, in_channels, H, W], index [B] (or [1] for all rows) -> [B, out_channels, H, W], in the dtype of the weights,
    which x must have. Indices may be fractional and are read in float32. label [B] goes to networks with classes, and
    only to them. The bottleneck h is the output of `middle_block`.

    Args:
        config: the layers.
        heads: how attentions share their channels out.

    Raises:
        ArgumentError: when called, a shape that does not fit, or a label that is missing or not expected.
    """

    def __init__(self, config: GuidedUNetConfig, heads: AttentionHeads) -> None:
        super().__init__()
        self.config = config
        self.heads = heads
        widths = config.widths
        bottom = config.widths[-1]
        self.features = SinusoidalFeatures(config.model_channels, cosines_first=True)
        self.time_embed = nn.Sequential(
            nn.Linear(config.model_channels, config.time_width),
            nn.SiLU(),
            nn.Linear(config.time_width, config.time_width),
        )
        self.label_emb = nn.Embedding(config.num_classes, config.time_width) if config.num_classes else None

        blocks: list[list[nn.Module]] = [[nn.Conv2d(config.in_channels, widths[0], 3, padding=1)]]
        skips = [widths[0]]  # the channels of every input block's output
        for level, width in enumerate(widths):
            if level:
                blocks.append([_downsampler(config, skips[-1])])
                skips.append(skips[-1])
            for _ in range(config.num_res_blocks):
                blocks.append([GuidedResBlock(config, skips[-1], width)])
                if level in config.attention:
                    blocks[-1].append(GuidedAttention(width, heads))
                skips.append(width)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))

        self.middle_block = nn.ModuleList(
            [
                GuidedResBlock(config, bottom, bottom),
                GuidedAttention(bottom, heads),
                GuidedResBlock(config, bottom, bottom),
            ]
        )

        blocks = []
        inputs = bottom
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.num_res_blocks + 1):
                blocks.append([GuidedResBlock(config, inputs + skips.pop(), width)])
                if level in config.attention:
                    blocks[-1].append(GuidedAttention(width, heads))
                inputs = width
            if level:
                blocks[-1].append(_upsampler(config, width))
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))

        self.out = nn.Sequential(
            _activated_norm(widths[0]),
            nn.Identity(),  # the activation
            nn.Conv2d(widths[0], config.out_channels, 3, padding=1),
        )
        self.to_memory_format(self.memory_format)

    def split_at_bottleneck(self, x: Tensor, index: Tensor, label: Tensor | None) -> Split:
        """Return the bottleneck of x, and the rest of the network."""
        require_label(label, self.label_emb is not None)
        require_images(x, self.config.in_channels, self.config.stride)
        features = self.features(index).to(self.time_embed[0].weight.dtype)
        emb: Tensor = self.time_embed(features)
        if self.label_emb is not None:
            emb = emb + self.label_emb(label)
        stem, *blocks = self.input_blocks.children()
        (conv,) = stem.children()
        skips = [conv(x.contiguous(memory_format=self.memory_format))]
        for block in blocks:
            skips.append(_run(block, skips[-1], emb))

        def decode(h: Tensor) -> Tensor:
            for block, skip in zip(self.output_blocks, reversed(skips), strict=True):
                h = _run(block, torch.cat((h, skip), dim=1), emb)
            out: Tensor = self.out(h)
            return out

        return _run(self.middle_block, skips[-1], emb), decode


def _run(block: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    for layer in block.children():
        h = layer(h, emb)
    return h
