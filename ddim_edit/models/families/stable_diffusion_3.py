"""Stable Diffusion 3.

References:
    Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", ICML 2024,
    arXiv:2403.03206.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import (
    Config,
    DiffusersFamily,
    FamilyNotes,
    OriginalFormat,
    TextPipeline,
    count_of,
)
from ddim_edit.models.originals.transformers import is_stable_diffusion_3, read_stable_diffusion_3
from ddim_edit.models.sizes import Size, SizeRule

if TYPE_CHECKING:
    import torch

    from ddim_edit.models.conditioning import Conditioning


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    states, _, pooled, _ = pipeline.encode_prompt(text, None, None, device, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "pooled_projections": pooled}


def _sizes(config: Config) -> SizeRule:
    # A token is a patch, and there are positions for so many along each side.
    patch = count_of(config, "patch_size", 2)
    return SizeRule(patch, largest=patch * count_of(config, "pos_embed_max_size", 96))


FAMILY = DiffusersFamily(
    name="stable-diffusion-3",
    title="Stable Diffusion 3",
    order=30,
    notes=FamilyNotes(
        example='--model sd3_medium_incl_clips.safetensors --prompt "a photo of a cat" --grid flow',
        recognised="`SD3Transformer2DModel`; in one file `joint_blocks.*`",
        read="flow schedule, autoencoder with shift, two or three text encoders",
        assumed="the shift of its sampler is a grid, `--grid flow`; T5 may be left out",
        trained="1024",
        memory="measured of a network of 10 layers, at 512 pixels: 1.5 in fp16, 1.4 in fp32",
        config={"pos_embed_max_size": 192},
    ),
    network="SD3Transformer2DModel",
    sizes=_sizes,
    pipeline=TextPipeline(
        "StableDiffusion3Pipeline",
        "transformer",
        ("text_encoder", "text_encoder_2", "text_encoder_3"),
        _encode,
        # T5 is most of the checkpoint, so many leave it out.
        optional=("text_encoder_3", "tokenizer_3"),
    ),
    original=OriginalFormat(is_stable_diffusion_3, read_stable_diffusion_3),
)
