"""Stable Diffusion 1 and 2.

References:
    Rombach, Blattmann, Lorenz, Esser, Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022,
    arXiv:2112.10752.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import Config, DiffusersFamily, OriginalFormat, TextPipeline
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
    help="Prediction, autoencoder and text encoder are read from the folder. h-space works without guidance.",
    order=20,
    network="UNet2DConditionModel",
    accepts=_adds_nothing,
    sized=False,
    bottleneck=True,
    pipeline=TextPipeline(
        "StableDiffusionPipeline", "unet", ("text_encoder",), _encode, options={"requires_safety_checker": False}
    ),
    original=OriginalFormat(is_stable_diffusion, read_stable_diffusion),
)
