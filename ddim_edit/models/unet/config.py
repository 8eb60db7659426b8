"""What a diffusers `UNet2DModel` config may say here, entry by entry."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, NamedTuple, Self

from torch import nn

from ddim_edit.errors import ModelError

ONLY_DDPM = "only DDPM-style UNet2DModel networks can be run, so use another checkpoint"

# In place where torch can: what is activated here was made on the line before, and nobody else holds it.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": partial(nn.SiLU, inplace=True),
    "swish": partial(nn.SiLU, inplace=True),
    "mish": partial(nn.Mish, inplace=True),
    "relu": partial(nn.ReLU, inplace=True),
    "gelu": nn.GELU,
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
    act_fn: Annotated[str, _one_of(*ACTIVATIONS)] = "silu"
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
