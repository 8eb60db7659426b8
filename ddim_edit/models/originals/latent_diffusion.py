"""Read Stable Diffusion 1, 2 and XL off the tensors of one file, in the layout of CompVis/latent-diffusion.

References:
    Rombach, Blattmann, Lorenz, Esser, Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022,
    arXiv:2112.10752.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddim_edit.errors import ModelError
from ddim_edit.models.originals.parts import (
    ComponentTensors,
    Config,
    OriginalParts,
    count_blocks,
    read_facts,
    strip_prefix,
)
from ddim_edit.models.originals.text_encoders import TextEncoderTensors, read_clip, read_open_clip, read_text_encoders

if TYPE_CHECKING:
    from torch import Tensor

AUTOENCODER_PREFIXES = ("first_stage_model.", "vae.")
_PREFIX = "model.diffusion_model."
_NAMES = ("input_blocks.", "middle_block.", "output_blocks.", "out.", "time_embed.", "label_emb.")
_CLASS = "label_emb.0.0.weight"
"""A tensor of networks that get something beside the prompt: sizes and pooled text, or the embedding of an image."""
_HEAD = 64
"""Channels of a head of attention in Stable Diffusion 2 and XL."""
_CLIP = {"text_encoder": TextEncoderTensors("cond_stage_model.transformer.", read_clip)}
_OPEN_CLIP = {"text_encoder": TextEncoderTensors("cond_stage_model.model.", read_open_clip)}
_BOTH = {
    "text_encoder": TextEncoderTensors("conditioner.embedders.0.transformer.", read_clip),
    "text_encoder_2": TextEncoderTensors("conditioner.embedders.1.model.", read_open_clip),
}
_REFINER = "conditioner.embedders.0.model."
_REFINER_WIDTH = 384
_PURPOSES: Mapping[int, str] = {
    5: "a model that is told the depth of an image",
    7: "an upscaler",
    8: "a model that edits by instructions (InstructPix2Pix)",
    9: "an inpainting model",
}
"""What networks of so many channels are for, that see more than the image."""


def is_stable_diffusion(state: Mapping[str, Tensor]) -> bool:
    """Return whether this is Stable Diffusion 1 or 2, or latent diffusion of another kind, in one file."""
    return bool(_find_network(state)) and not is_stable_diffusion_xl(state)


def is_stable_diffusion_xl(state: Mapping[str, Tensor]) -> bool:
    """Return whether this is Stable Diffusion XL in one file, or its refiner."""
    return _CLASS in _find_network(state) and not any(name.startswith("cond_stage_model.") for name in state)


def read_stable_diffusion(state: Mapping[str, Tensor], told: Config, source: str) -> OriginalParts:
    """Return the components of Stable Diffusion 1 or 2.

    Args:
        state: the tensors of the file.
        told: the entries of its scheduler that the file tells beside its tensors.
        source: the file, for errors.

    Raises:
        ModelError: a model of another kind in the same layout.
    """
    network = _find_network(state)
    _require_plain(network, source)
    if _CLASS in network:
        raise ModelError(f"{source}: it is a model that is told an image by its embedding (unCLIP). Use another one.")
    is_linear = any(name.endswith(".proj_in.weight") and each.dim() == 2 for name, each in network.items())
    has_clip, has_open_clip = (bool(strip_prefix(state, each["text_encoder"].prefix)) for each in (_CLIP, _OPEN_CLIP))
    # Some tools have made the convolutions of the first linear too.
    is_second = has_open_clip or (is_linear and not has_clip)
    base = told.get("prediction_type") == "epsilon"
    kind = "stable-diffusion-1" if not is_second else "stable-diffusion-2-base" if base else "stable-diffusion-2"
    facts = read_facts(kind)
    return OriginalParts(
        _read_unet(network, facts["unet"], source),
        facts,
        read_text_encoders(state, _OPEN_CLIP if is_second else _CLIP, facts),
        strip_prefix(state, *AUTOENCODER_PREFIXES) or None,
        told,
    )


def read_stable_diffusion_xl(state: Mapping[str, Tensor], told: Config, source: str) -> OriginalParts:
    """Return the components of Stable Diffusion XL; arguments and errors as `read_stable_diffusion`."""
    network = _find_network(state)
    if any(name.startswith(_REFINER) for name in state) or len(network["input_blocks.0.0.weight"]) == _REFINER_WIDTH:
        raise ModelError(
            f"{source}: it is the refiner of Stable Diffusion XL, which finishes images that a base model has begun. "
            "Use the base model."
        )
    _require_plain(network, source)
    if "edm_mean" in state:
        raise ModelError(f"{source}: it is Playground 2.5, whose latents are scaled by channel. Use its folder.")
    facts = read_facts("stable-diffusion-xl")
    encoders = read_text_encoders(state, _BOTH, facts)
    width = network[_CLASS].shape[1]
    added: dict[str, Any] = {"projection_class_embeddings_input_dim": width}
    if "text_encoder_2" in encoders:
        # What is left of the pooled text are six numbers: two sizes and an offset.
        added["addition_time_embed_dim"] = (width - encoders["text_encoder_2"].config["projection_dim"]) // 6
    return OriginalParts(
        _read_unet(network, {**facts["unet"], **added}, source),
        facts,
        encoders,
        strip_prefix(state, *AUTOENCODER_PREFIXES) or None,
        {**_read_marks(state), **told},
    )


def _read_marks(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what tensors without content tell, by which other programs know of fine-tuned models."""
    marks: dict[str, Any] = {}
    if "v_pred" in state:
        marks["prediction_type"] = "v_prediction"
    if "ztsnr" in state:
        marks["rescale_betas_zero_snr"] = True
    return marks


def _find_network(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the UNet without a prefix, averages if there are any; nothing of other networks."""
    network = strip_prefix(state, _PREFIX)
    # A UNet alone has no prefix, as OpenAI's have, which follow no prompts.
    if not network and any(name.startswith(_NAMES) and ".transformer_blocks." in name for name in state):
        network = {name: tensor for name, tensor in state.items() if name.startswith(_NAMES)}
    if "input_blocks.0.0.weight" not in network:
        return {}
    averaged = {}
    for name in network:
        # The averages have all dots taken out of their names.
        average = state.get(f"model_ema.diffusion_model{name.replace('.', '')}")
        if average is None:
            return network
        averaged[name] = average
    return averaged


def _require_plain(network: Mapping[str, Tensor], source: str) -> None:
    """Refuse networks that see more than the image, and those that follow no prompt."""
    seen, answered = network["input_blocks.0.0.weight"].shape[1], len(network["out.2.weight"])
    if seen != answered:
        purpose = _PURPOSES.get(seen, "a model of another kind")
        raise ModelError(
            f"{source}: it is {purpose}, whose network has {seen} channels in and {answered} out: it sees more than "
            "the image. Use the model that it was made from."
        )
    if not any(name.endswith("attn2.to_k.weight") for name in network):
        raise ModelError(
            f"{source}: it is latent diffusion without prompts, in the layout of its own code. Convert it to a "
            "diffusers folder."
        )


def _read_unet(network: Mapping[str, Tensor], facts: Config, source: str) -> ComponentTensors:
    """Return the UNet of diffusers; all tensors must be used."""
    from diffusers.loaders import single_file_utils

    config = read_unet_config(network, facts)
    convert: Any = single_file_utils.convert_ldm_unet_checkpoint  # untyped
    converted = convert({f"{_PREFIX}{name}": tensor for name, tensor in network.items()}, dict(config))
    if len(converted) != len(network):
        # It passes over what it does not know, which may be what makes the model another one.
        used = {id(tensor) for tensor in converted.values()}
        other = min((name for name, tensor in network.items() if id(tensor) not in used), default="out")
        raise ModelError(
            f"{source}: the layers of the network are not those of Stable Diffusion ({other:.80}). Use its diffusers "
            "folder, or download the file again."
        )
    return ComponentTensors(config, converted)


@dataclass
class _Level:
    """A resolution of a UNet: its channels, how many residual blocks it has, and how many transformers each has."""

    width: int = 0
    blocks: int = 0
    depth: int = 0


def read_unet_config(network: Mapping[str, Tensor], facts: Config) -> dict[str, Any]:
    """Return the config of the UNet of these tensors.

    Args:
        network: tensors by the names of latent diffusion, without a prefix.
        facts: what they do not tell.
    """
    levels = [_Level()]
    for number in range(1, count_blocks(network, "input_blocks.")):
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in network:
            levels.append(_Level())
            continue
        level = levels[-1]
        level.width = len(network[f"{block}.0.in_layers.2.weight"])
        level.blocks += 1
        level.depth = count_blocks(network, f"{block}.1.transformer_blocks.")
    config: dict[str, Any] = {
        "in_channels": network["input_blocks.0.0.weight"].shape[1],
        "out_channels": len(network["out.2.weight"]),
        "block_out_channels": [level.width for level in levels],
        "layers_per_block": levels[0].blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if level.depth else "DownBlock2D" for level in levels],
        "up_block_types": ["CrossAttnUpBlock2D" if level.depth else "UpBlock2D" for level in reversed(levels)],
    }
    attention = min(name for name in network if name.endswith("attn2.to_k.weight"))
    config["cross_attention_dim"] = network[attention].shape[1]
    block = attention.split(".transformer_blocks.")[0]
    if network[f"{block}.proj_in.weight"].dim() == 2:
        config["use_linear_projection"] = True
        config["attention_head_dim"] = [max(level.width // _HEAD, 1) for level in levels]
    if any(level.depth > 1 for level in levels):
        config["transformer_layers_per_block"] = [max(level.depth, 1) for level in levels]
    return {**config, **facts}
