"""Checkpoints of ermongroup/ddim and pesser/pytorch_diffusion: the DDPM network of TensorFlow under PyTorch names.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
    Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ddim_edit.diffusion.parametrization import DDPMParametrization
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.models.checkpoint import Checkpoint
from ddim_edit.models.families.family import COUNT, FamilyNotes, Settings, SingleFileFamily
from ddim_edit.models.sizes import SizeRule

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.models.checkpoint import StateDict
    from ddim_edit.models.unet.config import UNetConfig

_MARKS = {
    "temb.dense.0.weight",
    "conv_in.weight",
    "conv_out.weight",
    "down.0.block.0.conv1.weight",
    "mid.block_1.temb_proj.weight",
}
_BETA = schema.Check("a number between 0 and 1", lambda value: schema.number.accepts(value) and 0 < value < 1)
_SETTINGS: schema.Schema = {
    "image_size": COUNT,
    "beta_schedule": schema.one_of("linear", "quad", "const", "sigmoid"),
    "beta_start": _BETA,
    "beta_end": _BETA,
    "num_diffusion_timesteps": COUNT,
}
_ATTENDED_SIZE = 16
"""Pixels a side of the one level at which the released networks attend."""
_DIFFUSERS_NAMES = {
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
_PART = re.compile(rf"(?<![^.])({'|'.join(map(re.escape, _DIFFUSERS_NAMES))})(?![^.])")


def _matches(state: StateDict) -> bool:
    return state.keys() >= _MARKS


def _build(state: StateDict, settings: Settings) -> Checkpoint:
    from ddim_edit.models.unet.network import UNet
    from ddim_edit.models.weights import fill

    config = _read_config(state)
    size = settings.get("image_size")
    if size is None:
        attending = [level for level, kind in enumerate(config.down_block_types) if kind == "AttnDownBlock2D"]
        # Where no level attends, or several do, nothing tells the size.
        size = _ATTENDED_SIZE << attending[0] if len(attending) == 1 else None
    elif size % config.stride:
        raise ModelError(f"image_size must be a multiple of {config.stride} for this network, not {size}.")
    weights = {}
    for name, tensor in state.items():
        # `logvar` is what type "bayesian" samples with; no path of DDIM needs it.
        if name != "logvar":
            renamed, weight = _renamed(name, tensor, len(config.block_out_channels))
            weights[renamed] = weight
    return Checkpoint(
        network=fill(lambda: UNet(config), weights, "This ermongroup/ddim checkpoint"),
        schedule=_schedule(settings),
        parametrization=DDPMParametrization("epsilon"),
        channels=config.in_channels,
        size=(size, size) if size else None,
        sizes=SizeRule(config.stride),
    )


def _read_config(state: StateDict) -> UNetConfig:
    """Return the config of our UNet with these layers.

    Read from the weights: widths, blocks, attentions and channels. As in the released files: 32 groups, one head and
    eps 1e-6, as in TensorFlow.
    """
    from ddim_edit.models.unet.config import UNetConfig

    levels = range(_count(state, "down.{}.block.0.conv1.weight"))
    down = ["AttnDownBlock2D" if f"down.{i}.attn.0.q.weight" in state else "DownBlock2D" for i in levels]
    up = ["AttnUpBlock2D" if f"up.{i}.attn.0.q.weight" in state else "UpBlock2D" for i in reversed(levels)]
    config = UNetConfig(
        in_channels=state["conv_in.weight"].shape[1],
        out_channels=state["conv_out.weight"].shape[0],
        block_out_channels=tuple(state[f"down.{i}.block.0.conv1.weight"].shape[0] for i in levels),
        layers_per_block=_count(state, "down.0.block.{}.conv1.weight"),
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        norm_num_groups=32,
        norm_eps=1e-6,
        attention_head_dim=None,
        downsample_padding=0,
        freq_shift=1,
        flip_sin_to_cos=False,
    )
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise ModelError(
            f"This ermongroup/ddim checkpoint has {config.in_channels} channels in and {config.out_channels} out: it "
            "sees more than a noisy image. Use an unconditional checkpoint."
        )
    if len(levels) > 1 and "down.0.downsample.conv.weight" not in state:
        raise ModelError(
            "This ermongroup/ddim checkpoint halves images by averaging (resamp_with_conv: False), which is not "
            "supported. Use another checkpoint."
        )
    return config


def _count(state: StateDict, name: str) -> int:
    """Return how many of the numbers 0, 1, 2 ... make a name of a tensor."""
    number = 0
    while name.format(number) in state:
        number += 1
    return number


def _renamed(name: str, tensor: Tensor, levels: int) -> tuple[str, Tensor]:
    """Return the name and the tensor of our UNet, which has diffusers' names."""
    # Their `up` counts from the finest level, diffusers' `up_blocks` from the coarsest.
    name = re.sub(r"(?<=^up\.)\d+", lambda level: str(levels - 1 - int(level[0])), name)
    name = _PART.sub(lambda part: _DIFFUSERS_NAMES[part[0]], name)
    # Their attention projects by 1x1 convolutions, diffusers' by matrices.
    return name, tensor.flatten(1) if re.search(r"\.to_\w+(\.0)?\.weight$", name) else tensor


def _schedule(settings: Settings) -> NoiseSchedule:
    start, end = settings.get("beta_start", 1e-4), settings.get("beta_end", 0.02)
    T = settings.get("num_diffusion_timesteps", 1000)
    kind = settings.get("beta_schedule", "linear")
    if kind == "linear":
        return NoiseSchedule.linear(start, end, T)
    if kind == "quad":
        return NoiseSchedule.scaled_linear(start, end, T)
    if kind == "const":
        return NoiseSchedule.from_betas(np.full(T, end))
    # The logistic function is written out, as scipy takes a third of a second to import.
    return NoiseSchedule.from_betas(start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, T))))


FAMILY = SingleFileFamily(
    name="ermongroup/ddim",
    title="ermongroup/ddim and pesser/pytorch_diffusion",
    order=60,
    notes=FamilyNotes(
        example="--model diffusion_cifar10_model.ckpt",
        recognised="`temb.dense.*`, `down.*.block.*`",
        read="widths, blocks, attention levels; averaged weights come first",
        assumed=(
            "eps, one head, linear betas from 1e-4 to 0.02, 1000 steps; attention at 16 pixels, which gives the size"
        ),
        sizes="multiples of 2 for every level but the last",
        proven="the network of ermongroup/ddim",
    ),
    settings=_SETTINGS,
    matches=_matches,
    build=_build,
)
