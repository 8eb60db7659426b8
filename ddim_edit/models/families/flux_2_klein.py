"""Flux.2 klein (Black Forest Labs, 2026)."""

from __future__ import annotations

from ddim_edit.models.families.family import Config, DiffusersFamily, FamilyNotes, TextPipeline
from ddim_edit.models.families.flux_2 import call_flux_2, encode_flux_2, shape_of_flux_2, stepwise_shares


def _has_no_guidance(config: Config) -> bool:
    return config.get("guidance_embeds") is False


FAMILY = DiffusersFamily(
    name="flux-2-klein",
    title="Flux.2 klein",
    order=35,
    notes=FamilyNotes(
        example='--model DIR --prompt "a photo of a cat" --grid flow',
        recognised="`Flux2Transformer2DModel` without `guidance_embeds`",
        read="as Flux.2, with Qwen 3",
        assumed="the shift depends on size and steps",
        trained="1024",
        cell=16,
    ),
    network="Flux2Transformer2DModel",
    accepts=_has_no_guidance,
    call=call_flux_2,
    shape=shape_of_flux_2,
    sampler=stepwise_shares,
    tokens=1,
    packs=True,
    pipeline=TextPipeline(
        "Flux2KleinPipeline",
        "transformer",
        ("text_encoder",),
        encode_flux_2,
        reads=512,
        encoder_classes=("Qwen3ForCausalLM",),
    ),
)
