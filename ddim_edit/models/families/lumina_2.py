"""Lumina-Image 2.0.

References:
    Qin et al., "Lumina-Image 2.0: A Unified and Efficient Image Generative Framework", ICCV 2025, arXiv:2503.21758.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import (
    Config,
    DiffusersFamily,
    FamilyNotes,
    TextPipeline,
    call_network,
    count_of,
    even_shares,
)
from ddim_edit.models.families.tokens import largest_by_axes, with_norm_of
from ddim_edit.models.sizes import Size, SizeRule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    # Its times go from noise to image, and so does its velocity.
    return -call_network(network, x, 1 - time / 1000, conditioning)


def _guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Guide with the norm that the conditional output has in every row of every channel, as its pipeline does."""
    return with_norm_of(conditional, unconditional.lerp(conditional, scale))


def _sizes(config: Config) -> SizeRule:
    return SizeRule(count_of(config, "patch_size", 2), largest=largest_by_axes(config, (300, 512, 512)))


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    states, mask, _, _ = pipeline.encode_prompt(text, False, device=device)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def _encode_negative(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    # A negative prompt stands alone, a prompt after the instruction to the language model.
    _, _, states, mask = pipeline.encode_prompt("", negative_prompt=text, device=device)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


FAMILY = DiffusersFamily(
    name="lumina-2",
    title="Lumina-Image 2.0",
    order=38,
    notes=FamilyNotes(
        example='--model DIR --prompt "a photo of a cat" --guidance-scale 4 --grid flow',
        recognised="`Lumina2Transformer2DModel`",
        read="flow schedule, autoencoder, Gemma 2",
        assumed="its pipeline's instruction to Gemma, as with Sana; guidance keeps the norm of every row",
        trained="1024",
    ),
    network="Lumina2Transformer2DModel",
    unread=r"(^|\.)cap_embedder\.",
    call=_call,
    sizes=_sizes,
    sampler=even_shares,
    guidance=_guide,
    pipeline=TextPipeline(
        "Lumina2Pipeline",
        "transformer",
        ("text_encoder",),
        _encode,
        _encode_negative,
        reads=256,
        encoder_classes=("Gemma2Model",),
        pads="right",
    ),
)
