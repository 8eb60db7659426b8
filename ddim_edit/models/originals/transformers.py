"""Read Stable Diffusion 3 and Flux off the tensors of one file, in the layout of their own code.

References:
    Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", ICML 2024,
    arXiv:2403.03206.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddim_edit.errors import ModelError
from ddim_edit.models.originals.latent_diffusion import AUTOENCODER_PREFIXES
from ddim_edit.models.originals.parts import (
    ComponentTensors,
    Config,
    OriginalParts,
    count_blocks,
    read_facts,
    strip_prefix,
)
from ddim_edit.models.originals.text_encoders import TextEncoderTensors, read_clip, read_t5, read_text_encoders

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "model.diffusion_model."
_SD3 = "joint_blocks.0.context_block.adaLN_modulation.1.bias"
_FLUX = "double_blocks.0.img_attn.norm.key_norm.scale"
_NOT_FLUX = (
    "double_stream_modulation_",
    "distilled_guidance_layer.",
    "txt_in.individual_token_refiner.",
    "vector_in.linear",
)
"""Names of the parts of Flux.2, Chroma and video models that Flux does not have."""
_HEAD = 64
_CLIP_L = TextEncoderTensors("text_encoders.clip_l.transformer.", read_clip)
_CLIP_G = TextEncoderTensors("text_encoders.clip_g.transformer.", read_clip)
_T5 = TextEncoderTensors("text_encoders.t5xxl.transformer.", read_t5)


def is_stable_diffusion_3(state: Mapping[str, Tensor]) -> bool:
    """Return whether this is Stable Diffusion 3 in one file."""
    return _SD3 in state or f"{_PREFIX}{_SD3}" in state


def is_flux(state: Mapping[str, Tensor]) -> bool:
    """Return whether this is Flux in one file, and no model that was made from it."""
    return _FLUX in _bare(state) and not any(name.startswith(_NOT_FLUX) for name in _bare(state))


def read_stable_diffusion_3(state: Mapping[str, Tensor], told: Config, source: str) -> OriginalParts:
    """Return the components of Stable Diffusion 3 or 3.5.

    Args:
        state: the tensors of the file.
        told: the entries of its scheduler that the file tells beside its tensors.
        source: the file, for errors.
    """
    from diffusers.loaders import single_file_utils

    facts = read_facts("stable-diffusion-3")
    network = _bare(state)
    depth = count_blocks(network, "joint_blocks.")
    width, joint = network["context_embedder.weight"].shape
    _, channels, patch, _ = network["x_embedder.proj.weight"].shape
    norm = network.get("joint_blocks.0.x_block.attn.ln_q.weight")
    # Its own code has as many heads as layers.
    head = len(norm) if norm is not None else width // depth if width % depth == 0 else _HEAD
    config = {
        **facts["transformer"],
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": len(network["final_layer.linear.weight"]) // patch**2,
        "num_layers": depth,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": joint,
        "caption_projection_dim": width,
        "pooled_projection_dim": network["y_embedder.mlp.0.weight"].shape[1],
        "pos_embed_max_size": math.isqrt(network["pos_embed"].shape[1]),
    }
    if norm is not None:
        config["qk_norm"] = "rms_norm"
    if twice := [each for each in range(depth) if f"joint_blocks.{each}.x_block.attn2.qkv.weight" in network]:
        config["dual_attention_layers"] = twice
    encoders = {"text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G, "text_encoder_3": _T5}
    convert: Any = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers  # untyped
    return OriginalParts(
        ComponentTensors(config, convert(dict(network))),
        facts,
        read_text_encoders(state, encoders, facts),
        strip_prefix(state, *AUTOENCODER_PREFIXES) or None,
        told,
    )


def read_flux(state: Mapping[str, Tensor], told: Config, source: str) -> OriginalParts:
    """Return the components of Flux; arguments as `read_stable_diffusion_3`.

    Raises:
        ModelError: a model that sees more than the image.
    """
    network = _bare(state)
    width, seen = network["img_in.weight"].shape
    answered = len(network["final_layer.linear.weight"])
    if seen != answered:
        raise ModelError(
            f"{source}: it is a Flux for filling in, or for edges or depth, whose network has {seen} channels in and "
            f"{answered} out: it sees more than the image. Use FLUX.1-dev."
        )
    is_guided = "guidance_in.in_layer.weight" in network
    facts = read_facts("flux-dev" if is_guided else "flux-schnell")
    head = len(network[_FLUX])
    config = {
        **facts["transformer"],
        "in_channels": seen,
        "num_layers": count_blocks(network, "double_blocks."),
        "num_single_layers": count_blocks(network, "single_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": network["txt_in.weight"].shape[1],
        "pooled_projection_dim": network["vector_in.in_layer.weight"].shape[1],
        "guidance_embeds": is_guided,
    }
    if head % 32 == 0:
        # 16, 56 and 56 of 128, for the number of an image, the row and the column.
        config["axes_dims_rope"] = [head // 8, 7 * head // 16, 7 * head // 16]
    return OriginalParts(
        ComponentTensors(config, _convert_flux(network)),
        facts,
        read_text_encoders(state, {"text_encoder": _CLIP_L, "text_encoder_2": _T5}, facts),
        strip_prefix(state, *AUTOENCODER_PREFIXES) or None,
        # Its two releases differ in their schedulers too, so that the file tells it all.
        {**facts["scheduler"], **told},
    )


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return strip_prefix(state, _PREFIX) or dict(state)


_FLUX_ENDS: Mapping[str, str] = {
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "txt_in": "context_embedder",
    "img_in": "x_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_FLUX_BLOCKS: Mapping[str, str] = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
    "modulation.lin": "norm.linear",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "linear2": "proj_out",
}
_FLUX_STACKED: Mapping[str, tuple[str, ...]] = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
}
_FLUX_NAME = re.compile(r"(?:(double_blocks|single_blocks)\.(\d+)\.)?(.+)\.(weight|bias|scale)")
_FLUX_KINDS = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}


def _convert_flux(network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of Flux by the names of diffusers, whose own conversion knows a single width.

    Names that are not those of Flux stay as they are, for the network to refuse.
    """
    import torch

    width = len(network["img_in.weight"])
    found: dict[str, Tensor] = {}
    for name, tensor in network.items():
        match = _FLUX_NAME.fullmatch(name)
        if match is None:
            found[name] = tensor
            continue
        kind, number, layer, end = match.groups()
        end = "weight" if end == "scale" else end
        if kind is None:
            if layer == "final_layer.adaLN_modulation.1":
                # Diffusers has the scale before the shift.
                shift, scale = tensor.chunk(2)
                tensor = torch.cat([scale, shift])
            found[f"{_FLUX_ENDS.get(layer, layer)}.{end}"] = tensor
            continue
        prefix = f"{_FLUX_KINDS[kind]}.{number}"
        if layer in _FLUX_STACKED:
            # Three matrices of attention, and in single blocks, below them, the first of the perceptron.
            parts = _FLUX_STACKED[layer]
            rows = len(tensor) // 3 if len(parts) == 3 else width
            for each, part in zip(parts, tensor.tensor_split([rows, 2 * rows, 3 * rows]), strict=False):
                found[f"{prefix}.{each}.{end}"] = part
        else:
            found[f"{prefix}.{_FLUX_BLOCKS.get(layer, layer)}.{end}"] = tensor
    return found
