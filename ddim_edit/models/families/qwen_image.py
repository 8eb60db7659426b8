"""Qwen-Image.

References:
    Wu et al., "Qwen-Image Technical Report", 2025, arXiv:2508.02324.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import DiffusersFamily, FamilyNotes, NetworkShape, TextPipeline, even_shares
from ddim_edit.models.families.tokens import PATCH, from_tokens, guide_with_norm, sizes_of_tokens, to_tokens
from ddim_edit.models.sizes import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    height, width = x.shape[-2:]
    shapes = [[(1, height // PATCH, width // PATCH)]] * len(x)
    output = network(to_tokens(x), timestep=time / 1000, img_shapes=shapes, **conditioning, return_dict=False)[0]
    return from_tokens(output, x)


def _shape(config: Any) -> NetworkShape:
    # Channels of tokens come in, and those that go out are counted for each cell.
    return NetworkShape(config.in_channels // PATCH**2, config.out_channels, 128)


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    states, _ = pipeline.encode_prompt(text, device=device, max_sequence_length=512)
    return {"encoder_hidden_states": states}


FAMILY = DiffusersFamily(
    name="qwen-image",
    title="Qwen-Image",
    order=32,
    notes=FamilyNotes(
        example='--model DIR --prompt "a photo of a cat" --guidance-scale 4 --grid flow',
        recognised="`QwenImageTransformer2DModel`",
        read="flow schedule that shifts by the size, autoencoder with statistics of its latents, Qwen 2.5 VL",
        assumed="guidance keeps the norm that every token has under the prompt, as in its pipeline",
        trained="1024",
    ),
    network="QwenImageTransformer2DModel",
    unread=r"(^|\.)transformer_blocks\.0\.img_mod\.",
    call=_call,
    shape=_shape,
    sizes=sizes_of_tokens,
    sampler=even_shares,
    tokens=PATCH,
    guidance=guide_with_norm,
    pipeline=TextPipeline(
        "QwenImagePipeline",
        "transformer",
        ("text_encoder",),
        _encode,
        reads=512,
        encoder_classes=("Qwen2_5_VLForConditionalGeneration",),
    ),
)
