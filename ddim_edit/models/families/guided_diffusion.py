"""Pixel networks of guided-diffusion (ADM) and improved-diffusion, which share one layout of parameters.

Read from the weights: channels, widths, blocks, attention levels, scale-shift norm, resampling, classes, learned sigma.
Everything else is assumed as `assumed_settings` says where the settings are silent. Other code's networks in the same
layout (consistency models, and the ADM that EDM retrained) cannot be told apart by their tensors and are misread.

References:
    Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021, arXiv:2102.09672.
    Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, arXiv:2105.05233.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ddim_edit.diffusion.parametrization import DDPMParametrization, RescaledTimestepIndex, timestep_index
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.models.checkpoint import Checkpoint, Classes
from ddim_edit.models.families.family import COUNT, FamilyNotes, Settings, SingleFileFamily, scaled_linear_betas
from ddim_edit.models.sizes import SizeRule

if TYPE_CHECKING:
    from ddim_edit.models.checkpoint import StateDict
    from ddim_edit.models.unet.guided_unet import GuidedUNetConfig

_MARKS = {"time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.2.weight"}
_SETTINGS: schema.Schema = {
    "image_size": COUNT,
    "num_heads": COUNT,
    "num_head_channels": schema.either(COUNT, schema.one_of(-1)),
    "use_new_attention_order": schema.flag,
    "noise_schedule": schema.one_of("linear", "cosine"),
    "diffusion_steps": COUNT,
    "rescale_timesteps": schema.flag,
    "predict_xstart": schema.flag,
}
_DEFAULTS: Settings = {
    "image_size": None,
    "num_heads": 4,
    "num_head_channels": -1,
    "use_new_attention_order": False,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
    "rescale_timesteps": False,
    "predict_xstart": False,
}
# Both repositories choose the multiples of `num_channels` by the image size.
_IMAGE_SIZES = {
    (0.5, 1, 1, 2, 2, 4, 4): 512,
    (1, 1, 2, 2, 4, 4): 256,
    (1, 1, 2, 3, 4): 128,
    (1, 2, 3, 4): 64,
    (1, 2, 2, 2): 32,
}


def _matches(state: StateDict) -> bool:
    return state.keys() >= _MARKS


def assumed_settings(config: GuidedUNetConfig) -> dict[str, Any]:
    """Return the settings of the released checkpoint with these layers, or of the closest; a guess for any other.

    - Resampling residual blocks (`resblock_updown`) mean guided-diffusion: 64 channels a head, 1000 linear steps; at
      64 pixels cosine and the new attention order, at 128 pixels 4 heads.
    - Everything else means improved-diffusion. At 32 and 64 pixels: 4 heads, 4000 cosine steps, whose indices are
      rescaled but for classes at 64 pixels. Without scale-shift norm, which is its LSUN: 1 head, 1000 linear steps.
      No release has other layers, so both repositories' defaults hold: 4 heads, 1000 linear steps.

    The image size is what both repositories choose these multiples of channels for, or None.
    """
    size = _IMAGE_SIZES.get(tuple(width / config.model_channels for width in config.widths))
    released: dict[str, Any] = {}
    if config.resampling == "resblock":
        if size != 128:
            released["num_head_channels"] = 64
        if size == 64:
            released |= {"use_new_attention_order": True, "noise_schedule": "cosine"}
    elif not config.use_scale_shift_norm:
        released["num_heads"] = 1
    elif size in (32, 64):
        rescaled = size == 32 or config.num_classes is None
        released |= {"noise_schedule": "cosine", "diffusion_steps": 4000, "rescale_timesteps": rescaled}
    return {**_DEFAULTS, **released, "image_size": size}


def complete_settings(config: GuidedUNetConfig, settings: Settings) -> dict[str, Any]:
    """Return the given settings, and the assumed ones where they are silent."""
    # A number of heads alone means that heads are not counted by their channels.
    unset = {"num_head_channels": -1} if "num_heads" in settings else {}
    return {**assumed_settings(config), **unset, **settings}


def read_config(state: StateDict) -> GuidedUNetConfig:
    """Return the layers of a network, read from the names and shapes of its tensors alone.

    Raises:
        ModelError: a tensor that every such network has is missing.
    """
    from ddim_edit.models.unet.guided_unet import GuidedUNetConfig

    # Every level but the last has a resampler, which stands in an output block after what every block has. Only there
    # can a resampling residual block be told from another one.
    kinds = {"in_layers.2": "resblock", "conv": "conv"}
    found = [re.fullmatch(r"output_blocks\.\d+\.[12]\.(in_layers\.2|conv)\.weight", name) for name in state]
    resamplers = [kinds[match[1]] for match in found if match]
    inputs = len({name.split(".")[1] for name in state if name.startswith("input_blocks.")})
    outputs = len({name.split(".")[1] for name in state if name.startswith("output_blocks.")})
    # A pool has no weights, so that its place among the input blocks is empty.
    levels = max(1 + len(resamplers) + outputs - inputs, 1)
    # Each level has num_res_blocks + 1 blocks in either direction, resampling included.
    height = max(outputs // levels, 1)
    firsts = [f"input_blocks.{1 + level * height}" for level in range(levels)]
    widths = tuple(_shape(state, f"{first}.0.out_layers.3.weight")[0] for first in firsts)
    return GuidedUNetConfig(
        in_channels=_shape(state, "input_blocks.0.0.weight")[1],
        out_channels=_shape(state, "out.2.weight")[0],
        model_channels=_shape(state, "time_embed.0.weight")[1],
        widths=widths,
        num_res_blocks=height - 1,
        attention=frozenset(level for level, first in enumerate(firsts) if f"{first}.1.qkv.weight" in state),
        num_classes=len(state["label_emb.weight"]) if "label_emb.weight" in state else None,
        use_scale_shift_norm=_shape(state, "input_blocks.1.0.emb_layers.1.weight")[0] == 2 * widths[0],
        resampling=resamplers[0] if resamplers else "pool",
    )


def _shape(state: StateDict, name: str) -> tuple[int, ...]:
    if name not in state:
        raise ModelError(f"This guided-diffusion checkpoint has no tensor {name}. Download the file again.")
    return tuple(state[name].shape)


def _require_denoiser(state: StateDict) -> None:
    """Refuse the networks of this layout that do not denoise images by themselves."""
    if not any(name.startswith("output_blocks.") for name in state):
        raise ModelError("This guided-diffusion checkpoint is a classifier. Use the diffusion model that it guides.")
    if any(".transformer_blocks." in name for name in state):
        raise ModelError("This network attends to a text. Load the whole model as a diffusers folder.")
    inputs, outputs = _shape(state, "input_blocks.0.0.weight")[1], _shape(state, "out.2.weight")[0]
    if inputs == 6:
        raise ModelError(
            "This guided-diffusion checkpoint is an upsampler, which sees a small image in 3 of its 6 channels. "
            "Use the diffusion model whose images it enlarges."
        )
    if outputs not in (inputs, 2 * inputs):
        raise ModelError(
            f"This guided-diffusion checkpoint has {inputs} channels in and {outputs} out, but a network that denoises "
            "has as many out as in, or twice as many. Use another one."
        )


def _build(state: StateDict, settings: Settings) -> Checkpoint:
    from ddim_edit.models.unet.guided_unet import AttentionHeads, GuidedUNet
    from ddim_edit.models.weights import fill

    _require_denoiser(state)
    config = read_config(state)
    complete = complete_settings(config, settings)
    size = complete["image_size"]
    steps = complete["diffusion_steps"]
    if size is not None and size % config.stride:
        raise ModelError(f"image_size must be a multiple of {config.stride} for this network, not {size}.")
    heads = AttentionHeads(
        complete["num_heads"], complete["num_head_channels"], bool(complete["use_new_attention_order"])
    )
    cosine = complete["noise_schedule"] == "cosine"
    prediction = "sample" if complete["predict_xstart"] else "epsilon"
    time = RescaledTimestepIndex(steps) if complete["rescale_timesteps"] else timestep_index
    return Checkpoint(
        network=fill(lambda: GuidedUNet(config, heads), state, "This guided-diffusion checkpoint"),
        schedule=NoiseSchedule.cosine(steps) if cosine else scaled_linear_betas(steps),
        parametrization=DDPMParametrization(prediction, time),
        channels=config.in_channels,
        size=None if size is None else (size, size),
        classes=Classes(config.num_classes) if config.num_classes else None,
        sizes=SizeRule(config.stride),
    )


FAMILY = SingleFileFamily(
    name="guided-diffusion",
    title="guided-diffusion (ADM) and improved-diffusion",
    order=50,
    notes=FamilyNotes(
        example="--model 256x256_diffusion_uncond.pt",
        recognised="`input_blocks.*`, `time_embed.*`",
        read="widths, blocks, attention levels, scale-shift, resampling, classes, learned variances",
        assumed=(
            "number and order of heads, betas, `rescale_timesteps` and size, as in the released "
            "configurations; see [settings](#files)"
        ),
        sizes="multiples of 2 for every level but the last",
        proven="the networks of guided-diffusion and improved-diffusion",
    ),
    settings=_SETTINGS,
    matches=_matches,
    build=_build,
)
