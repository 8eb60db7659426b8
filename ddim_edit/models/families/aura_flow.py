"""AuraFlow (Fal, 2024)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import Config, DiffusersFamily, FamilyNotes, TextPipeline, call_network, count_of
from ddim_edit.models.sizes import Size, SizeRule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    return call_network(network, x, time / 1000, conditioning)


def _sizes(config: Config) -> SizeRule:
    # A token is a patch, and there are positions for a square of so many.
    patch = count_of(config, "patch_size", 2)
    return SizeRule(patch, largest=patch * math.isqrt(count_of(config, "pos_embed_max_size", 1024)))


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    states, *_ = pipeline.encode_prompt(text, do_classifier_free_guidance=False, device=device)
    return {"encoder_hidden_states": states}


FAMILY = DiffusersFamily(
    name="aura-flow",
    title="AuraFlow",
    order=39,
    notes=FamilyNotes(
        example='--model DIR --prompt "a photo of a cat" --guidance-scale 4 --grid flow',
        recognised="`AuraFlowTransformer2DModel`",
        read="flow schedule, autoencoder, T5",
        trained="1024",
        config={"pos_embed_max_size": 9216},
    ),
    network="AuraFlowTransformer2DModel",
    unread=r"(^|\.)double_layers\.",
    call=_call,
    sizes=_sizes,
    pipeline=TextPipeline(
        "AuraFlowPipeline",
        "transformer",
        ("text_encoder",),
        _encode,
        reads=256,
        encoder_classes=("UMT5EncoderModel", "T5EncoderModel"),
    ),
)
