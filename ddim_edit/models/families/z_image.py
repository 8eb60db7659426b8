"""Z-Image and Z-Image-Turbo.

References:
    Z-Image Team, "Z-Image: An Efficient Image Generation Foundation Model with Single-Stream Diffusion Transformer",
    2025, arXiv:2511.22699.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import (
    Config,
    DiffusersFamily,
    FamilyNotes,
    NetworkShape,
    TextPipeline,
    even_shares,
)
from ddim_edit.models.families.tokens import PATCH, largest_by_axes
from ddim_edit.models.sizes import Size, SizeRule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    import torch

    # Its times go from noise to image, it takes lists of videos and texts, and it answers with x0 - eps.
    videos, texts = list(x[:, :, None]), list(conditioning["encoder_hidden_states"])
    output = network(videos, (1000 - time) / 1000, texts, return_dict=False)[0]
    return -torch.stack(output)[:, :, 0]


def _shape(config: Any) -> NetworkShape:
    return NetworkShape(config.in_channels, config.in_channels, 128)


def _sizes(config: Config) -> SizeRule:
    return SizeRule(PATCH, largest=largest_by_axes(config, (1024, 512, 512)))


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    (states,), _ = pipeline.encode_prompt(text, device, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states[None]}


FAMILY = DiffusersFamily(
    name="z-image",
    title="Z-Image",
    order=33,
    notes=FamilyNotes(
        example='--model DIR --prompt "a photo of a cat" --guidance-scale 6 --grid flow',
        recognised="`ZImageTransformer2DModel`",
        read="flow schedule, autoencoder, Qwen 3 with its template",
        assumed=(
            "a scale of guidance is one more than that of its pipeline, so that 1 is none; Z-Image-Turbo needs none"
        ),
        trained="1024",
    ),
    network="ZImageTransformer2DModel",
    unread=r"(^|\.)cap_pad_token$",
    call=_call,
    shape=_shape,
    sizes=_sizes,
    sampler=even_shares,
    pipeline=TextPipeline(
        "ZImagePipeline",
        "transformer",
        ("text_encoder",),
        _encode,
        reads=512,
        encoder_classes=("Qwen3Model", "Qwen3ForCausalLM"),
    ),
)
