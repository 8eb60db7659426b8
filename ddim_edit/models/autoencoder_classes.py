"""The autoencoders of diffusers: how each class is called, and what its latents are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ddim_edit.errors import ModelError

Config = Mapping[str, Any]


def _posterior_mode(network: Any, images: Tensor) -> Tensor:
    latents: Tensor = network.encode(images).latent_dist.mode()
    return latents


def _plain_latents(network: Any, images: Tensor) -> Tensor:
    latents: Tensor = network.encode(images).latents
    return latents


def _latent(network: Any, images: Tensor) -> Tensor:
    latents: Tensor = network.encode(images).latent
    return latents


def _decoded(network: Any, z: Tensor) -> Tensor:
    images: Tensor = network.decode(z).sample
    return images


def _frame_mode(network: Any, images: Tensor) -> Tensor:
    """Encode images as videos of one frame."""
    return _posterior_mode(network, images[:, :, None])[:, :, 0]


def _decoded_frame(network: Any, z: Tensor) -> Tensor:
    return _decoded(network, z[:, :, None])[:, :, 0]


def _patched_mode(network: Any, images: Tensor) -> Tensor:
    return F.pixel_unshuffle(_posterior_mode(network, images), _PATCH)


def _decoded_patches(network: Any, z: Tensor) -> Tensor:
    return _decoded(network, F.pixel_shuffle(z, _PATCH))


class AutoencoderClass(NamedTuple):
    """What must be known of an autoencoder of diffusers.

    Fields: encode and decode call it; widths is the config entry with one number for every size that images pass
    through, default_widths what it is where it is missing; channels is the entry with the channels of its latents;
    scaling_factor is what that is where the config has none; patch is how many cells a side of its latents are one of
    x_0; tiles says whether it can cut images into tiles.
    """

    encode: Callable[[Any, Tensor], Tensor]
    decode: Callable[[Any, Tensor], Tensor] = _decoded
    widths: str = "block_out_channels"
    default_widths: tuple[int, ...] = (64,)
    channels: str = "latent_channels"
    scaling_factor: float = 1.0
    patch: int = 1
    tiles: bool = False

    def factor(self, widths: Sequence[object]) -> int:
        """Return how many pixels a side of one cell of x_0 has."""
        return int(2 ** (len(widths) - 1)) * self.patch


_PATCH = 2
"""Cells a side of what Flux.2 takes for one."""
_CLASSES: Mapping[str, AutoencoderClass] = {
    "AutoencoderKL": AutoencoderClass(_posterior_mode, scaling_factor=0.18215, tiles=True),
    # Diffusers' default is that of Stable Diffusion, but the released LDMs (celebahq-256) never scaled VQ latents.
    "VQModel": AutoencoderClass(_plain_latents),
    # Its tiling assumes 4 latent channels, which those for Stable Diffusion 3 and Flux do not have.
    "AutoencoderTiny": AutoencoderClass(_plain_latents, widths="encoder_block_out_channels", default_widths=(64,) * 4),
    "AutoencoderKLQwenImage": AutoencoderClass(
        _frame_mode, _decoded_frame, widths="dim_mult", default_widths=(1, 2, 4, 4), channels="z_dim"
    ),
    "AutoencoderKLFlux2": AutoencoderClass(
        _patched_mode, _decoded_patches, default_widths=(128, 256, 512, 512), patch=_PATCH, tiles=True
    ),
    "AutoencoderDC": AutoencoderClass(
        _latent, widths="encoder_block_out_channels", default_widths=(128, 256, 512, 512, 1024, 1024)
    ),
}


def find_autoencoder_class(config: Config, source: str) -> AutoencoderClass:
    """Return what is known of an autoencoder.

    Args:
        config: its config, with its class as `_class_name`.
        source: where it is from, for the error.

    Raises:
        ModelError: it is of another class, or of other images than RGB.
    """
    name: Any = config.get("_class_name")
    if not isinstance(name, str) or name not in _CLASSES:  # a list cannot be looked up
        raise ModelError(
            f"{source}: autoencoders of the class {name!r:.60} are not supported. Known: {', '.join(_CLASSES)}."
        )
    for side in ("in_channels", "out_channels", "input_channels"):
        if (channels := config.get(side, 3)) != 3:
            raise ModelError(f"{source}: the autoencoder must be of RGB images, but its {side} is {channels!r:.60}.")
    return _CLASSES[name]
