"""Stable Diffusion 1 and 2.

References:
    Rombach, Blattmann, Lorenz, Esser, Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022,
    arXiv:2112.10752.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import Config, DiffusersFamily, FamilyNotes, OriginalFormat, TextPipeline
from ddim_edit.models.originals.latent_diffusion import is_stable_diffusion, read_stable_diffusion
from ddim_edit.models.sizes import Size

if TYPE_CHECKING:
    import torch

    from ddim_edit.models.conditioning import Conditioning


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    states, _ = pipeline.encode_prompt(text, device, 1, False)
    return {"encoder_hidden_states": states}


def _adds_nothing(config: Config) -> bool:
    return config.get("addition_embed_type") is None


FAMILY = DiffusersFamily(
    name="stable-diffusion",
    title="Stable Diffusion 1 and 2",
    order=20,
    notes=FamilyNotes(
        example='--model v1-5-pruned-emaonly.safetensors --prompt "a photo of a cat" --guidance-scale 3',
        recognised="`UNet2DConditionModel`; in one file `model.diffusion_model.input_blocks.*`",
        read=(
            "prediction type (v for 2), autoencoder, text encoder and tokenizer; latent consistency models by "
            "`time_cond_proj_dim`"
        ),
        assumed=(
            "heads of attention of single files; latent consistency models take the scale of guidance as an "
            "input (8 is usual)"
        ),
        trained="512, of 2 also 768",
        memory=("measured at full size, at 512 pixels: 1.4 in fp16 and bf16, 1.3 in fp32; as one file 1.5 and 1.3"),
    ),
    network="UNet2DConditionModel",
    accepts=_adds_nothing,
    sized=False,
    bottleneck=True,
    pipeline=TextPipeline(
        "StableDiffusionPipeline", "unet", ("text_encoder",), _encode, options={"requires_safety_checker": False}
    ),
    original=OriginalFormat(is_stable_diffusion, read_stable_diffusion),
)
