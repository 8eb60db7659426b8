"""The DDPM UNet in diffusers' parameter layout: runs pixel-space `UNet2DModel` checkpoints, in torch alone.

`embed` (time, label) -> `encode` (down) -> `middle` -> `decode` (up, fed by the skips); a wrapper edits the
bottleneck on either side of `middle`. Network: Ho, Jain, Abbeel (2020); its options: Song et al. (2021),
Dhariwal and Nichol (2021).
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError, ModelError

WEIGHTS = "diffusion_pytorch_model.safetensors"
ONLY_DDPM = "only DDPM-style UNet2DModel networks can be run, so use another checkpoint"

# In place where torch can: what is activated here was made on the line before, and nobody else holds it.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": partial(F.silu, inplace=True),
    "swish": partial(F.silu, inplace=True),
    "mish": partial(F.mish, inplace=True),
    "relu": partial(F.relu, inplace=True),
    "gelu": F.gelu,
}


class _Domain(NamedTuple):
    """The values that a config entry may take, in words and as a test."""

    wanted: str
    has: Callable[[Any], bool]


def _one_of(*values: str | int | None) -> _Domain:
    return _Domain(" or ".join(map(json.dumps, values)), lambda value: value in values)


def _either(*domains: _Domain) -> _Domain:
    words = " or ".join(domain.wanted for domain in domains)
    return _Domain(words, lambda value: any(domain.has(value) for domain in domains))


def _list_of(item: _Domain) -> _Domain:
    return _Domain(
        f"a list, each entry {item.wanted}",
        lambda values: type(values) is tuple and values != () and all(map(item.has, values)),
    )


_SIZE = _Domain("a positive integer", lambda value: type(value) is int and value > 0)
_NULL = _one_of(None)
_PAIR = _Domain("two of them", lambda value: _list_of(_SIZE).has(value) and len(value) == 2)
_NUMBER = _Domain("a number", lambda value: type(value) in (int, float))
_POSITIVE = _Domain("a positive number", lambda value: _NUMBER.has(value) and value > 0)

Size = Annotated[int, _SIZE]
SizeOrNone = Annotated[int | None, _either(_SIZE, _NULL)]
Number = Annotated[float, _NUMBER]
Positive = Annotated[float, _POSITIVE]
Flag = Annotated[bool, _one_of(True, False)]
Resampling = Annotated[str, _one_of("conv", "resnet")]
DownKinds = Annotated[tuple[str, ...], _list_of(_one_of("DownBlock2D", "AttnDownBlock2D"))]
UpKinds = Annotated[tuple[str, ...], _list_of(_one_of("UpBlock2D", "AttnUpBlock2D"))]


@dataclass(frozen=True)
class UNetConfig:
    """A `unet/config.json` that this network can run; names, meanings and defaults are diffusers'.

    `dropout` and `num_train_timesteps` change nothing at inference; `attention_head_dim` None is one head.

    Errors: ModelError names the first entry that no network here fits.
    """

    sample_size: Annotated[int | tuple[int, ...] | None, _either(_SIZE, _PAIR, _NULL)] = None
    in_channels: Size = 3
    out_channels: Size = 3
    center_input_sample: Flag = False
    time_embedding_type: Annotated[str, _one_of("positional", "fourier")] = "positional"
    time_embedding_dim: SizeOrNone = None
    freq_shift: Number = 0
    flip_sin_to_cos: Flag = True
    down_block_types: DownKinds = ("DownBlock2D", *3 * ("AttnDownBlock2D",))
    mid_block_type: Annotated[str | None, _one_of("UNetMidBlock2D", None)] = "UNetMidBlock2D"
    up_block_types: UpKinds = (*3 * ("AttnUpBlock2D",), "UpBlock2D")
    block_out_channels: Annotated[tuple[int, ...], _list_of(_SIZE)] = (224, 448, 672, 896)
    layers_per_block: Size = 2
    mid_block_scale_factor: Positive = 1
    downsample_padding: Annotated[int, _one_of(0, 1)] = 1
    downsample_type: Resampling = "conv"
    upsample_type: Resampling = "conv"
    dropout: Number = 0.0
    act_fn: Annotated[str, _one_of(*_ACTIVATIONS)] = "silu"
    attention_head_dim: SizeOrNone = 8
    norm_num_groups: Size = 32
    attn_norm_num_groups: SizeOrNone = None
    norm_eps: Positive = 1e-5
    resnet_time_scale_shift: Annotated[str, _one_of("default", "scale_shift")] = "default"
    add_attention: Flag = True
    class_embed_type: Annotated[str | None, _one_of(None, "timestep", "identity")] = None
    num_class_embeds: SizeOrNone = None
    num_train_timesteps: SizeOrNone = None

    @classmethod
    def from_dict(cls, config: Mapping[str, object]) -> Self:
        """The config in a parsed `config.json`; an unknown entry is refused unless it starts with "_"."""
        if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
            raise ModelError("a UNet2DModel config", f"'_class_name' {config['_class_name']!r}", ONLY_DDPM)
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in config.items() if not name.startswith("_")}
        for name in sorted(given.keys() - known):
            raise ModelError("entries of a UNet2DModel config", f"the entry {name!r}", ONLY_DDPM)
        values: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        return cls(**values)

    def __post_init__(self) -> None:
        for field in fields(self):
            domain: _Domain = field.type.__metadata__[0]  # type: ignore[union-attr]
            value = getattr(self, field.name)
            if not domain.has(value):
                raise ModelError(f"{field.name!r} to be {domain.wanted}", f"{value!r}", ONLY_DDPM)
        for wanted, holds in self._constraints():
            if not holds:
                raise ModelError(f"'block_out_channels' {wanted}", f"{self.block_out_channels}", ONLY_DDPM)

    def _constraints(self) -> list[tuple[str, bool]]:
        widths, groups, head = self.block_out_channels, self.norm_num_groups, self.attention_head_dim or 1
        last_groups = self.attn_norm_num_groups or 1
        counts = {len(widths), len(self.down_block_types), len(self.up_block_types)}
        return [
            ("as many as 'down_block_types' and 'up_block_types'", len(counts) == 1),
            (f"in multiples of 'norm_num_groups' {groups}", not any(width % groups for width in widths)),
            (f"ending on a multiple of 'attn_norm_num_groups' {last_groups}", widths[-1] % last_groups == 0),
            (f"of 'attention_head_dim' {head} or more", min(self._attended, default=head) >= head),
            (f"not starting on twice 'freq_shift' {self.freq_shift}", widths[0] // 2 != self.freq_shift),
        ]

    @property
    def _attended(self) -> list[int]:
        """Widths that an attention works at."""
        kinds = (*self.down_block_types, *self.up_block_types[::-1])
        levels = zip(kinds, 2 * self.block_out_channels, strict=False)
        middle = self.block_out_channels[-1:] if self.mid_block_type and self.add_attention else ()
        return [*middle, *(width for kind, width in levels if kind.startswith("Attn"))]

    @property
    def time_width(self) -> int:
        """Width of the time embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def stride(self) -> int:
        """What heights and widths must be multiples of: every level but the last halves them."""
        return 1 << (len(self.block_out_channels) - 1)


class _TimeFeatures(nn.Module):
    """Frequencies that stay in float32 whatever the network is cast to: bfloat16 reads index 999 as 1000."""

    weight: Tensor

    def __init__(self, weight: Tensor, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=persistent)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.weight
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weight = exact.to(self.weight.device)
        return self


class _PositionalTime(_TimeFeatures):
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


class _FourierTime(_TimeFeatures):
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


def _shift_then_norm(h: Tensor, time: Tensor, norm: nn.Module) -> Tensor:
    shifted: Tensor = norm(h.add_(time))
    return shifted


def _norm_then_scale_and_shift(h: Tensor, time: Tensor, norm: nn.Module) -> Tensor:
    scale, shift = time.chunk(2, dim=1)
    return torch.addcmul(shift, norm(h), 1 + scale)


class _ResnetBlock(nn.Module):
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
        self.norm1 = nn.GroupNorm(config.norm_num_groups, inputs, config.norm_eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.time_width, 2 * outputs if scaled else outputs)
        self.norm2 = nn.GroupNorm(config.norm_num_groups, outputs, config.norm_eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.norm_with_time = _norm_then_scale_and_shift if scaled else _shift_then_norm
        self.activate = _ACTIVATIONS[config.act_fn]
        self.resample = resample or nn.Identity()
        self.rescale = _divide_by(scale)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self.resample(self.activate(self.norm1(x))))
        h = self.norm_with_time(h, self.time_emb_proj(emb)[:, :, None, None], self.norm2)
        h = self.conv2(self.activate(h))
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
        return self.rescale(h.transpose(1, 2).unflatten(2, x.shape[2:]) + x)


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


class UNet(nn.Module):
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
        self.activate = _ACTIVATIONS[config.act_fn]
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(_DownBlock(config, level) for level in levels)
        self.mid_block = _MidBlock(config) if config.mid_block_type else None
        self.up_blocks = nn.ModuleList(_UpBlock(config, level) for level in levels)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def _class_embedding(self) -> nn.Module | None:
        if self.config.class_embed_type == "timestep":
            return _Embedding(self.config, self.time_proj.width)
        if self.config.class_embed_type == "identity":
            return nn.Identity()
        classes = self.config.num_class_embeds
        return nn.Embedding(classes, self.config.time_width) if classes else None

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's raw output for x at `time`."""
        emb = self.embed(time, label)
        h, skips = self.encode(x, emb)
        h = self.middle(h, emb)
        return self.time_proj.rescale(self.decode(h, skips, emb), time)

    def embed(self, time: Tensor, label: Tensor | None = None) -> Tensor:
        """Time and label as [B, time_width], activated once for all the residual blocks."""
        emb = self.time_embedding(self.time_proj(time))
        if label is not None and self.class_embedding is not None:
            features = self.time_proj(label) if self.label_is_time else label
            emb = emb + self.class_embedding(features).to(emb.dtype)
        elif label is not None:
            raise ArgumentError("no label", "one", "this network has no classes, so leave it out")
        elif self.class_embedding is not None:
            raise ArgumentError("a label per image", "none", "this network has classes, so choose one")
        return self.activate(emb)

    def encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The bottleneck [B, C, H / stride, W / stride] of x, and the skips, of which it is the last."""
        self._check(x)
        if self.config.center_input_sample:
            x = 2 * x - 1
        skips = [self.conv_in(x.contiguous(memory_format=torch.channels_last))]
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
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(h), inplace=True))
        return out

    def _check(self, x: Tensor) -> None:
        channels, stride = self.config.in_channels, self.config.stride
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % stride or x.shape[3] % stride:
            wanted = f"images [B, {channels}, H, W] with H and W multiples of {stride}"
            raise ArgumentError(wanted, f"the shape {list(x.shape)}", "resize or pad the images")


def load_unet(folder: Path) -> UNet:
    """The network in a diffusers `unet` folder, ready to run on the CPU; reads no pickles and no shards.

    It is float32 whatever the file holds, channels_last, in eval mode, and its weights ask for no gradients.
    The attention names of old checkpoints are understood.

    Errors: ModelError for a file that is missing, broken, sharded or a pickle, for a config that is not
    implemented, and for tensors that are missing, unknown or of another shape.
    """
    config = UNetConfig.from_dict(_read_config(folder / "config.json"))
    weights = _read_weights(folder / WEIGHTS)
    with torch.device("meta"):  # draws no random weights: they cost time and move the global generator
        unet = UNet(config)
    _check_fit({name: tensor.shape for name, tensor in unet.state_dict().items()}, weights, folder / WEIGHTS)
    unet.to_empty(device="cpu").load_state_dict(weights)
    return unet.eval().requires_grad_(False)


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"a file {path}", "none that can be read", "name a diffusers unet folder") from error
    except ValueError as error:
        raise ModelError(f"JSON in {path}", "something else", "fetch the checkpoint again") from error
    if not isinstance(config, dict):
        raise ModelError(f"a JSON object in {path}", f"a {type(config).__name__}", "fetch the checkpoint again")
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"a file {path}", *_what_stands_for(path))
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"tensors in {path}", f"a broken file ({error})", "fetch it again") from error
    return {_modern(name): tensor for name, tensor in weights.items()}


def _what_stands_for(path: Path) -> tuple[str, str]:
    """What was given in place of the weights, and what to do."""
    resave = "with save_pretrained(folder, safe_serialization=True)"
    if path.with_name(path.name + ".index.json").exists():
        return (
            "a sharded checkpoint",
            f"load it in diffusers and save it as one file {resave}, max_shard_size='100GB'",
        )
    if pickles := sorted(file.name for file in path.parent.glob("*.bin")):
        return (
            f"only the pickle {pickles[0]}, which can run code",
            f"load it where you trust it and save it {resave}",
        )
    return "none", "fetch the checkpoint again"


def _modern(name: str) -> str:
    """Today's name of a parameter; checkpoints such as google/ddpm-cifar10-32 use an older one."""
    today = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    old = re.fullmatch(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", name)
    return old[1] + today[old[2]] + old[3] if old else name


def _check_fit(wanted: Mapping[str, torch.Size], weights: Mapping[str, Tensor], path: Path) -> None:
    misfits = [f"no {name}" for name in wanted if name not in weights]
    misfits += [f"an unknown {name}" for name in weights if name not in wanted]
    misfits += [
        f"{name} of shape {list(tensor.shape)}, not {list(wanted[name])}"
        for name, tensor in weights.items()
        if name in wanted and tensor.shape != wanted[name]
    ]
    if misfits:
        more = [f"{len(misfits) - 3} more misfits"] * (len(misfits) > 3)
        raise ModelError(
            f"in {path} the tensors that its config.json describes",
            ", ".join(misfits[:3] + more),
            "take both files from one checkpoint",
        )
