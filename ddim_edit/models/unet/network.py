"""The layers of the DDPM UNet, under diffusers' parameter names."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.models.layers import GroupNormAct, ResidualBlock
from ddim_edit.models.unet.base import Opened, UNetBase, require_images, require_label
from ddim_edit.models.unet.config import ACTIVATIONS, UNetConfig
from ddim_edit.models.unet.time_features import TimeFeatures


class _PositionalTime(TimeFeatures):
    """Sines and cosines of time 10000^(-i / (width/2 - freq_shift)), i < width/2, time [B] -> [B, width]."""

    def __init__(self, config: UNetConfig) -> None:
        self.width = config.block_out_channels[0]
        half = self.width // 2
        # Real numbers even where the network is made on "meta", since no checkpoint holds them.
        exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device="cpu")
        super().__init__(torch.exp(exponents / (half - config.freq_shift)), persistent=False)
        self.order = -1 if config.flip_sin_to_cos else 1

    def forward(self, time: Tensor) -> Tensor:
        angle = time[:, None].float() * self.weight
        waves = (angle.sin(), angle.cos())[:: self.order]
        return F.pad(torch.cat(waves, dim=1), (0, self.width % 2))

    def rescale(self, output: Tensor, time: Tensor) -> Tensor:
        return output


class _FourierTime(TimeFeatures):
    """Sines and cosines of log time at the checkpoint's own frequencies, time [B] > 0 -> [B, 2 width]."""

    def __init__(self, config: UNetConfig) -> None:
        self.width = 2 * config.block_out_channels[0]
        super().__init__(16 * torch.randn(config.block_out_channels[0], device="cpu"), persistent=True)

    def forward(self, time: Tensor) -> Tensor:
        angle = time[:, None].float().log() * self.weight * 2 * math.pi
        return torch.cat((angle.sin(), angle.cos()), dim=1)

    def rescale(self, output: Tensor, time: Tensor) -> Tensor:
        """Such a network predicts a score, whose size is 1 / time."""
        return (output / time[:, None, None, None]).to(output.dtype)


class _Embedding(nn.Module):
    """Two linear layers, float32 features [B, inputs] -> [B, time_width]."""

    def __init__(self, config: UNetConfig, inputs: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, config.time_width)
        self.linear_2 = nn.Linear(config.time_width, config.time_width)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.silu(self.linear_1(features.to(self.linear_1.weight.dtype)))
        embedding: Tensor = self.linear_2(hidden)
        return embedding


def _divide_by(scale: float) -> Callable[[Tensor], Tensor]:
    return nn.Identity() if scale == 1 else partial(torch.div, other=scale)


class _ResnetBlock(ResidualBlock):
    """Two convolutions, the second one told the time, plus a shortcut: inputs -> outputs channels."""

    def __init__(
        self,
        config: UNetConfig,
        inputs: int,
        outputs: int,
        resample: nn.Module | None = None,
        scale: float = 1,
    ) -> None:
        super().__init__()
        scaled = config.resnet_time_scale_shift == "scale_shift"
        groups, eps, activation = config.norm_num_groups, config.norm_eps, ACTIVATIONS[config.act_fn]
        self.norm1 = GroupNormAct(groups, inputs, eps, activation())
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.time_width, 2 * outputs if scaled else outputs)
        self.norm2 = GroupNormAct(groups, outputs, eps, activation(), scaled)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.resample = resample or nn.Identity()
        self.rescale = _divide_by(scale)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self.resample(self.norm1(x)))
        h = self.conv2(self.norm2(h, self.time_emb_proj(emb)))
        return self.rescale(h.add_(self.conv_shortcut(self.resample(x))))


class _Attention(nn.Module):
    """Self-attention over the pixels, plus its input: [B, width, H, W] -> same; groups None is no norm."""

    def __init__(self, config: UNetConfig, width: int, groups: int | None, scale: float = 1) -> None:
        super().__init__()
        self.head = config.attention_head_dim or width
        inner = width // self.head * self.head
        self.group_norm = nn.GroupNorm(groups, width, config.norm_eps) if groups else nn.Identity()
        self.to_q = nn.Linear(width, inner)
        self.to_k = nn.Linear(width, inner)
        self.to_v = nn.Linear(width, inner)
        self.to_out = nn.Sequential(nn.Linear(inner, width))
        self.rescale = _divide_by(scale)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            project(pixels).unflatten(2, (-1, self.head)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        h = self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        # x comes first, as a sum lies in memory as its first term does.
        return self.rescale(x + h.transpose(1, 2).unflatten(2, x.shape[2:]))


class _Resample(nn.Module):
    """A convolution after `prepare`; the time embedding is not used."""

    def __init__(self, prepare: nn.Module, conv: nn.Conv2d) -> None:
        super().__init__()
        self.prepare = prepare
        self.conv = conv

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h: Tensor = self.conv(self.prepare(x))
        return h


def _downsampler(config: UNetConfig, width: int, attends: bool) -> nn.Module:
    """Halves heights and widths; as in diffusers, only attending levels know another type than "conv"."""
    if attends and config.downsample_type == "resnet":
        return _ResnetBlock(config, width, width, nn.AvgPool2d(2))
    padding = config.downsample_padding
    prepare = nn.Identity() if padding else nn.ZeroPad2d((0, 1, 0, 1))
    return _Resample(prepare, nn.Conv2d(width, width, 3, stride=2, padding=padding))


def _upsampler(config: UNetConfig, width: int, attends: bool) -> nn.Module:
    """Doubles heights and widths; as in diffusers, only attending levels know another type than "conv"."""
    double = nn.Upsample(scale_factor=2.0, mode="nearest")
    if attends and config.upsample_type == "resnet":
        return _ResnetBlock(config, width, width, double)
    return _Resample(double, nn.Conv2d(width, width, 3, padding=1))


def _attentions(config: UNetConfig, width: int, count: int, attends: bool) -> nn.ModuleList:
    groups = config.norm_num_groups
    return nn.ModuleList(_Attention(config, width, groups) if attends else nn.Identity() for _ in range(count))


class _DownBlock(nn.Module):
    """One level on the way down: h -> every tensor it made, in order; the last one goes on."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths, width = config.block_out_channels, config.block_out_channels[level]
        attends = config.down_block_types[level] == "AttnDownBlock2D"
        inputs = [widths[max(level - 1, 0)]] + [width] * (config.layers_per_block - 1)
        self.resnets = nn.ModuleList(_ResnetBlock(config, n, width) for n in inputs)
        self.attentions = _attentions(config, width, len(inputs), attends)
        bottom = level == len(widths) - 1
        self.downsamplers = nn.ModuleList([] if bottom else [_downsampler(config, width, attends)])

    def forward(self, h: Tensor, emb: Tensor) -> list[Tensor]:
        made = []
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            h = attention(resnet(h, emb))
            made.append(h)
        return made + [downsample(h, emb) for downsample in self.downsamplers]


class _MidBlock(nn.Module):
    """The bottleneck: a residual block, an attention if the config has one, a residual block."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width, scale = config.block_out_channels[-1], config.mid_block_scale_factor
        usual = config.norm_num_groups if config.resnet_time_scale_shift == "default" else None
        groups = config.attn_norm_num_groups or usual
        attention = _Attention(config, width, groups, scale) if config.add_attention else nn.Identity()
        self.resnets = nn.ModuleList(_ResnetBlock(config, width, width, scale=scale) for _ in range(2))
        self.attentions = nn.ModuleList([attention])

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        first, last = self.resnets
        out: Tensor = last(self.attentions[0](first(h, emb)), emb)
        return out


class _UpBlock(nn.Module):
    """One level on the way up: h and the stack of skips -> h; takes its skips off the stack."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        width, top = widths[level], len(widths) - 1
        attends = config.up_block_types[level] == "AttnUpBlock2D"
        inputs = [widths[max(level - 1, 0)]] + [width] * config.layers_per_block
        skips = [width] * config.layers_per_block + [widths[min(level + 1, top)]]
        self.resnets = nn.ModuleList(_ResnetBlock(config, sum(n), width) for n in zip(inputs, skips, strict=True))
        self.attentions = _attentions(config, width, len(inputs), attends)
        self.upsamplers = nn.ModuleList([] if level == top else [_upsampler(config, width, attends)])

    def forward(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            h = attention(resnet(torch.cat((h, skips.pop()), dim=1), emb))
        for upsample in self.upsamplers:
            h = upsample(h, emb)
        return h


class UNet(UNetBase):
    """The network of one checkpoint, for inference: dropout is left out.

    x [B, in_channels, H, W], time [B] (or [1] for all rows) -> [B, out_channels, H, W], in the dtype of the
    weights, which x must have. time is in network indices, also fractional ones, and is read in float32.
    label goes to networks with classes, and only to them: [B] classes, or [B] times if `class_embed_type` is
    "timestep", or [B, time_width] if "identity". A call never waits for the device: CUDA graphs can hold it.

    Errors: ArgumentError for a shape that does not fit, or a label that is missing or not expected.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, levels = config.block_out_channels, range(len(config.block_out_channels))
        fourier = config.time_embedding_type == "fourier"
        self.time_proj = _FourierTime(config) if fourier else _PositionalTime(config)
        self.time_embedding = _Embedding(config, self.time_proj.width)
        self.class_embedding = self._class_embedding()
        self.label_is_time = config.class_embed_type == "timestep"
        self.activate = ACTIVATIONS[config.act_fn]()
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(_DownBlock(config, level) for level in levels)
        self.mid_block = _MidBlock(config) if config.mid_block_type else None
        self.up_blocks = nn.ModuleList(_UpBlock(config, level) for level in levels)
        self.conv_norm_out = GroupNormAct(config.norm_num_groups, widths[0], config.norm_eps, nn.SiLU(inplace=True))
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        self.laid_out(self.memory_format)

    def _class_embedding(self) -> nn.Module | None:
        if self.config.class_embed_type == "timestep":
            return _Embedding(self.config, self.time_proj.width)
        if self.config.class_embed_type == "identity":
            return nn.Identity()
        classes = self.config.num_class_embeds
        return nn.Embedding(classes, self.config.time_width) if classes else None

    def opened(self, x: Tensor, index: Tensor, label: Tensor | None) -> Opened:
        """The bottleneck, and what makes an output of it."""
        emb = self.embed(index, label)
        h, skips = self.encode(x, emb)
        return self.middle(h, emb), lambda h: self.time_proj.rescale(self.decode(h, skips, emb), index)

    def embed(self, time: Tensor, label: Tensor | None = None) -> Tensor:
        """Time and label as [B, time_width], activated once for all the residual blocks."""
        require_label(label, self.class_embedding is not None)
        emb = self.time_embedding(self.time_proj(time))
        if label is not None and self.class_embedding is not None:
            features = self.time_proj(label) if self.label_is_time else label
            emb = emb + self.class_embedding(features).to(emb.dtype)
        activated: Tensor = self.activate(emb)
        return activated

    def encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The bottleneck [B, C, H / stride, W / stride] of x, and the skips, of which it is the last."""
        require_images(x, self.config.in_channels, self.config.stride)
        if self.config.center_input_sample:
            x = 2 * x - 1
        skips = [self.conv_in(x.contiguous(memory_format=self.memory_format))]
        for block in self.down_blocks:
            skips += block(skips[-1], emb)
        return skips[-1], skips

    def middle(self, h: Tensor, emb: Tensor) -> Tensor:
        """The bottleneck [B, C, h, w] after the middle block, in the same shape: the h of h-space."""
        return h if self.mid_block is None else self.mid_block(h, emb)

    def decode(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """The output [B, out_channels, H, W] from a bottleneck and the skips, which are left as they are."""
        skips = list(skips)
        for block in self.up_blocks:
            h = block(h, skips, emb)
        out: Tensor = self.conv_out(self.conv_norm_out(h))
        return out
