"""HunyuanDiT.

References:
    Li et al., "Hunyuan-DiT: A Powerful Multi-Resolution Diffusion Transformer with Fine-Grained Chinese Understanding",
    2024, arXiv:2405.08748.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import (
    DiffusersFamily,
    FamilyNotes,
    NetworkShape,
    TextPipeline,
    call_network,
    sizes_by_patch,
)
from ddim_edit.models.sizes import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning

_BASE = 64
"""Cells a side of the images whose positions those of other sizes are scaled to."""


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed
    from diffusers.pipelines.hunyuandit import pipeline_hunyuandit

    patch = network.config.patch_size
    grid = x.shape[-2] // patch, x.shape[-1] // patch
    find_region: Any = pipeline_hunyuandit.get_resize_crop_region_for_grid  # untyped
    width = network.inner_dim // network.num_heads
    positions = get_2d_rotary_pos_embed(
        width, find_region(grid, _BASE // patch), grid, device=x.device, output_type="pt"
    )
    return call_network(network, x, time.to(x.dtype), {**conditioning, "image_rotary_emb": positions})


def _shape(config: Any) -> NetworkShape:
    return NetworkShape(config.in_channels, config.in_channels * (2 if config.learn_sigma else 1), config.sample_size)


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    import torch

    found: dict[str, Tensor] = {}
    for index, suffix in enumerate(("", "_t5")):
        states, _, mask, _ = pipeline.encode_prompt(
            text, device, do_classifier_free_guidance=False, text_encoder_index=index
        )
        found |= {f"encoder_hidden_states{suffix}": states, f"text_embedding_mask{suffix}": mask}
    # Its pipeline's own original size, then target size and crop, and no style.
    found["image_meta_size"] = torch.tensor([[1024, 1024, *size, 0, 0]], dtype=torch.float32)
    found["style"] = torch.tensor([0])
    return found


FAMILY = DiffusersFamily(
    name="hunyuan-dit",
    title="HunyuanDiT",
    order=46,
    notes=FamilyNotes(
        example='--model DIR --prompt "a photo of a cat" --guidance-scale 4.5',
        recognised="`HunyuanDiT2DModel`",
        read="betas, v, autoencoder, BERT and multilingual T5",
        assumed="learned variances are left out; no style; original size 1024, as in its pipeline",
        trained="1024",
    ),
    network="HunyuanDiT2DModel",
    unread=r"(^|\.)mlp_t5\.",
    call=_call,
    shape=_shape,
    sizes=sizes_by_patch,
    pipeline=TextPipeline(
        "HunyuanDiTPipeline",
        "transformer",
        ("text_encoder", "text_encoder_2"),
        _encode,
        reads=256,
        options={"requires_safety_checker": False},
        encoder_classes=("BertModel", "T5EncoderModel"),
    ),
)
