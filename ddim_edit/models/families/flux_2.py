"""Flux.2 (Black Forest Labs, 2025): FLUX.2-dev."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ddim_edit.diffusion.sampler_times import EmpiricalShift, SamplerTimes
from ddim_edit.models.families.family import (
    Config,
    DiffusersFamily,
    FamilyNotes,
    NetworkShape,
    TextPipeline,
    even_shares,
)
from ddim_edit.models.families.tokens import from_tokens, positions_of, to_tokens
from ddim_edit.models.sizes import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


def call_flux_2(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    """Call the network, one token of which is one cell of x."""
    import torch
    import torch.nn.functional as F

    # Positions are image, row, column and place in the text.
    text = conditioning["encoder_hidden_states"]
    places = torch.arange(text.shape[1], device=x.device)
    output = network(
        to_tokens(x, 1),
        timestep=time / 1000,
        img_ids=F.pad(positions_of(x, 1), (0, 1)),
        txt_ids=F.pad(places[:, None], (3, 0)),
        **conditioning,
        return_dict=False,
    )[0]
    return from_tokens(output, x, 1)


def shape_of_flux_2(config: Any) -> NetworkShape:
    """Return its channels; it has no size, and diffusers' pipeline makes 1024 pixels, which are 64 cells."""
    return NetworkShape(config.in_channels, config.out_channels or config.in_channels, 64)


def stepwise_shares(sampler: SamplerTimes) -> SamplerTimes:
    """Return the settings of its pipeline, which spaces shares evenly and shifts them by tokens and steps."""
    dynamic = sampler.dynamic_shift
    rule = None if dynamic is None else EmpiricalShift(exponential=dynamic.exponential)
    return replace(even_shares(sampler), dynamic_shift=rule)


def encode_flux_2(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    """Return what the network gets for a text."""
    states, _ = pipeline.encode_prompt(text, device)
    return {"encoder_hidden_states": states}


def _has_guidance(config: Config) -> bool:
    return config.get("guidance_embeds") is not False


FAMILY = DiffusersFamily(
    name="flux-2",
    title="Flux.2",
    order=34,
    notes=FamilyNotes(
        example='--model DIR --prompt "a photo of a cat" --guidance-scale 4 --grid flow',
        recognised="`Flux2Transformer2DModel` with `guidance_embeds`",
        read="flow schedule, autoencoder with the normalisation of its patches, Mistral 3 with its template",
        assumed="the scale of guidance is an input; the shift depends on size and steps",
        trained="1024",
        cell=16,
    ),
    network="Flux2Transformer2DModel",
    unread=r"(^|\.)double_stream_modulation_",
    accepts=_has_guidance,
    call=call_flux_2,
    shape=shape_of_flux_2,
    sampler=stepwise_shares,
    tokens=1,
    packs=True,
    pipeline=TextPipeline(
        "Flux2Pipeline",
        "transformer",
        ("text_encoder",),
        encode_flux_2,
        reads=512,
        encoder_classes=("Mistral3ForConditionalGeneration",),
    ),
)
