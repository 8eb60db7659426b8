"""CogView4 (Zhipu AI, 2025)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ddim_edit.diffusion.sampler_times import RootShift, SamplerTimes
from ddim_edit.models.families.family import DiffusersFamily, FamilyNotes, TextPipeline, sizes_by_patch
from ddim_edit.models.sizes import Size

if TYPE_CHECKING:
    import torch

    from ddim_edit.models.conditioning import Conditioning


def _sampler(sampler: SamplerTimes) -> SamplerTimes:
    given = sampler.dynamic_shift
    rule = None if given is None else RootShift(given.least, given.most, given.few, given.many, given.exponential)
    return replace(sampler, shares="whole", dynamic_shift=rule)


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    import torch

    states, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False, device=device)
    # Original size, target size and crop, which the network was told in training: an uncropped image.
    sides = torch.tensor([size], dtype=torch.float32)
    return {
        "encoder_hidden_states": states,
        "original_size": sides,
        "target_size": sides,
        "crop_coords": torch.zeros_like(sides),
    }


FAMILY = DiffusersFamily(
    name="cog-view-4",
    title="CogView4",
    order=40,
    notes=FamilyNotes(
        example='--model DIR --prompt "a photo of a cat" --guidance-scale 4 --grid flow',
        recognised="`CogView4Transformer2DModel`",
        read="flow schedule that shifts by the size, autoencoder, GLM",
        assumed="the network is told the size of the images as uncropped, and times as they were before the shift",
        trained="1024",
    ),
    network="CogView4Transformer2DModel",
    sizes=sizes_by_patch,
    sampler=_sampler,
    unshifted_times=True,
    pipeline=TextPipeline(
        "CogView4Pipeline", "transformer", ("text_encoder",), _encode, reads=1024, encoder_classes=("GlmModel",)
    ),
)
