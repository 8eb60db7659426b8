"""Chroma (Lodestone Rock, 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import DiffusersFamily, FamilyNotes, TextPipeline, even_shares
from ddim_edit.models.families.tokens import (
    PATCH,
    from_tokens,
    positions_of,
    shape_of_tokens,
    sizes_of_tokens,
    to_tokens,
)
from ddim_edit.models.sizes import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    import torch

    tokens, text = to_tokens(x), conditioning["encoder_hidden_states"]
    # The mask of the text goes on over the image, all of which is read.
    mask = torch.cat([conditioning["attention_mask"], tokens.new_ones(tokens.shape[:2])], 1)
    output = network(
        tokens,
        encoder_hidden_states=text,
        timestep=time / 1000,
        img_ids=positions_of(x).to(x.dtype),
        txt_ids=text.new_zeros(text.shape[1], 3),
        attention_mask=mask,
        return_dict=False,
    )[0]
    return from_tokens(output, x)


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    states, _, mask, *_ = pipeline.encode_prompt(text, device=device, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "attention_mask": mask}


FAMILY = DiffusersFamily(
    name="chroma",
    title="Chroma",
    order=36,
    notes=FamilyNotes(
        example='--model DIR --prompt "a photo of a cat" --guidance-scale 4 --grid flow',
        recognised="`ChromaTransformer2DModel`",
        read="flow schedule, autoencoder, T5",
        assumed="the mask of the text covers one token of padding, as in its pipeline",
        trained="1024",
    ),
    network="ChromaTransformer2DModel",
    unread=r"(^|\.)distilled_guidance_layer\.",
    call=_call,
    shape=shape_of_tokens,
    sizes=sizes_of_tokens,
    sampler=even_shares,
    tokens=PATCH,
    pipeline=TextPipeline("ChromaPipeline", "transformer", ("text_encoder",), _encode, reads=512),
)
