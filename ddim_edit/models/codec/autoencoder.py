"""The codec of latent diffusion: x_0 is a trained autoencoder's latent, shifted and scaled."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.transfer import to_device

Affine = float | tuple[float, ...]
"""One number for all latent channels, or one for each."""


class Autoencoder(Protocol):
    """A trained autoencoder, in float32 on any device. It draws nothing, so that equal images have equal latents.

    Its weights need no gradients, and it is differentiable in its input.
    """

    @property
    def network(self) -> Any:
        """The network of diffusers that it runs."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Return the latents [B, C, H/f, W/f] of images [B, 3, H, W] in [-1, 1]: means of posteriors."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of latents."""
        ...


@dataclass(frozen=True, eq=False)
class AutoencoderCodec:
    """An autoencoder between images and x_0. It does not return images exactly, however exact the inversion is.

    x_0 = (E(p) - shift) scale, p = D(x_0 / scale + shift). Images go through one by one, so that none depends on its
    batch, and memory on one image alone. Decoded images may leave [-1, 1]. Gradients flow where x_0 requires them.

    Args:
        autoencoder: E and D.
        scaling_factor: scale, 1 / std of the latents.
        shift_factor: shift, the mean of the latents.
        factor: f, pixels a side of one cell of x_0.
        component: what identifies it, in `Model.components`; empty where nothing does.

    References:
        Rombach, Blattmann, Lorenz, Esser, Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models",
        CVPR 2022, arXiv:2112.10752.
    """

    autoencoder: Autoencoder
    scaling_factor: Affine = 1.0
    shift_factor: Affine = 0.0
    factor: int = 8
    component: str = ""
    lossy: ClassVar[bool] = True

    def encode(self, images: Tensor) -> Tensor:
        """Return x_0, float64 [B, C, H/f, W/f], of images [B, 3, H, W] in [-1, 1].

        Raises:
            ArgumentError: images whose sides are not multiples of f.
        """
        height, width = images.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ArgumentError(
                f"The sides of images must be multiples of {self.factor}, which {width}x{height} are not. Crop or "
                "resize them."
            )
        z = _run_singly(self.autoencoder.encode, images)
        return (z - _per_channel(self.shift_factor, z)) * _per_channel(self.scaling_factor, z)

    def decode(self, x0: Tensor) -> Tensor:
        """Return images, float64 [B, 3, H, W], of x_0."""
        x0 = x0.double()
        z = x0 / _per_channel(self.scaling_factor, x0) + _per_channel(self.shift_factor, x0)
        return _run_singly(self.autoencoder.decode, z)


def _run_singly(run: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return torch.cat([run(row) for row in torch.split(rows.float(), 1)]).double()


def _per_channel(values: Affine, x: Tensor) -> Tensor:
    """Return the values as float64, against the channels of x [B, C, H, W], on the device of x."""
    return to_device(torch.tensor(values, dtype=torch.float64), x.device).view(-1, 1, 1)
