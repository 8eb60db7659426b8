"""Codecs: between pictures [B, 3, H, W] in [-1, 1] and the x_0 that a model diffuses."""

from ddim_edit.codec.autoencoder import Affine, Autoencoder, AutoencoderCodec
from ddim_edit.codec.pixels import Codec, ColourCodec, GreyCodec, codec_for
from ddim_edit.codec.refining import REFINERS, FixedPointRefiner, GradientRefiner, Refiner

__all__ = [
    "REFINERS",
    "Affine",
    "Autoencoder",
    "AutoencoderCodec",
    "Codec",
    "ColourCodec",
    "FixedPointRefiner",
    "GradientRefiner",
    "GreyCodec",
    "Refiner",
    "codec_for",
]
