"""Codecs of models that diffuse images themselves: x_0 is the image, in [-1, 1], in colour or grey."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.transfer import to_device


class Codec(Protocol):
    """A map from images to x_0 and back."""

    @property
    def factor(self) -> int:
        """Pixels a side of one cell of x_0."""
        ...

    @property
    def lossy(self) -> bool:
        """Whether encoding and decoding change an image by more than rounding."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Return x_0 of images [B, 3, H, W]."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Return images [B, 3, H, W] of x_0."""
        ...


class ColourCodec:
    """Codec of models that diffuse RGB images themselves: the identity."""

    factor = 1
    lossy = False

    def encode(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images

    def decode(self, x0: Tensor) -> Tensor:
        """Return the images."""
        return x0


class GreyCodec:
    """Codec of models that diffuse grey images: luma one way, three equal channels the other; colour is lost.

    Luma is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
    """

    factor = 1
    lossy = True

    def encode(self, images: Tensor) -> Tensor:
        """Return x_0 [B, 1, H, W] of images [B, 3, H, W]."""
        luma = to_device(torch.tensor((0.299, 0.587, 0.114), dtype=images.dtype), images.device)
        return torch.einsum("bchw,c->bhw", images, luma)[:, None]

    def decode(self, x0: Tensor) -> Tensor:
        """Return images [B, 3, H, W] of x_0 [B, 1, H, W]."""
        return x0.expand(-1, 3, -1, -1)


_CODECS: Mapping[int, Codec] = {3: ColourCodec(), 1: GreyCodec()}


def codec_for(channels: int) -> Codec:
    """Return the codec of a pixel model with that many channels.

    Raises:
        ModelError: neither 1 nor 3.
    """
    if channels not in _CODECS:
        raise ModelError(f"A pixel model must have 1 or 3 channels, not {channels}. Use another checkpoint.")
    return _CODECS[channels]
