"""Layers that the UNets of this package share."""

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """The base of residual blocks, by which `blocks.compile_blocks` finds what to compile as one region."""


class GroupNormAct(nn.GroupNorm):
    """A group norm and the activation after it, with the embedding that residual blocks give their second norm.

    Without an embedding y = act(norm(x)); with one y = act(norm(x + emb)), or, where `scale_shift` is set,
    y = act(norm(x) (1 + scale) + shift) for (scale, shift) = emb. Its parameters are named as those of
    `torch.nn.GroupNorm`.

    Args:
        groups: number of groups.
        channels: number of channels, a multiple of `groups`.
        eps: added to the variance.
        activation: applied to the result, which it may overwrite.
        scale_shift: whether an embedding [B, 2 C] scales and shifts what was normalized; otherwise an embedding [B, C]
            is added to x before.

    References:
        Wu and He, "Group Normalization", ECCV 2018, arXiv:1803.08494.
        Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, arXiv:2105.05233.
    """

    def __init__(
        self, groups: int, channels: int, eps: float, activation: nn.Module, scale_shift: bool = False
    ) -> None:
        super().__init__(groups, channels, eps)
        self.activation = activation
        self.scale_shift = scale_shift

    def normalize(self, x: Tensor) -> Tensor:
        """Return norm(x), without embedding and activation."""
        return super().forward(x)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """Return the normalized and activated features.

        Args:
            x: features [B, C, H, W]; overwritten where an embedding is added to them.
            emb: embedding [B, C] or [B, 2 C], or [1, ...] for all rows.

        Returns:
            Features of the shape of x.
        """
        if emb is None:
            h = self.normalize(x)
        elif self.scale_shift:
            scale, shift = emb[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(shift, self.normalize(x), 1 + scale)
        else:
            h = self.normalize(x.add_(emb[:, :, None, None]))
        activated: Tensor = self.activation(h)
        return activated
