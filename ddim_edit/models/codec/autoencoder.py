"""The codec of latent diffusion: x_0 is a trained autoencoder's latent, shifted and scaled."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.transfer import to_device

Affine = float | tuple[float, ...]
"""One number for all latent channels, or one for each."""


class Autoencoder(Protocol):
    """A trained autoencoder, in float32, wherever it lives; draws nothing, so that equal pictures have equal latents.

    Its weights ask for no gradients, and it is differentiable in its input.
    """

    def encode(self, pictures: Tensor) -> Tensor:
        """The latents [B, C, H/f, W/f] of pictures [B, 3, H, W] in [-1, 1]: posterior means where it has posteriors."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """The pictures of latents."""
        ...


@dataclass(frozen=True, eq=False)
class AutoencoderCodec:
    """An autoencoder between pictures and x_0; does not return pictures exactly, however exact the walk is.

    x_0 = (E(p) - shift) scale, p = D(x_0 / scale + shift). Pictures go through one by one, so that none depends on
    its batch and memory on one alone. Decoded pictures may leave [-1, 1]. Gradients flow where x_0 asks for them.

    Args:
        autoencoder: E and D.
        scaling_factor: scale, 1 / std of the latents.
        shift_factor: shift, the mean of the latents.
        factor: f, pixels a side of one cell of x_0.

    Rombach, Blattmann, Lorenz, Esser, Ommer (2022).
    """

    autoencoder: Autoencoder
    scaling_factor: Affine = 1.0
    shift_factor: Affine = 0.0
    factor: int = 8
    lossy: ClassVar[bool] = True

    def encode(self, pictures: Tensor) -> Tensor:
        """x_0, float64 [B, C, H/f, W/f], of pictures [B, 3, H, W] in [-1, 1].

        Raises:
            ArgumentError: pictures whose sides are not multiples of f.
        """
        height, width = pictures.shape[-2:]
        if height % self.factor or width % self.factor:
            wanted = f"pictures whose sides are multiples of {self.factor}"
            raise ArgumentError(wanted, f"{width}x{height}", "crop or resize them")
        z = _one_by_one(self.autoencoder.encode, pictures)
        return (z - _each(self.shift_factor, z)) * _each(self.scaling_factor, z)

    def decode(self, x0: Tensor) -> Tensor:
        """Pictures, float64 [B, 3, H, W], of x_0."""
        x0 = x0.double()
        return _one_by_one(self.autoencoder.decode, x0 / _each(self.scaling_factor, x0) + _each(self.shift_factor, x0))


def _one_by_one(run: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return torch.cat([run(row) for row in torch.split(rows.float(), 1)]).double()


def _each(values: Affine, x: Tensor) -> Tensor:
    """Return the values as float64, against the channels of x [B, C, H, W], on the device of x."""
    return to_device(torch.tensor(values, dtype=torch.float64), x.device).view(-1, 1, 1)
