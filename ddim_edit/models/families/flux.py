"""Flux (Black Forest Labs, 2024): FLUX.1-dev and FLUX.1-schnell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import DiffusersFamily, FamilyNotes, OriginalFormat, TextPipeline, even_shares
from ddim_edit.models.families.tokens import (
    PATCH,
    from_tokens,
    positions_of,
    shape_of_tokens,
    sizes_of_tokens,
    to_tokens,
)
from ddim_edit.models.originals.transformers import is_flux, read_flux
from ddim_edit.models.sizes import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    text = conditioning["encoder_hidden_states"]
    output = network(
        to_tokens(x),
        timestep=time / 1000,
        img_ids=positions_of(x).to(x.dtype),
        txt_ids=text.new_zeros(text.shape[1], 3),
        **conditioning,
        return_dict=False,
    )[0]
    return from_tokens(output, x)


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    states, pooled, _ = pipeline.encode_prompt(text, None, device)
    return {"encoder_hidden_states": states, "pooled_projections": pooled}


FAMILY = DiffusersFamily(
    name="flux",
    title="Flux",
    order=31,
    notes=FamilyNotes(
        example=(
            '--model flux1-dev.safetensors --base DIR --prompt "a photo of a cat" --guidance-scale 3.5 --grid flow'
        ),
        recognised="`FluxTransformer2DModel`; in one file `double_blocks.*`",
        read="flow schedule, autoencoder with shift, CLIP and T5",
        assumed="FLUX.1-dev takes the scale of guidance as an input (3.5 is usual), schnell is distilled to few steps",
        trained="1024",
    ),
    network="FluxTransformer2DModel",
    call=_call,
    shape=shape_of_tokens,
    sizes=sizes_of_tokens,
    sampler=even_shares,
    tokens=PATCH,
    pipeline=TextPipeline("FluxPipeline", "transformer", ("text_encoder", "text_encoder_2"), _encode),
    original=OriginalFormat(is_flux, read_flux),
)
