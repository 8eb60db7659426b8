"""The UNet of DDPM, under the parameter names of diffusers' `UNet2DModel`, and its loader.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, "Score-Based Generative Modeling through Stochastic Differential
    Equations", ICLR 2021, arXiv:2011.13456.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.models.layers import GroupNormAct, ResidualBlock, ResidualSum, SinusoidalFeatures, TimeFeatures
from ddim_edit.models.pretrained import read_component_weights, read_config
from ddim_edit.models.unet.base import Split, UNetBase, require_images, require_label
from ddim_edit.models.unet.config import ACTIVATIONS, UNetConfig
from ddim_edit.models.weights import fill


class FourierFeatures(TimeFeatures):
    """Sines and cosines of log time at the checkpoint's own frequencies, time [B] > 0 -> float32 [B, 2 count].

    Args:
        count: number of frequencies.
    """

    def __init__(self, count: int) -> None:
        self.width = 2 * count
        super().__init__(16 * torch.randn(count, device="cpu"), persistent=True)

    def forward(self, time: Tensor) -> Tensor:
        """Return the features."""
        angle = time[:, None].float().log() * self.weight * 2 * math.pi
        return torch.cat((angle.sin(), angle.cos()), dim=1)


class TimeEmbedding(nn.Module):
    """Two linear layers, float32 features [B, inputs] -> [B, time_width]."""

    def __init__(self, config: UNetConfig, inputs: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, config.time_width)
        self.linear_2 = nn.Linear(config.time_width, config.time_width)

    def forward(self, features: Tensor) -> Tensor:
        """Return the embedding in the dtype of the weights."""
        hidden = F.silu(self.linear_1(features.to(self.linear_1.weight.dtype)))
        embedding: Tensor = self.linear_2(hidden)
        return embedding


class ResnetBlock(ResidualBlock):
    """Two convolutions, the second one with the embedding, plus a shortcut: [B, inputs, H, W] -> [B, outputs, H', W'].

    h = conv2(norm2(conv1(resample(norm1(x))), emb)), out = (h + shortcut(resample(x))) / scale; the norms activate.
    """

    normed = (("conv1", "norm2"),)
    summed = ("conv2", "conv_shortcut")

    def __init__(
        self,
        config: UNetConfig,
        inputs: int,
        outputs: int,
        resample: nn.Module | None = None,
        scale: float = 1,
    ) -> None:
        super().__init__()
        scale_shift = config.resnet_time_scale_shift == "scale_shift"
        groups = config.norm_num_groups
        eps = config.norm_eps
        activation = ACTIVATIONS[config.act_fn]
        self.norm1 = GroupNormAct(groups, inputs, eps, activation())
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.time_width, 2 * outputs if scale_shift else outputs)
        self.norm2 = GroupNormAct(groups, outputs, eps, activation(), scale_shift)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.resample = resample or nn.Identity()
        self.residual_sum = ResidualSum(divisor=scale)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the features."""
        h = self.conv1(self.resample(self.norm1(x)))
        h = self.conv2(self.norm2(h, self.time_emb_proj(emb)))
        out: Tensor = self.residual_sum(h, self.conv_shortcut(self.resample(x)))
        return out


class UNetAttention(nn.Module):
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
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        pixels = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            project(pixels).unflatten(2, (-1, self.head)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        h = self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        # x comes first, because a sum has the memory layout of its first term.
        out: Tensor = x + h.transpose(1, 2).unflatten(2, x.shape[2:])
        return out if self.scale == 1 else out / self.scale


class ResampleConv(nn.Module):
    """A convolution after `prepare`; the time embedding is not used."""

    def __init__(self, prepare: nn.Module, conv: nn.Conv2d) -> None:
        super().__init__()
        # Registered right before the convolution, which is how `cpu_layers` finds the two.
        self.prepare = prepare
        self.conv = conv

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the features."""
        h: Tensor = self.conv(self.prepare(x))
        return h


def _downsampler(config: UNetConfig, width: int, attends: bool) -> nn.Module:
    """Return what halves heights and widths."""
    # As in diffusers, only attending levels know another type than "conv".
    if attends and config.downsample_type == "resnet":
        return ResnetBlock(config, width, width, nn.AvgPool2d(2))
    padding = config.downsample_padding
    # TensorFlow's "same" padding of DDPM: to the right and below alone.
    prepare = nn.Identity() if padding else nn.ZeroPad2d((0, 1, 0, 1))
    return ResampleConv(prepare, nn.Conv2d(width, width, 3, stride=2, padding=padding))


def _upsampler(config: UNetConfig, width: int, attends: bool) -> nn.Module:
    """Return what doubles heights and widths."""
    double = nn.Upsample(scale_factor=2.0, mode="nearest")
    if attends and config.upsample_type == "resnet":
        return ResnetBlock(config, width, width, double)
    return ResampleConv(double, nn.Conv2d(width, width, 3, padding=1))


def _attentions(config: UNetConfig, width: int, count: int, attends: bool) -> nn.ModuleList:
    if not attends:
        return nn.ModuleList(nn.Identity() for _ in range(count))
    return nn.ModuleList(UNetAttention(config, width, config.norm_num_groups) for _ in range(count))


class DownBlock(nn.Module):
    """One level of the encoder: h -> the outputs of its layers, in order; the last one goes to the next level."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels
        width = config.block_out_channels[level]
        attends = config.down_block_types[level] == "AttnDownBlock2D"
        inputs = [widths[max(level - 1, 0)]] + [width] * (config.layers_per_block - 1)
        self.resnets = nn.ModuleList(ResnetBlock(config, n, width) for n in inputs)
        self.attentions = _attentions(config, width, len(inputs), attends)
        bottom = level == len(widths) - 1
        self.downsamplers = nn.ModuleList([] if bottom else [_downsampler(config, width, attends)])

    def forward(self, h: Tensor, emb: Tensor) -> list[Tensor]:
        """Return the skips of this level."""
        skips = []
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            h = attention(resnet(h, emb))
            skips.append(h)
        return skips + [downsample(h, emb) for downsample in self.downsamplers]


class MidBlock(nn.Module):
    """The bottleneck: a residual block, an attention if the config has one, a residual block."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.block_out_channels[-1]
        scale = config.mid_block_scale_factor
        # As in diffusers, where the middle attention beside scale-shift norms has a norm only if the config names one.
        default = config.norm_num_groups if config.resnet_time_scale_shift == "default" else None
        groups = config.attn_norm_num_groups or default
        attention = UNetAttention(config, width, groups, scale) if config.add_attention else nn.Identity()
        self.resnets = nn.ModuleList(ResnetBlock(config, width, width, scale=scale) for _ in range(2))
        self.attentions = nn.ModuleList([attention])

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Return the bottleneck."""
        first, last = self.resnets
        out: Tensor = last(self.attentions[0](first(h, emb)), emb)
        return out


class UpBlock(nn.Module):
    """One level of the decoder: h and the stack of skips -> h; takes its skips off the stack."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        width = widths[level]
        top = len(widths) - 1
        attends = config.up_block_types[level] == "AttnUpBlock2D"
        inputs = [widths[max(level - 1, 0)]] + [width] * config.layers_per_block
        skips = [width] * config.layers_per_block + [widths[min(level + 1, top)]]
        self.resnets = nn.ModuleList()
        for below, skip in zip(inputs, skips, strict=True):
            self.resnets.append(ResnetBlock(config, below + skip, width))
        self.attentions = _attentions(config, width, len(inputs), attends)
        self.upsamplers = nn.ModuleList([] if level == top else [_upsampler(config, width, attends)])

    def forward(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Return the features."""
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            h = attention(resnet(torch.cat((h, skips.pop()), dim=1), emb))
        for upsample in self.upsamplers:
            h = upsample(h, emb)
        return h


class UNet(UNetBase):
    """The network of one checkpoint, for inference: without dropout.

    x [B, in_channels, H, W], index [B] (or [1] for all rows) -> [B, out_channels, H, W], in the dtype of the weights,
    which x must have. Indices may be fractional and are read in float32. label goes to networks with classes, and only
    to them: [B] classes, or [B] times if `class_embed_type` is "timestep", or [B, time_width] if it is "identity". A
    call never waits for the device: CUDA graphs can hold it.

    Args:
        config: its layers.

    Raises:
        ArgumentError: when called, a shape that does not fit, or a label that is missing or not expected.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        levels = range(len(config.block_out_channels))
        self.predicts_score = config.time_embedding_type == "fourier"
        if self.predicts_score:
            self.time_proj: FourierFeatures | SinusoidalFeatures = FourierFeatures(widths[0])
        else:
            self.time_proj = SinusoidalFeatures(widths[0], config.freq_shift, config.flip_sin_to_cos)
        self.time_embedding = TimeEmbedding(config, self.time_proj.width)
        self.class_embedding: nn.Module | None = None
        self.label_is_time = config.class_embed_type == "timestep"
        if self.label_is_time:
            self.class_embedding = TimeEmbedding(config, self.time_proj.width)
        elif config.class_embed_type == "identity":
            self.class_embedding = nn.Identity()
        elif config.num_class_embeds:
            self.class_embedding = nn.Embedding(config.num_class_embeds, config.time_width)
        self.activate = ACTIVATIONS[config.act_fn]()
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in levels)
        self.mid_block = MidBlock(config) if config.mid_block_type else None
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in levels)
        self.conv_norm_out = GroupNormAct(config.norm_num_groups, widths[0], config.norm_eps, nn.SiLU(inplace=True))
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        self.to_memory_format(self.memory_format)

    def split_at_bottleneck(self, x: Tensor, index: Tensor, label: Tensor | None) -> Split:
        """Return the bottleneck of x, and the rest of the network."""
        emb = self.embed(index, label)
        h, skips = self.encode(x, emb)

        def decode(h: Tensor) -> Tensor:
            output = self.decode(h, skips, emb)
            if not self.predicts_score:
                return output
            # Networks of Song et al. (2021) with Fourier features predict a score, whose size is 1 / time.
            return (output / index[:, None, None, None]).to(output.dtype)

        return self.middle(h, emb), decode

    def embed(self, time: Tensor, label: Tensor | None = None) -> Tensor:
        """Return time and label as [B, time_width], activated once for all residual blocks."""
        require_label(label, self.class_embedding is not None)
        emb = self.time_embedding(self.time_proj(time))
        if label is not None and self.class_embedding is not None:
            features = self.time_proj(label) if self.label_is_time else label
            emb = emb + self.class_embedding(features).to(emb.dtype)
        activated: Tensor = self.activate(emb)
        return activated

    def encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features [B, C, H / stride, W / stride] of x, and the skips, of which they are the last."""
        require_images(x, self.config.in_channels, self.config.stride)
        if self.config.center_input_sample:
            x = 2 * x - 1
        skips = [self.conv_in(x.contiguous(memory_format=self.memory_format))]
        for block in self.down_blocks:
            skips += block(skips[-1], emb)
        return skips[-1], skips

    def middle(self, h: Tensor, emb: Tensor) -> Tensor:
        """Return the bottleneck [B, C, h, w] after the middle block: the h of h-space."""
        return h if self.mid_block is None else self.mid_block(h, emb)

    def decode(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Return the output [B, out_channels, H, W] of a bottleneck and the skips, which are left as they are."""
        skips = list(skips)
        for block in self.up_blocks:
            h = block(h, skips, emb)
        out: Tensor = self.conv_out(self.conv_norm_out(h))
        return out


def load_unet(folder: Path) -> UNet:
    """Load the network in a diffusers `unet` folder, on the CPU in float32, in eval mode, without gradients.

    Args:
        folder: has a config.json and the weights in safetensors, in shards or not; old names of attention layers are
            understood.

    Raises:
        ModelError: a file that is missing, broken or a pickle; a config that is not implemented; tensors that
            are missing, unknown or of another shape.
    """
    record = read_config(folder / "config.json")
    config = UNetConfig.from_dict(record)
    weights = read_component_weights(folder, record, quick=True)
    return fill(lambda: UNet(config), weights.tensors, weights.source)
