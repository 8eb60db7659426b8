"""What transformers of several families share: x as a sequence of tokens, positions, and guidance token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.models.families.family import COUNT, Config, NetworkShape
from ddim_edit.models.sizes import SizeRule

if TYPE_CHECKING:
    from torch import Tensor

PATCH = 2
"""Cells a side of a token, in pipelines that make tokens of x before they call the network."""


def to_tokens(x: Tensor, patch: int = PATCH) -> Tensor:
    """Return x [B, C, H, W] as tokens [B, N, C patch^2], row by row; H and W are multiples of patch."""
    import torch.nn.functional as F

    return F.pixel_unshuffle(x, patch).flatten(2).mT


def from_tokens(tokens: Tensor, x: Tensor, patch: int = PATCH) -> Tensor:
    """Return tokens of x in its shape; they may have other channels."""
    import torch.nn.functional as F

    height, width = x.shape[-2:]
    return F.pixel_shuffle(tokens.mT.reshape(len(x), -1, height // patch, width // patch), patch)


def positions_of(x: Tensor, patch: int = PATCH) -> Tensor:
    """Return 0, row and column of every token of x [N, 3]; the first number distinguishes several images."""
    import torch

    # Made on the device itself: a copy from the host cannot be captured in a CUDA graph.
    rows, columns = (torch.arange(side // patch, device=x.device) for side in x.shape[-2:])
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], -1).flatten(0, 1)


def shape_of_tokens(config: Any) -> NetworkShape:
    """Return the shape of a network whose config counts channels of tokens, and has no size.

    Diffusers' pipelines make images of 1024 pixels with it, which are 128 cells.
    """
    out_channels = config.out_channels or config.in_channels
    return NetworkShape(config.in_channels // PATCH**2, out_channels // PATCH**2, 128)


def sizes_of_tokens(config: Config) -> SizeRule:
    """Return the rule of such a network."""
    return SizeRule(PATCH)


def largest_by_axes(config: Config, default: tuple[int, int, int]) -> int:
    """Return the largest side of networks with tables of positions for texts, rows and columns.

    Raises:
        ModelError: the config has no such table.
    """
    axes = schema.read_entry(
        config, "axes_lens", schema.list_of(COUNT, 3), default, source="config.json", error=ModelError
    )
    return PATCH * int(min(axes[1:]))


def guide_with_norm(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Return the guided output with the norm that the conditional one has in every token.

    g = out_u + w (out_c - out_u),  out = g |out_c| / |g|
    """
    return from_tokens(
        with_norm_of(to_tokens(conditional), to_tokens(unconditional.lerp(conditional, scale))), conditional
    )


def with_norm_of(wanted: Tensor, given: Tensor) -> Tensor:
    """Return what is given with the norms that are wanted, along the last dimension."""
    found: Tensor = given * (wanted.norm(dim=-1, keepdim=True) / given.norm(dim=-1, keepdim=True))
    return found
