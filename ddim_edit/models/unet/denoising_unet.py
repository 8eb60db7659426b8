"""The UNet of denoising-diffusion-pytorch in its own parameter layout, for inference, in torch alone.

Its layout is read from the shapes of its tensors. Network: Ho, Jain, Abbeel (2020), with the linear attention of Shen
et al. (2021) and memories beside the keys, as in the package's releases 1.9 to 2.3 (Phil Wang).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise, takewhile
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.errors import ModelError
from ddim_edit.models.layers import ResidualBlock
from ddim_edit.models.unet.base import Opened, UNetBase, require_images, require_label
from ddim_edit.models.unet.time_features import TimeFeatures

Shapes = Mapping[str, torch.Size]
Norm = Callable[[int], nn.Module]


class RMSNorm(nn.Module):
    """Each pixel's channels at length sqrt(width), times g; not torch's, which knows neither the axis nor the name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """X [B, width, H, W] normalised."""
        return F.normalize(x, dim=1) * self.g * math.sqrt(x.shape[1])


@dataclass(frozen=True)
class Heads:
    """How one level attends: to all pixels (full) or in linear time, its heads, their width and their memories."""

    full: bool
    count: int
    width: int
    memories: int

    @classmethod
    def of(cls, shapes: Shapes, place: str) -> Self:
        """As the memories of the attention at this place tell.

        Raises:
            ModelError: there are none.
        """
        full = f"{place}.to_out.weight" in shapes
        _, count, *rest = _shape(shapes, f"{place}.mem_kv", 4)
        memories, width = rest if full else rest[::-1]
        return cls(full, count, width, memories)


@dataclass(frozen=True)
class Layout:
    """What the shapes of a state dict tell of the network, and the two things that they do not: groups and theta.

    Attributes:
        channels: of the input.
        answers: channels of the output.
        widths: of the first convolution and of every level's output.
        levels: how every level attends.
        features: how many numbers the time is first turned into.
        time: width of the time embedding.
        learned: whether the frequencies of those features are in the file.
        norm: of the residual blocks: RMSNorm from release 2.0 on, GroupNorm before.
        theta: the longest period of the features, over 2 pi, where they are not learned.
    """

    channels: int
    answers: int
    widths: tuple[int, ...]
    levels: tuple[Heads, ...]
    features: int
    time: int
    learned: bool
    norm: Norm
    theta: float

    @classmethod
    def of(cls, shapes: Shapes, groups: int = 8, theta: float = 10000.0) -> Self:
        """The layout of a state dict with these shapes by the network's own names; groups are GroupNorm's, if any.

        Raises:
            ModelError: a tensor that every such network has is missing or has other axes, or groups do not fit.
        """
        places = list(takewhile(lambda place: f"{place}.2.norm.g" in shapes, (f"downs.{i}" for i in count())))
        if not places:
            raise _missing("downs.0.2.norm.g")
        down = [f"{place}.3.1.weight" for place in places[:-1]] + [f"{places[-1]}.3.weight"]
        first = _shape(shapes, "init_conv.weight", 4)
        widths = (first[0], *(_shape(shapes, name, 4)[0] for name in down))
        time, features = _shape(shapes, "time_mlp.1.weight", 2)
        return cls(
            channels=first[1],
            answers=_shape(shapes, "final_conv.weight", 4)[0],
            widths=widths,
            levels=tuple(Heads.of(shapes, f"{place}.2") for place in places),
            features=features,
            time=time,
            learned="time_mlp.0.weights" in shapes,
            norm=_norm(shapes, groups, widths),
            theta=theta,
        )

    @property
    def stride(self) -> int:
        """What heights and widths must be multiples of: every level but the last halves them."""
        return 1 << (len(self.levels) - 1)


def _norm(shapes: Shapes, groups: int, widths: tuple[int, ...]) -> Norm:
    """Which norm the blocks have: only GroupNorm has a weight."""
    if "mid_block1.block1.norm.weight" not in shapes:
        return RMSNorm
    if any(width % groups for width in widths):
        raise ModelError(f"'resnet_block_groups' that divide {widths}", str(groups), "name the right number")
    return partial(nn.GroupNorm, groups)


def _shape(shapes: Shapes, name: str, axes: int) -> torch.Size:
    if name not in shapes:
        raise _missing(name)
    if len(shapes[name]) != axes:
        given = f"a {name} of shape {list(shapes[name])}"
        raise ModelError(f"a network of pictures, whose {name} has {axes} axes", given, "use another checkpoint")
    return shapes[name]


def _missing(name: str) -> ModelError:
    remedy = "take one that release 1.9 or a later one of the package wrote; earlier ones do not tell how they attend"
    return ModelError(f"a denoising-diffusion-pytorch network with a {name}", "one without it", remedy)


class _WaveTime(TimeFeatures):
    """Sines and cosines of time theta^(-i / (count - 1)), i < count, time [B] -> float32 [B, 2 count]."""

    def __init__(self, count: int, theta: float) -> None:
        # Real numbers even where the network is made on "meta", since no checkpoint holds them.
        i = torch.arange(count, dtype=torch.float32, device="cpu")
        super().__init__(torch.exp(-math.log(theta) / max(count - 1, 1) * i), persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        angle = time[:, None].float() * self.weight
        return torch.cat((angle.sin(), angle.cos()), dim=1)


class _LearnedTime(nn.Module):
    """Time itself, then its sines and cosines at the checkpoint's own frequencies: [B] -> float32 [B, 1 + 2 count]."""

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
        time = time[:, None].float()
        angle = time * self.weights * 2 * math.pi
        return torch.cat((time, angle.sin(), angle.cos()), dim=1)


class _Block(nn.Module):
    """A convolution, a norm, a scale and shift by time if there is one, and an activation."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = norm(outputs)

    def forward(self, x: Tensor, scale_shift: Tensor | None = None) -> Tensor:
        h: Tensor = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift.chunk(2, dim=1)
            h = torch.addcmul(shift, h, scale + 1)
        return F.silu(h)


class _ResnetBlock(ResidualBlock):
    """Two blocks, the first one told the time, plus a shortcut: inputs -> outputs channels."""

    def __init__(self, layout: Layout, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(layout.time, 2 * outputs))
        self.block1 = _Block(inputs, outputs, layout.norm)
        self.block2 = _Block(outputs, outputs, layout.norm)
        self.res_conv = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.block2(self.block1(x, self.mlp(emb)[:, :, None, None]))
        out: Tensor = h + self.res_conv(x)
        return out


class _Attention(nn.Module):
    """What both attentions share: normalised pixels as queries, keys and values, memories before the last two."""

    def __init__(self, width: int, heads: Heads, memories: tuple[int, int], out: nn.Module) -> None:
        super().__init__()
        self.heads = heads.count
        self.norm = RMSNorm(width)
        self.mem_kv = nn.Parameter(torch.empty(2, heads.count, *memories))
        self.to_qkv = nn.Conv2d(width, 3 * heads.count * heads.width, 1, bias=False)
        self.to_out = out

    def forward(self, x: Tensor) -> Tensor:
        """X [B, width, H, W] plus what it attends to."""
        qkv = self.to_qkv(self.norm(x)).reshape(len(x), 3, self.heads, -1, x.shape[2] * x.shape[3])
        out: Tensor = self.to_out(self._attended(*qkv.unbind(1)).reshape(len(x), -1, *x.shape[2:]))
        return out + x

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, heads, head width, H W] each -> the same."""
        raise NotImplementedError

    def _remembering(self, kv: tuple[Tensor, Tensor], axis: int) -> tuple[Tensor, ...]:
        pairs = zip(self.mem_kv, kv, strict=True)
        return tuple(torch.cat((memory.expand(len(part), -1, -1, -1), part), axis) for memory, part in pairs)


class _FullAttention(_Attention):
    """Every pixel attends to all pixels and all memories."""

    def __init__(self, width: int, heads: Heads) -> None:
        out = nn.Conv2d(heads.count * heads.width, width, 1)
        super().__init__(width, heads, (heads.memories, heads.width), out)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = self._remembering((k.transpose(2, 3), v.transpose(2, 3)), 2)
        return F.scaled_dot_product_attention(q.transpose(2, 3), k, v).transpose(2, 3)


class _LinearAttention(_Attention):
    """Softmax over the channels of q and over the pixels of k, so that k v^T can come first, linear in the pixels."""

    def __init__(self, width: int, heads: Heads) -> None:
        out = nn.Sequential(nn.Conv2d(heads.count * heads.width, width, 1), RMSNorm(width))
        super().__init__(width, heads, (heads.width, heads.memories), out)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = self._remembering((k, v), 3)
        context = v @ k.softmax(dim=3).transpose(2, 3) / math.sqrt(q.shape[2])
        return context @ q.softmax(dim=2)


class _Level(nn.ModuleList):
    """Two residual blocks of `inputs` channels, an attention and what leads to the next level."""

    def __init__(self, layout: Layout, inputs: int, width: int, heads: Heads, resample: nn.Module) -> None:
        blocks = [_ResnetBlock(layout, inputs, width) for _ in range(2)]
        attention = _FullAttention(width, heads) if heads.full else _LinearAttention(width, heads)
        super().__init__([*blocks, attention, resample])


class _Down(_Level):
    def forward(self, h: Tensor, emb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The two skips, and what goes on."""
        block1, block2, attend, resample = self
        first = block1(h, emb)
        second = attend(block2(first, emb))
        return first, second, resample(second)


class _Up(_Level):
    def forward(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """What goes on; takes its skips off the stack."""
        block1, block2, attend, resample = self
        h = block1(torch.cat((h, skips.pop()), dim=1), emb)
        h = attend(block2(torch.cat((h, skips.pop()), dim=1), emb))
        out: Tensor = resample(h)
        return out


def _downs(layout: Layout) -> nn.ModuleList:
    pairs = list(pairwise(layout.widths))
    halve = [nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * here, there, 1)) for here, there in pairs[:-1]]
    parts = zip(pairs, layout.levels, [*halve, nn.Conv2d(*pairs[-1], 3, padding=1)], strict=True)
    return nn.ModuleList(_Down(layout, here, here, heads, resample) for (here, _), heads, resample in parts)


def _ups(layout: Layout) -> nn.ModuleList:
    pairs = list(pairwise(layout.widths[::-1]))
    convs = [nn.Conv2d(here, there, 3, padding=1) for here, there in pairs]
    double = [nn.Sequential(nn.Upsample(scale_factor=2.0), conv) for conv in convs[:-1]]
    parts = zip(pairs, layout.levels[::-1], [*double, convs[-1]], strict=True)
    return nn.ModuleList(_Up(layout, sum(pair), pair[0], heads, resample) for pair, heads, resample in parts)


class DenoisingUNet(UNetBase):
    """The network of one checkpoint, for inference, without classes and self-conditioning.

    x [B, channels, H, W], index [B] (or [1] for all rows) -> [B, answers, H, W], in the dtype of the weights, which x
    must have. The index may be fractional and is read in float32. The bottleneck h is the output of `mid_block2`.

    Raises:
        ArgumentError: a shape that does not fit, or a label.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        first, last = layout.widths[0], layout.widths[-1]
        pairs = layout.features // 2
        waves = _LearnedTime(pairs) if layout.learned else _WaveTime(pairs, layout.theta)
        widen, mix = nn.Linear(layout.features, layout.time), nn.Linear(layout.time, layout.time)
        self.time_mlp = nn.Sequential(waves, widen, nn.GELU(), mix)
        self.init_conv = nn.Conv2d(layout.channels, first, 7, padding=3)
        self.downs = _downs(layout)
        self.mid_block1 = _ResnetBlock(layout, last, last)
        self.mid_attn = _FullAttention(last, layout.levels[-1])
        self.mid_block2 = _ResnetBlock(layout, last, last)
        self.ups = _ups(layout)
        self.final_res_block = _ResnetBlock(layout, 2 * first, first)
        self.final_conv = nn.Conv2d(first, layout.answers, 1)

    def opened(self, x: Tensor, index: Tensor, label: Tensor | None) -> Opened:
        """The bottleneck, and what makes an output of it."""
        require_images(x, self.layout.channels, self.layout.stride)
        require_label(label, classes=False)
        emb = self._embed(index)
        skips = [self.init_conv(x)]
        h = skips[0]
        for down in self.downs:
            first, second, h = down(h, emb)
            skips += [first, second]
        h = self.mid_block2(self.mid_attn(self.mid_block1(h, emb)), emb)
        return h, lambda h: self._decode(h, list(skips), emb)

    def _embed(self, index: Tensor) -> Tensor:
        """Indices as [B, time]; their features leave float32 only here."""
        features = self.time_mlp[0](index).to(self.final_conv.weight.dtype)
        emb: Tensor = self.time_mlp[1:](features)
        return emb

    def _decode(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        for up in self.ups:
            h = up(h, skips, emb)
        out: Tensor = self.final_conv(self.final_res_block(torch.cat((h, skips.pop()), dim=1), emb))
        return out
