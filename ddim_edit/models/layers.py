"""Layers that the UNets of this package share."""

import math
from collections.abc import Callable
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimeFeatures(nn.Module):
    """Base of features of time: their frequencies stay in float32 whatever the network is cast to.

    bfloat16 would round index 999 to 1000.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=persistent)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.weight
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weight = exact.to(self.weight.device)
        return self


class SinusoidalFeatures(TimeFeatures):
    """Sines and cosines of time 10000^(-i / (width/2 - freq_shift)), i < width/2, time [B] -> float32 [B, width].

    Args:
        width: number of features; an odd one is filled up with a zero.
        freq_shift: diffusers' word for what is taken from width/2 in the exponent.
        cosines_first: whether cosines come before sines (diffusers' `flip_sin_to_cos`).

    References:
        Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762.
    """

    def __init__(self, width: int, freq_shift: float = 0, cosines_first: bool = False) -> None:
        half = width // 2
        # Real numbers even where the network is made on "meta", since no checkpoint holds them.
        exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device="cpu")
        super().__init__(torch.exp(exponents / (half - freq_shift)), persistent=False)
        self.width = width
        self.cosines_first = cosines_first

    def forward(self, time: Tensor) -> Tensor:
        """Return the features."""
        angle = time[:, None].float() * self.weight
        sines, cosines = angle.sin(), angle.cos()
        features = torch.cat((cosines, sines) if self.cosines_first else (sines, cosines), dim=1)
        return F.pad(features, (0, self.width % 2))


class ResidualSum(nn.Module):
    """The sum of what a residual block computed and its shortcut, (h + shortcut) * factor / divisor.

    Args:
        factor: what the sum is multiplied by.
        divisor: what it is divided by, which rounds otherwise than a product with 1 / divisor.
    """

    def __init__(self, factor: float = 1, divisor: float = 1) -> None:
        super().__init__()
        self.factor = factor
        self.divisor = divisor

    def forward(self, h: Tensor, shortcut: Tensor) -> Tensor:
        """Return the sum of h, which it may overwrite, and shortcut, both [B, C, H, W]."""
        out = h.add_(shortcut)
        if self.factor != 1:
            out = out * self.factor
        return out if self.divisor == 1 else out / self.divisor


class ResidualBlock(nn.Module):
    """The base of residual blocks, by which `blocks` finds what to compile as one region, and which biases to fuse.

    Attributes:
        normed: names of convolutions, each with the name of the norm that takes its output.
        summed: names of the two layers of which `residual_sum` adds the outputs.
        residual_sum: in blocks that have `summed`.
    """

    normed: ClassVar[tuple[tuple[str, str], ...]] = ()
    summed: ClassVar[tuple[str, str] | None] = None
    residual_sum: nn.Module


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


class FusedLayer(nn.Module):
    """The base of layers in kernels of their own, by which `blocks.restore_blocks` finds them without importing any."""

    def unfused(self) -> nn.Module:
        """Return the same layer by operations of torch; its parameters are shared."""
        raise NotImplementedError


class UnbiasedConv2d(nn.Conv2d):
    """A convolution that keeps its bias, under its name, and leaves it to another layer to add."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x without bias."""
        out: Tensor = self._conv_forward(x, self.weight, None)
        return out


def refuse_gradients(x: Tensor) -> None:
    """Check that no gradients of a map are asked for, which the kernels of fused layers do not compute.

    Raises:
        RuntimeError: x requires gradients, and they are enabled.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        raise RuntimeError("A fused layer computes no gradients. Load the model with blocks='eager'.")


def share_norm(
    weight: nn.Parameter, bias: nn.Parameter, groups: int, eps: float, activation: nn.Module, scale_shift: bool
) -> GroupNormAct:
    """Return a norm with these parameters themselves."""
    norm = GroupNormAct(groups, len(weight), eps, activation, scale_shift)
    norm.weight, norm.bias = weight, bias
    return norm
