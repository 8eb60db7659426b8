"""Stable Diffusion XL, without its refiner.

References:
    Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", ICLR 2024,
    arXiv:2307.01952.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import (
    Config,
    DiffusersFamily,
    FamilyNotes,
    OriginalFormat,
    TextPipeline,
    call_network,
)
from ddim_edit.models.originals.latent_diffusion import is_stable_diffusion_xl, read_stable_diffusion_xl
from ddim_edit.models.sizes import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    """Call the network, which takes the pooled prompt and the size in a mapping of their own."""
    added = {name: conditioning[name] for name in ("text_embeds", "time_ids") if name in conditioning}
    if not added:
        return call_network(network, x, time, conditioning)
    rest = {name: value for name, value in conditioning.items() if name not in added}
    return call_network(network, x, time, {**rest, "added_cond_kwargs": added})  # type: ignore[dict-item]


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    import torch

    states, _, pooled, _ = pipeline.encode_prompt(text, device=device, do_classifier_free_guidance=False)
    # Original size, crop offset and target size, which the network was told in training: an uncropped image.
    sizes = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32)
    return {"encoder_hidden_states": states, "text_embeds": pooled, "time_ids": sizes}


def _adds_text_and_time(config: Config) -> bool:
    return config.get("addition_embed_type") == "text_time"


FAMILY = DiffusersFamily(
    name="stable-diffusion-xl",
    title="Stable Diffusion XL",
    order=21,
    notes=FamilyNotes(
        example='--model sd_xl_base_1.0.safetensors --prompt "a photo of a cat" --guidance-scale 3',
        recognised=(
            "`UNet2DConditionModel` with `addition_embed_type` `text_time`; in one file `label_emb.0.0.weight` too"
        ),
        read=(
            "both text encoders, zeros for an empty negative prompt; Playground 2.5 with EDM and statistics of "
            "latents, as a folder"
        ),
        assumed="the network is told the size of the images as uncropped; no refiner",
        trained="1024",
    ),
    network="UNet2DConditionModel",
    accepts=_adds_text_and_time,
    call=_call,
    sized=False,
    bottleneck=True,
    pipeline=TextPipeline("StableDiffusionXLPipeline", "unet", ("text_encoder", "text_encoder_2"), _encode),
    original=OriginalFormat(is_stable_diffusion_xl, read_stable_diffusion_xl),
)
