"""Flux.2 klein (Black Forest Labs, 2026)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ddim_edit.diffusion.sampler_times import EmpiricalShift, SamplerTimes
from ddim_edit.models.families.family import Config, DiffusersFamily, NetworkShape, TextPipeline, even_shares
from ddim_edit.models.families.tokens import from_tokens, positions_of, to_tokens
from ddim_edit.models.sizes import Size

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    import torch
    import torch.nn.functional as F

    # A token is one cell of x_0. Positions are image, row, column and place in the text.
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


def _shape(config: Any) -> NetworkShape:
    return NetworkShape(config.in_channels, config.out_channels or config.in_channels, 64)


def _sampler(sampler: SamplerTimes) -> SamplerTimes:
    dynamic = sampler.dynamic_shift
    rule = None if dynamic is None else EmpiricalShift(exponential=dynamic.exponential)
    return replace(even_shares(sampler), dynamic_shift=rule)


def _has_no_guidance(config: Config) -> bool:
    return config.get("guidance_embeds") is False


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    states, _ = pipeline.encode_prompt(text, device)
    return {"encoder_hidden_states": states}


FAMILY = DiffusersFamily(
    name="flux-2-klein",
    title="Flux.2 klein",
    help="A rectified flow of 1024 pixels with a Qwen 3 text encoder. A cell of x_0 is 16 pixels a side.",
    order=34,
    network="Flux2Transformer2DModel",
    accepts=_has_no_guidance,
    call=_call,
    shape=_shape,
    sampler=_sampler,
    pipeline=TextPipeline(
        "Flux2KleinPipeline",
        "transformer",
        ("text_encoder",),
        _encode,
        reads=512,
        encoder_classes=("Qwen3ForCausalLM",),
    ),
)
