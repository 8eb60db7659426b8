"""Checkpoints of ermongroup/ddim and pesser/pytorch_diffusion: the DDPM network of TensorFlow under PyTorch names."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count, takewhile
from typing import Any

import numpy as np
from torch import Tensor

from ddim_edit.diffusion.parametrization import DDPMParametrization
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ModelError
from ddim_edit.models.checkpoint import Checkpoint, State
from ddim_edit.models.entries import MOST
from ddim_edit.models.single_file.family import Family, Settings
from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.network import UNet
from ddim_edit.models.weights import fill

_MARKS = {
    "temb.dense.0.weight",
    "conv_in.weight",
    "conv_out.weight",
    "down.0.block.0.conv1.weight",
    "mid.block_1.temb_proj.weight",
}
_ATTENDED = 16  # pixels a side: where the released networks attend, and only there

_SCHEDULES: Mapping[str, Callable[[float, float, int], NoiseSchedule]] = {
    "linear": NoiseSchedule.linear,
    "quad": NoiseSchedule.scaled_linear,
    "const": lambda start, end, T: NoiseSchedule.from_betas(np.full(T, end)),
    # Written out, since scipy takes a third of a second to load.
    "sigmoid": lambda start, end, T: NoiseSchedule.from_betas(
        start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, T)))
    ),
}

_RELEASED: Settings = {
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "num_diffusion_timesteps": 1000,
}

# What the core's UNet calls the parts of theirs.
_PARTS = {
    "temb.dense.0": "time_embedding.linear_1",
    "temb.dense.1": "time_embedding.linear_2",
    "down": "down_blocks",
    "mid.block_1": "mid_block.resnets.0",
    "mid.attn_1": "mid_block.attentions.0",
    "mid.block_2": "mid_block.resnets.1",
    "up": "up_blocks",
    "norm_out": "conv_norm_out",
    "block": "resnets",
    "temb_proj": "time_emb_proj",
    "nin_shortcut": "conv_shortcut",
    "attn": "attentions",
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
    "downsample": "downsamplers.0",
    "upsample": "upsamplers.0",
}
_PART = re.compile(rf"(?<![^.])({'|'.join(map(re.escape, _PARTS))})(?![^.])")


def _matches(state: State) -> bool:
    return state.keys() >= _MARKS


def _build(state: State, settings: Settings) -> Checkpoint:
    """All the released networks, on the core's UNet; none that averages instead of halving by convolutions.

    Read from the weights: widths, blocks, attentions and channels. Assumed, as in the released files: 32 groups, one
    head, eps 1e-6, eps as the target; betas too, unless the settings say otherwise. A level that alone attends is taken
    to have 16 pixels a side, which gives the size; where none or several attend, only `image_size` does. The `logvar`
    of type "bayesian" is left out: no path of DDIM asks for it.

    Raises:
        ModelError: a network of another kind, tensors that do not fit together, a setting out of range.

    Ho, Jain, Abbeel (2020); Song, Meng, Ermon (2021).
    """
    config = _config(state)
    levels = len(config.block_out_channels)
    weights = dict(_renamed(name, tensor, levels) for name, tensor in state.items() if name != "logvar")
    size = _size(config, settings)
    return Checkpoint(
        network=fill(lambda: UNet(config), weights, "an ermongroup/ddim checkpoint"),
        schedule=_schedule(settings),
        parametrization=DDPMParametrization("epsilon"),
        channels=config.in_channels,
        size=(size, size) if size else None,
    )


ERMONGROUP = Family(
    name="ermongroup/ddim",
    settings=("image_size", *_RELEASED),
    matches=_matches,
    build=_build,
)


def _config(state: State) -> UNetConfig:
    levels = range(_run_length(state, "down.{}.block.0.conv1.weight"))
    config = UNetConfig(
        in_channels=state["conv_in.weight"].shape[1],
        out_channels=state["conv_out.weight"].shape[0],
        block_out_channels=tuple(state[f"down.{i}.block.0.conv1.weight"].shape[0] for i in levels),
        layers_per_block=_run_length(state, "down.0.block.{}.conv1.weight"),
        down_block_types=tuple("AttnDownBlock2D" if _attends(state, f"down.{i}") else "DownBlock2D" for i in levels),
        up_block_types=tuple("AttnUpBlock2D" if _attends(state, f"up.{i}") else "UpBlock2D" for i in levels[::-1]),
        norm_num_groups=32,
        norm_eps=1e-6,
        attention_head_dim=None,
        downsample_padding=0,
        freq_shift=1,
        flip_sin_to_cos=False,
    )
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        given = f"one with {config.in_channels} channels in and {config.out_channels} out"
        raise ModelError("a network that sees noisy pictures alone", given, "use an unconditional checkpoint")
    if len(levels) > 1 and "down.0.downsample.conv.weight" not in state:
        given = "one that averages (resamp_with_conv: False)"
        raise ModelError("a network that halves by convolutions", given, "use another checkpoint")
    return config


def _run_length(state: State, name: str) -> int:
    """How many of the numbers 0, 1, 2 ... make a name in there."""
    return sum(1 for _ in takewhile(lambda i: name.format(i) in state, count()))


def _attends(state: State, level: str) -> bool:
    return f"{level}.attn.0.q.weight" in state


def _renamed(name: str, tensor: Tensor, levels: int) -> tuple[str, Tensor]:
    """A tensor as the core's UNet knows it: `up` counts from the bottom, and attention has matrices for kernels."""
    upwards = re.sub(r"(?<=^up\.)\d+", lambda level: str(levels - 1 - int(level[0])), name)
    ours = _PART.sub(lambda part: _PARTS[part[0]], upwards)
    return ours, tensor.flatten(1) if re.search(r"\.to_\w+(\.0)?\.weight$", ours) else tensor


def _size(config: UNetConfig, settings: Settings) -> int | None:
    if "image_size" in settings:
        fits = partial(_is_multiple, config.stride)
        size: int = _fitting(settings, "image_size", f"a multiple of {config.stride}", fits)
        return size
    attending = [level for level, kind in enumerate(config.down_block_types) if kind == "AttnDownBlock2D"]
    return _ATTENDED << attending[0] if len(attending) == 1 else None


def _schedule(settings: Settings) -> NoiseSchedule:
    given = {**_RELEASED, **settings}
    kind = _fitting(given, "beta_schedule", " or ".join(_SCHEDULES), list(_SCHEDULES).__contains__)
    start, end = (_fitting(given, name, "a number between 0 and 1", _is_beta) for name in ("beta_start", "beta_end"))
    T = _fitting(given, "num_diffusion_timesteps", "a positive integer", partial(_is_multiple, 1))
    return _SCHEDULES[kind](start, end, T)


def _fitting(settings: Settings, name: str, wanted: str, fits: Callable[[Any], bool]) -> Any:
    if not fits(settings[name]):
        raise ModelError(f"the setting {name!r} to be {wanted}", repr(settings[name]), "correct it")
    return settings[name]


def _is_multiple(factor: int, value: object) -> bool:
    return type(value) is int and 0 < value <= MOST and value % factor == 0


def _is_beta(value: object) -> bool:
    return type(value) is float and 0 < value < 1
