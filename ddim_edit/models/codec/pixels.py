"""Codecs of models that diffuse pictures themselves: x_0 is the picture, in [-1, 1], in colour or grey."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.transfer import to_device


class Codec(Protocol):
    """A way from pictures to x_0 and back."""

    @property
    def factor(self) -> int:
        """Pixels a side of one cell of x_0."""
        ...

    @property
    def lossy(self) -> bool:
        """Whether a picture may come back changed, by more than rounding, however good the walk was."""
        ...

    def encode(self, pictures: Tensor) -> Tensor:
        """x_0 of pictures [B, 3, H, W]."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] of x_0."""
        ...


class ColourCodec:
    """For models that diffuse RGB pictures themselves: the identity."""

    factor = 1
    lossy = False

    def encode(self, pictures: Tensor) -> Tensor:
        """The pictures."""
        return pictures

    def decode(self, x0: Tensor) -> Tensor:
        """The pictures."""
        return x0


class GreyCodec:
    """For models that diffuse grey pictures: luma one way, three equal channels the other; colour is lost.

    Luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
    """

    factor = 1
    lossy = True

    def encode(self, pictures: Tensor) -> Tensor:
        """x_0 [B, 1, H, W] of pictures [B, 3, H, W]."""
        luma = to_device(torch.tensor((0.299, 0.587, 0.114), dtype=pictures.dtype), pictures.device)
        return torch.einsum("bchw,c->bhw", pictures, luma)[:, None]

    def decode(self, x0: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] of x_0 [B, 1, H, W]."""
        return x0.expand(-1, 3, -1, -1)


_CODECS: Mapping[int, Codec] = {3: ColourCodec(), 1: GreyCodec()}


def codec_for(channels: int) -> Codec:
    """The codec of a pixel model with that many channels.

    Raises:
        ModelError: neither 1 nor 3.
    """
    if channels not in _CODECS:
        raise ModelError("a pixel model with 1 or 3 channels", f"one with {channels}", "use another checkpoint")
    return _CODECS[channels]
