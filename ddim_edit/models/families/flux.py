"""Flux (Black Forest Labs, 2024): FLUX.1-dev and FLUX.1-schnell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.models.families.family import Config, DiffusersFamily, NetworkShape, OriginalFormat, TextPipeline
from ddim_edit.models.originals.transformers import is_flux, read_flux
from ddim_edit.models.sizes import Size, SizeRule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.models.conditioning import Conditioning


def _call(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    """Call the network, one token of which is 2x2 cells of x [B, C, H, W]; H and W are even."""
    import torch
    import torch.nn.functional as F

    patches = F.pixel_unshuffle(x, 2)
    height, width = patches.shape[-2:]
    # Row and column of every token [height width, 3]; the first number distinguishes several images of one sequence.
    # Made on the device itself: a copy from the host cannot be captured in a CUDA graph.
    rows = torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    positions = torch.stack([torch.zeros_like(row), row, column], -1).flatten(0, 1)
    text = conditioning["encoder_hidden_states"]
    output: Tensor = network(
        patches.flatten(2).mT,
        timestep=time / 1000,
        img_ids=positions.to(x.dtype),
        txt_ids=text.new_zeros(text.shape[1], 3),
        **conditioning,
        return_dict=False,
    )[0]
    return F.pixel_shuffle(output.mT.reshape(len(x), -1, height, width), 2)


def _shape(config: Any) -> NetworkShape:
    # The config counts channels of tokens. It has no size; diffusers' pipeline makes 1024 pixels, which are 128 cells.
    out_channels = config.out_channels or config.in_channels
    return NetworkShape(config.in_channels // 4, out_channels // 4, 128)


def _sizes(config: Config) -> SizeRule:
    return SizeRule(2)


def _encode(pipeline: Any, text: str, device: torch.device, size: Size) -> Conditioning:
    states, pooled, _ = pipeline.encode_prompt(text, None, device)
    return {"encoder_hidden_states": states, "pooled_projections": pooled}


FAMILY = DiffusersFamily(
    name="flux",
    title="Flux",
    help="A rectified flow of 1024 pixels. FLUX.1-dev takes the scale of guidance as an input (3.5 is usual).",
    order=31,
    network="FluxTransformer2DModel",
    call=_call,
    shape=_shape,
    sizes=_sizes,
    even_shares=True,
    pipeline=TextPipeline("FluxPipeline", "transformer", ("text_encoder", "text_encoder_2"), _encode),
    original=OriginalFormat(is_flux, read_flux),
)
