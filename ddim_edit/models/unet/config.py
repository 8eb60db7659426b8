"""The config of a diffusers `UNet2DModel`, as far as our network can run it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Self

from torch import nn

from ddim_edit.errors import ModelError
from ddim_edit.io import schema

# In place where torch can: what is activated is always the fresh output of the layer before.
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "silu": partial(nn.SiLU, inplace=True),
    "swish": partial(nn.SiLU, inplace=True),
    "mish": partial(nn.Mish, inplace=True),
    "relu": partial(nn.ReLU, inplace=True),
    "gelu": nn.GELU,
}
# What EMAModel of diffusers writes into the config of the average besides.
_OF_AVERAGES = {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
_ONLY_DDPM = "Only DDPM-style UNet2DModel networks can be run; use another checkpoint."


def _nonempty_list_of(item: schema.Check) -> schema.Check:
    items = schema.list_of(item)
    return schema.Check("a list of at least 1", lambda value: items.accepts(value) and len(value) > 0, items.inside)


_WIDTH_OR_NULL = schema.optional(schema.positive_int)
_SCHEMA: schema.Schema = {
    "sample_size": schema.optional(schema.either(schema.positive_int, schema.list_of(schema.positive_int, 2))),
    "in_channels": schema.positive_int,
    "out_channels": schema.positive_int,
    "center_input_sample": schema.flag,
    "time_embedding_type": schema.one_of("positional", "fourier"),
    "time_embedding_dim": _WIDTH_OR_NULL,
    "freq_shift": schema.number,
    "flip_sin_to_cos": schema.flag,
    "down_block_types": _nonempty_list_of(schema.one_of("DownBlock2D", "AttnDownBlock2D")),
    "mid_block_type": schema.one_of("UNetMidBlock2D", None),
    "up_block_types": _nonempty_list_of(schema.one_of("UpBlock2D", "AttnUpBlock2D")),
    "block_out_channels": _nonempty_list_of(schema.positive_int),
    "layers_per_block": schema.positive_int,
    "mid_block_scale_factor": schema.positive_number,
    "downsample_padding": schema.one_of(0, 1),
    "downsample_type": schema.one_of("conv", "resnet"),
    "upsample_type": schema.one_of("conv", "resnet"),
    "dropout": schema.number,
    "act_fn": schema.one_of(*ACTIVATIONS),
    "attention_head_dim": _WIDTH_OR_NULL,
    "norm_num_groups": schema.positive_int,
    "attn_norm_num_groups": _WIDTH_OR_NULL,
    "norm_eps": schema.positive_number,
    "resnet_time_scale_shift": schema.one_of("default", "scale_shift"),
    "add_attention": schema.flag,
    "class_embed_type": schema.one_of(None, "timestep", "identity"),
    "num_class_embeds": _WIDTH_OR_NULL,
    "num_train_timesteps": _WIDTH_OR_NULL,
}


@dataclass(frozen=True)
class UNetConfig:
    """The entries of a `unet/config.json` that our network can run; names, meanings and defaults are diffusers'.

    `dropout` and `num_train_timesteps` change nothing at inference. An `attention_head_dim` of None is one head.

    Raises:
        ModelError: an entry that no network here fits.
    """

    sample_size: int | tuple[int, ...] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", *3 * ("AttnDownBlock2D",))
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = (*3 * ("AttnUpBlock2D",), "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    dropout: float = 0.0
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Return the config in a parsed `config.json`; entries whose names begin with "_" are diffusers' own."""
        if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
            raise ModelError(
                f"config.json: _class_name must be 'UNet2DModel', not {config['_class_name']!r}. {_ONLY_DDPM}"
            )
        foreign = [name for name in config if name.startswith("_") or name in _OF_AVERAGES]
        given = {name: value for name, value in config.items() if name not in foreign}
        known = {field.name for field in fields(cls)}
        for name in sorted(given.keys() - known):
            raise ModelError(f"config.json: {name!r:.60} is no entry of a UNet2DModel. {_ONLY_DDPM}")
        values: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return cls(**values)

    def __post_init__(self) -> None:
        problem = schema.find_problem(vars(self), _SCHEMA) or self._find_misfit()
        if problem:
            raise ModelError(f"config.json: {problem}. {_ONLY_DDPM}")

    def _find_misfit(self) -> str | None:
        """Return what does not fit together of entries that are fine by themselves, or None."""
        widths = self.block_out_channels
        groups = self.norm_num_groups
        head = self.attention_head_dim or 1
        last_groups = self.attn_norm_num_groups or 1
        if not len(widths) == len(self.down_block_types) == len(self.up_block_types):
            wanted = "be as many as down_block_types and up_block_types"
        elif any(width % groups for width in widths):
            wanted = f"be multiples of norm_num_groups {groups}"
        elif widths[-1] % last_groups:
            wanted = f"end on a multiple of attn_norm_num_groups {last_groups}"
        elif min(self._attended_widths(), default=head) < head:
            wanted = f"be at least attention_head_dim {head} where the network attends"
        elif widths[0] // 2 == self.freq_shift:
            wanted = f"not begin with twice freq_shift {self.freq_shift}"
        else:
            return None
        shown = ", ".join(map(str, widths[:8])) + (", ..." if len(widths) > 8 else "")
        return f"block_out_channels [{shown}] must {wanted}"

    def _attended_widths(self) -> list[int]:
        kinds = (*self.down_block_types, *self.up_block_types[::-1])
        levels = zip(kinds, 2 * self.block_out_channels, strict=True)
        attended = [width for kind, width in levels if kind.startswith("Attn")]
        if self.mid_block_type and self.add_attention:
            attended.append(self.block_out_channels[-1])
        return attended

    @property
    def time_width(self) -> int:
        """Width of the time embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def stride(self) -> int:
        """Heights and widths must be multiples of it: every level but the last halves them."""
        return 1 << (len(self.block_out_channels) - 1)
