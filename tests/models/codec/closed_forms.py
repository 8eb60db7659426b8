"""Autoencoders that are linear maps, so that the best code of a picture is known."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = 12


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(n: int = CHANNELS, seed: int = 0) -> Tensor:
    return torch.linalg.qr(randn(n, n, seed=seed)).Q.float()


@dataclass
class Folding:
    """Blocks of 2x2 pixels as 12 channels, mixed by an orthogonal matrix: D = E^-1 = E^T."""

    mixing: Tensor = field(default_factory=orthogonal)

    def encode(self, pictures: Tensor) -> Tensor:
        return torch.einsum("ck,bkhw->bchw", self.mixing, F.pixel_unshuffle(pictures, 2))

    def decode(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(torch.einsum("ck,bchw->bkhw", self.mixing, z), 2)


@dataclass
class Linear:
    """Blocks of 2x2 pixels p as latents A p, and latents z as blocks B z; A need not be the best for B.

    Args:
        encoder: A, [C, 12].
        decoder: B, [12, C].
    """

    encoder: Tensor
    decoder: Tensor

    def encode(self, pictures: Tensor) -> Tensor:
        return torch.einsum("ck,bkhw->bchw", self.encoder, F.pixel_unshuffle(pictures, 2))

    def decode(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(torch.einsum("kc,bchw->bkhw", self.decoder, z), 2)

    def best(self, pictures: Tensor) -> Tensor:
        """The latents of least squares, in float64."""
        inverse = torch.linalg.pinv(self.decoder.double())
        return torch.einsum("ck,bkhw->bchw", inverse, F.pixel_unshuffle(pictures.double(), 2))
