"""PixArt-alpha and PixArt-Sigma.

References:
    Chen et al., "PixArt-alpha: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image Synthesis",
    ICLR 2024, arXiv:2310.00426.
    Chen et al., "PixArt-Sigma: Weak-to-Strong Training of Diffusion Transformer for 4K Text-to-Image Generation",
    ECCV 2024, arXiv:2403.04692.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import DiffusersFamily, FamilyNotes, TextPipeline, sizes_by_patch
from ddim_edit.models.sizes import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


_SIZE = ("resolution", "aspect_ratio")
"""What PixArt-alpha of 1024 pixels is told of the size of the image."""


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    added = {name: conditioning.get(name) for name in _SIZE}
    text = {name: value for name, value in conditioning.items() if name not in _SIZE}
    output: Tensor = network(x, timestep=time, added_cond_kwargs=added, **text, return_dict=False)[0]
    return output


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    import torch

    states, mask, _, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False, device=device)
    found = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    if pipeline.transformer.use_additional_conditions:
        height, width = map(float, size)
        found |= {"resolution": torch.tensor([[height, width]]), "aspect_ratio": torch.tensor([[height / width]])}
    return found


FAMILY = DiffusersFamily(
    name="pixart",
    title="PixArt-alpha and PixArt-Sigma",
    order=45,
    notes=FamilyNotes(
        example='--model DIR --prompt "a photo of a cat" --guidance-scale 4.5 --grid linspace --solver dpm2m',
        recognised="`PixArtTransformer2DModel`, or `Transformer2DModel` with `ada_norm_single`",
        read="betas, autoencoder, T5, which of the two it is",
        assumed=(
            "learned variances are left out; PixArt-alpha of 1024 pixels is told the size; the solver and "
            "grid above are its sampler"
        ),
        trained="256 to 2048",
        memory="measured of the network at full size, at 1024 pixels: 1.9 in fp16, 1.6 in fp32",
    ),
    network="PixArtTransformer2DModel",
    unread=r"(^|\.)y_embedder\.y_proj\.",
    call=_call,
    sizes=sizes_by_patch,
    pipeline=TextPipeline(
        "PixArtSigmaPipeline",
        "transformer",
        ("text_encoder",),
        _encode,
        reads=300,
        variants={"PixArtAlphaPipeline": 120},
    ),
)
