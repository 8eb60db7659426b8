"""Sana.

References:
    Xie et al., "SANA: Efficient High-Resolution Image Synthesis with Linear Diffusion Transformers", ICLR 2025,
    arXiv:2410.10629.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import DiffusersFamily, FamilyNotes, TextPipeline, call_network, sizes_by_patch
from ddim_edit.models.sizes import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    return call_network(network, x, time * network.config.timestep_scale, conditioning)


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    # The instruction to the language model stands before every prompt, unless the pipeline is called with another one.
    instruction = signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
    return _encode_after(instruction, pipeline, text, device)


def _encode_negative(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    return _encode_after(None, pipeline, text, device)


def _encode_after(instruction: list[str] | None, pipeline: Any, text: str, device: torch.device) -> Conditioning:
    states, mask, _, _ = pipeline.encode_prompt(text, False, device=device, complex_human_instruction=instruction)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


FAMILY = DiffusersFamily(
    name="sana",
    title="Sana",
    order=37,
    notes=FamilyNotes(
        example='--model DIR --prompt "a photo of a cat" --guidance-scale 4 --grid flow',
        recognised="`SanaTransformer2DModel`",
        read="flow schedule, deep autoencoder, Gemma 2",
        assumed=(
            "its pipeline's instruction to Gemma before every prompt, not before negative ones; its sampler "
            "rounds times to whole numbers, ours are exact"
        ),
        trained="1024",
        cell=32,
        config={"patch_size": 1},
    ),
    network="SanaTransformer2DModel",
    unread=r"(^|\.)(attention_y_norm|blocks\.0\.mlp\.inverted_conv)\.",
    call=_call,
    sizes=sizes_by_patch,
    pipeline=TextPipeline(
        "SanaPipeline",
        "transformer",
        ("text_encoder",),
        _encode,
        _encode_negative,
        reads=300,
        encoder_classes=("Gemma2Model",),
        pads="right",
    ),
)
