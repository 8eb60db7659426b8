"""The UNet of denoising-diffusion-pytorch in its own parameter layout, for inference, in torch alone.

Its layers are read from the shapes of its tensors. They are those of the package's releases 1.9 to 2.3 (Phil Wang):
post-norm residual blocks, linear attention on the high levels, and learned memories beside the keys and values.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
    Shen, Zhang, Zhao, Yi, Li, "Efficient Attention: Attention with Linear Complexities", WACV 2021, arXiv:1812.01243.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.errors import ModelError
from ddim_edit.models.layers import ResidualBlock, ResidualSum, TimeFeatures
from ddim_edit.models.unet.base import Split, UNetBase, require_images, require_label

Shapes = Mapping[str, torch.Size]
Norm = Callable[[int], nn.Module]


class ChannelRMSNorm(nn.Module):
    """Scales each pixel's channels to length sqrt(width), times g.

    torch.nn.RMSNorm normalises the last axis, and calls its parameter `weight`.

    References:
        Zhang, Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, arXiv:1910.07467.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, width, H, W], normalised."""
        return F.normalize(x, dim=1) * self.g * math.sqrt(x.shape[1])


@dataclass(frozen=True)
class AttentionConfig:
    """How one level attends.

    Args:
        full: whether every pixel attends to all pixels; otherwise attention is linear in the pixels.
        heads: number of heads.
        width: width of a head.
        memories: number of learned keys and values.
    """

    full: bool
    heads: int
    width: int
    memories: int


@dataclass(frozen=True)
class DenoisingUNetConfig:
    """The layers of one network: those that the shapes of a state dict show, and groups and theta, which they do not.

    Args:
        channels: of the input.
        out_channels: of the output.
        widths: of the first convolution and of every level's output.
        levels: how every level attends.
        features: number of features that time is first turned into.
        time_width: width of the time embedding.
        learned_frequencies: whether the frequencies of those features are in the file.
        norm: makes the norms of the residual blocks: RMSNorm from release 2.0 on, GroupNorm before.
        theta: the longest period of the features, over 2 pi, where they are not learned.
    """

    channels: int
    out_channels: int
    widths: tuple[int, ...]
    levels: tuple[AttentionConfig, ...]
    features: int
    time_width: int
    learned_frequencies: bool
    norm: Norm
    theta: float

    @classmethod
    def from_shapes(cls, shapes: Shapes, groups: int = 8, theta: float = 10000.0) -> Self:
        """Return the layers of a state dict with these shapes.

        Args:
            shapes: by the network's own names.
            groups: of GroupNorm, if the network has any.
            theta: as above.

        Raises:
            ModelError: a tensor that every such network has is missing or has other axes, or groups do not fit.
        """
        places: list[str] = []
        while f"downs.{len(places)}.2.norm.g" in shapes:
            places.append(f"downs.{len(places)}")
        if not places:
            raise _missing("downs.0.2.norm.g")
        levels = []
        for place in places:
            # The projection of linear attention is followed by a norm, so that its weight has another name.
            full = f"{place}.2.to_out.weight" in shapes
            _, heads, first_axis, second_axis = _shape(shapes, f"{place}.2.mem_kv", 4)
            # Full attention keeps its memories as [number, width], linear attention as [width, number].
            memories, width = (first_axis, second_axis) if full else (second_axis, first_axis)
            levels.append(AttentionConfig(full, heads, width, memories))
        resamplers = [f"{place}.3.1.weight" for place in places[:-1]] + [f"{places[-1]}.3.weight"]
        first = _shape(shapes, "init_conv.weight", 4)
        widths = (first[0], *(_shape(shapes, name, 4)[0] for name in resamplers))
        time_width, features = _shape(shapes, "time_mlp.1.weight", 2)
        norm: Norm = ChannelRMSNorm
        if "mid_block1.block1.norm.weight" in shapes:  # only GroupNorm has a weight
            if any(width % groups for width in widths):
                raise ModelError(
                    f"resnet_block_groups must divide the widths {widths}, which {groups} does not. Give the one of "
                    "its training."
                )
            norm = partial(nn.GroupNorm, groups)
        return cls(
            channels=first[1],
            out_channels=_shape(shapes, "final_conv.weight", 4)[0],
            widths=widths,
            levels=tuple(levels),
            features=features,
            time_width=time_width,
            learned_frequencies="time_mlp.0.weights" in shapes,
            norm=norm,
            theta=theta,
        )

    @property
    def stride(self) -> int:
        """Heights and widths must be multiples of it: every level but the last halves them."""
        return 1 << (len(self.levels) - 1)


def _shape(shapes: Shapes, name: str, axes: int) -> torch.Size:
    if name not in shapes:
        raise _missing(name)
    if len(shapes[name]) != axes:
        raise ModelError(
            f"{name} must have {axes} axes in a network of images, but its shape is {list(shapes[name])}. Use another "
            "checkpoint."
        )
    return shapes[name]


def _missing(name: str) -> ModelError:
    return ModelError(
        f"This denoising-diffusion-pytorch checkpoint has no {name}. Take one that release 1.9 or a later one of the "
        "package wrote; earlier ones do not tell how they attend."
    )


class WaveFeatures(TimeFeatures):
    """Sines and cosines of time theta^(-i / (count - 1)), i < count, time [B] -> float32 [B, 2 count]."""

    def __init__(self, count: int, theta: float) -> None:
        # Real numbers even where the network is made on "meta", since no checkpoint holds them. Multiplied in the
        # order of the package: another one rounds otherwise.
        i = torch.arange(count, dtype=torch.float32, device="cpu")
        super().__init__(torch.exp(-math.log(theta) / max(count - 1, 1) * i), persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        """Return the features."""
        angle = time[:, None].float() * self.weight
        return torch.cat((angle.sin(), angle.cos()), dim=1)


class LearnedWaveFeatures(nn.Module):
    """Time, then its sines and cosines at the checkpoint's own frequencies: [B] -> float32 [B, 1 + 2 count]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(count))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.weights.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not exact.is_meta:  # frequencies stay in float32 whatever the network is cast to
            self.weights.data = exact.to(self.weights.device)
        return self

    def forward(self, time: Tensor) -> Tensor:
        """Return the features."""
        time = time[:, None].float()
        angle = time * self.weights * 2 * math.pi
        return torch.cat((time, angle.sin(), angle.cos()), dim=1)


class DenoisingConv(nn.Module):
    """A convolution, a norm, a scale and shift if given, and SiLU: [B, inputs, H, W] -> [B, outputs, H, W]."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = norm(outputs)

    def forward(self, x: Tensor, scale_shift: Tensor | None = None) -> Tensor:
        """Return the features."""
        h: Tensor = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift.chunk(2, dim=1)
            h = torch.addcmul(shift, h, scale + 1)
        return F.silu(h)


class DenoisingResBlock(ResidualBlock):
    """Two convolutions, the first one with the embedding, plus a shortcut: inputs -> outputs channels."""

    normed = (("block1.proj", "block1.norm"), ("block2.proj", "block2.norm"))
    summed = ("block2", "res_conv")

    def __init__(self, config: DenoisingUNetConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(config.time_width, 2 * outputs))
        self.block1 = DenoisingConv(inputs, outputs, config.norm)
        self.block2 = DenoisingConv(outputs, outputs, config.norm)
        self.res_conv = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.residual_sum = ResidualSum()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the features."""
        h = self.block2(self.block1(x, self.mlp(emb)[:, :, None, None]))
        out: Tensor = self.residual_sum(h, self.res_conv(x))
        return out


class MemoryAttention(nn.Module):
    """Base of both attentions: normalised pixels as queries, keys and values, with memories before keys and values."""

    def __init__(self, width: int, config: AttentionConfig, memories: tuple[int, int], out: nn.Module) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = ChannelRMSNorm(width)
        self.mem_kv = nn.Parameter(torch.empty(2, config.heads, *memories))
        self.to_qkv = nn.Conv2d(width, 3 * config.heads * config.width, 1, bias=False)
        self.to_out = out

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, width, H, W] plus its attention."""
        qkv = self.to_qkv(self.norm(x)).reshape(len(x), 3, self.heads, -1, x.shape[2] * x.shape[3])
        out: Tensor = self.to_out(self._attend(*qkv.unbind(1)).reshape(len(x), -1, *x.shape[2:]))
        return out + x

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention of q, k and v [B, heads, head width, H W], in the same shape."""
        raise NotImplementedError

    def _with_memories(self, k: Tensor, v: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        memory_k, memory_v = (memory.expand(len(k), -1, -1, -1) for memory in self.mem_kv)
        return torch.cat((memory_k, k), axis), torch.cat((memory_v, v), axis)


class FullAttention(MemoryAttention):
    """Attention of every pixel to all pixels and all memories."""

    def __init__(self, width: int, config: AttentionConfig) -> None:
        out = nn.Conv2d(config.heads * config.width, width, 1)
        super().__init__(width, config, (config.memories, config.width), out)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = self._with_memories(k.transpose(2, 3), v.transpose(2, 3), 2)
        return F.scaled_dot_product_attention(q.transpose(2, 3), k, v).transpose(2, 3)


class LinearAttention(MemoryAttention):
    """Softmax over the channels of q and over the pixels of k, so that k v^T can come first, linear in the pixels."""

    def __init__(self, width: int, config: AttentionConfig) -> None:
        out = nn.Sequential(nn.Conv2d(config.heads * config.width, width, 1), ChannelRMSNorm(width))
        super().__init__(width, config, (config.width, config.memories), out)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = self._with_memories(k, v, 3)
        context = v @ k.softmax(dim=3).transpose(2, 3) / math.sqrt(q.shape[2])
        return context @ q.softmax(dim=2)


class DenoisingLevel(nn.ModuleList):
    """Two residual blocks, an attention and what leads to the next level, under the package's names 0 to 3."""

    def __init__(
        self, config: DenoisingUNetConfig, inputs: int, width: int, attention: AttentionConfig, resample: nn.Module
    ) -> None:
        blocks = [DenoisingResBlock(config, inputs, width) for _ in range(2)]
        attend = FullAttention(width, attention) if attention.full else LinearAttention(width, attention)
        super().__init__([*blocks, attend, resample])


class DenoisingDown(DenoisingLevel):
    """One level of the encoder."""

    def forward(self, h: Tensor, emb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the two skips, and the input of the next level."""
        block1, block2, attend, resample = self
        first = block1(h, emb)
        second = attend(block2(first, emb))
        return first, second, resample(second)


class DenoisingUp(DenoisingLevel):
    """One level of the decoder."""

    def forward(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Return the input of the next level; takes its skips off the stack."""
        block1, block2, attend, resample = self
        h = block1(torch.cat((h, skips.pop()), dim=1), emb)
        h = attend(block2(torch.cat((h, skips.pop()), dim=1), emb))
        out: Tensor = resample(h)
        return out


class DenoisingUNet(UNetBase):
    """The network of one checkpoint, for inference, without classes and self-conditioning.

    x [B, channels, H, W], index [B] (or [1] for all rows) -> [B, out_channels, H, W], in the dtype of the weights,
    which x must have. The index may be fractional and is read in float32. The bottleneck h is the output of
    `mid_block2`.

    Args:
        config: its layers.

    Raises:
        ArgumentError: when called, a shape that does not fit, or a label.
    """

    def __init__(self, config: DenoisingUNetConfig) -> None:
        super().__init__()
        self.config = config
        first, last = config.widths[0], config.widths[-1]
        frequencies = config.features // 2
        self.time_mlp = nn.Sequential(
            LearnedWaveFeatures(frequencies) if config.learned_frequencies else WaveFeatures(frequencies, config.theta),
            nn.Linear(config.features, config.time_width),
            nn.GELU(),
            nn.Linear(config.time_width, config.time_width),
        )
        self.init_conv = nn.Conv2d(config.channels, first, 7, padding=3)

        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        levels = list(zip(pairwise(config.widths), config.levels, strict=True))
        for level, ((here, below), attention) in enumerate(levels):
            if level < len(levels) - 1:
                resample: nn.Module = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * here, below, 1))
            else:
                resample = nn.Conv2d(here, below, 3, padding=1)
            self.downs.append(DenoisingDown(config, here, here, attention, resample))
        self.mid_block1 = DenoisingResBlock(config, last, last)
        self.mid_attn = FullAttention(last, config.levels[-1])
        self.mid_block2 = DenoisingResBlock(config, last, last)
        for level, ((above, here), attention) in reversed(list(enumerate(levels))):
            conv = nn.Conv2d(here, above, 3, padding=1)
            resample = nn.Sequential(nn.Upsample(scale_factor=2.0), conv) if level else conv
            self.ups.append(DenoisingUp(config, here + above, here, attention, resample))

        self.final_res_block = DenoisingResBlock(config, 2 * first, first)
        self.final_conv = nn.Conv2d(first, config.out_channels, 1)

    def split_at_bottleneck(self, x: Tensor, index: Tensor, label: Tensor | None) -> Split:
        """Return the bottleneck of x, and the rest of the network."""
        require_images(x, self.config.channels, self.config.stride)
        require_label(label, classes=False)
        # The features of time leave float32 only here.
        features = self.time_mlp[0](index).to(self.final_conv.weight.dtype)
        emb: Tensor = self.time_mlp[1:](features)
        h = self.init_conv(x)
        skips = [h]
        for down in self.downs:
            first, second, h = down(h, emb)
            skips += [first, second]
        h = self.mid_block2(self.mid_attn(self.mid_block1(h, emb)), emb)

        def decode(h: Tensor) -> Tensor:
            rest = list(skips)
            for up in self.ups:
                h = up(h, rest, emb)
            out: Tensor = self.final_conv(self.final_res_block(torch.cat((h, rest.pop()), dim=1), emb))
            return out

        return h, decode
