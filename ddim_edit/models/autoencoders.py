"""Diffusers-format folders of autoencoders as a codec; the networks themselves are diffusers'."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.models.codec.autoencoder import Affine, AutoencoderCodec
from ddim_edit.models.component import read_json, read_weights, weights_in
from ddim_edit.models.entries import number, word
from ddim_edit.models.extra import diffusers, explained
from ddim_edit.models.weights import fill, require_room
from ddim_edit.precision import float32_precision

Config = Mapping[str, Any]
WHOLE = 1024 * 1024
"""Pixels of the largest picture that no autoencoder needs tiles for."""


@dataclass(frozen=True, eq=False)
class WholeAutoencoder:
    """A network of diffusers that takes every picture as a whole, on its own device, in float32 without tf32.

    Args:
        network: with `encode` and `decode`.
        device: where its weights are.
        latents: the latents of what its `encode` answers.
    """

    network: Any
    device: torch.device
    latents: Callable[[Any], Tensor]

    def encode(self, pictures: Tensor) -> Tensor:
        """The latents of pictures, on the device of those."""
        with float32_precision():
            return self.latents(self.network.encode(pictures.to(self.device))).to(pictures.device)

    def decode(self, z: Tensor) -> Tensor:
        """The pictures of latents, on the device of those."""
        with float32_precision():
            pictures: Tensor = self.network.decode(z.to(self.device)).sample
        return pictures.to(z.device)


@dataclass(frozen=True, eq=False)
class TiledAutoencoder:
    """An autoencoder that cuts large pictures into diffusers' overlapping tiles, which bounds memory; changes them.

    Each tile is normalised and attended to by itself, so that small pictures are left whole.

    Args:
        autoencoder: of an `AutoencoderKL`.
        whole: pixels of the largest picture that is taken whole.
        factor: pixels a side of one cell of its latents.
    """

    autoencoder: WholeAutoencoder
    whole: int
    factor: int

    def encode(self, pictures: Tensor) -> Tensor:
        """The latents of pictures."""
        self._tile(pictures.shape[-2] * pictures.shape[-1])
        return self.autoencoder.encode(pictures)

    def decode(self, z: Tensor) -> Tensor:
        """The pictures of latents."""
        self._tile(z.shape[-2] * z.shape[-1] * self.factor**2)
        return self.autoencoder.decode(z)

    def _tile(self, pixels: int) -> None:
        self.autoencoder.network.use_tiling = pixels > self.whole


class _Kind(NamedTuple):
    """What must be known of a class of diffusers.

    Attributes:
        latents: the latents of what its `encode` answers.
        widths: the config entry that has one number for every size that pictures pass through.
        scaling_factor: where the config has none.
        tiles: whether its networks can cut pictures into tiles; those of `AutoencoderTiny` assume 4 channels.
    """

    latents: Callable[[Any], Tensor]
    widths: str
    scaling_factor: float
    tiles: bool


_KINDS: Mapping[str, _Kind] = {
    "AutoencoderKL": _Kind(lambda answer: answer.latent_dist.mode(), "block_out_channels", 0.18215, tiles=True),
    # Diffusers' default is that of Stable Diffusion, but the released LDMs (celebahq-256) never scaled VQ latents.
    "VQModel": _Kind(lambda answer: answer.latents, "block_out_channels", 1.0, tiles=False),
    "AutoencoderTiny": _Kind(lambda answer: answer.latents, "encoder_block_out_channels", 1.0, tiles=False),
}


@torch.inference_mode(False)
def load_autoencoder(folder: Path, device: torch.device, whole: int = WHOLE) -> AutoencoderCodec:
    """The codec in a diffusers `vae` or `vqvae` folder: AutoencoderKL, VQModel or AutoencoderTiny, in safetensors only.

    KL latents are posterior means. VQ latents are those before the codebook, which belongs to decoding. AutoencoderKL
    takes pictures of more pixels than `whole` and than it was trained on in tiles.

    Args:
        folder: with a config.json and the weights.
        device: where the network shall live, in float32.
        whole: pixels of the largest picture that is never cut into tiles.

    Raises:
        ModelError: diffusers is missing, files are missing, broken or pickles, or it is another kind of autoencoder.

    Kingma, Welling (2014); Esser, Rombach, Ommer (2021); Rombach, Blattmann, Lorenz, Esser, Ommer (2022).
    """
    config = read_json(folder / "config.json")
    name, kind = _kind(config)
    maker = getattr(diffusers(f"its {name}"), name)
    file = weights_in(folder)
    weights = read_weights(file)
    require_room(config, [tensor.shape for tensor in weights.values()], str(file))
    network = fill(lambda: _made(maker, config), weights, str(file)).to(device)
    factor = 2 ** (len(network.config[kind.widths]) - 1)
    autoencoder = WholeAutoencoder(network, device, kind.latents)
    shift, scale = _affine(config, kind)
    if not kind.tiles:
        return AutoencoderCodec(autoencoder, scale, shift, factor)
    whole = max(whole, (network.tile_latent_min_size * factor) ** 2)
    return AutoencoderCodec(TiledAutoencoder(autoencoder, whole, factor), scale, shift, factor)


def _kind(config: Config) -> tuple[str, _Kind]:
    if (name := word(config, "_class_name", "nothing")) not in _KINDS:
        raise ModelError(f"an autoencoder out of {', '.join(_KINDS)}", name, "use another model")
    for side in ("in_channels", "out_channels"):
        if (channels := config.get(side, 3)) != 3:
            raise ModelError("an autoencoder of RGB pictures", f"one with {side} {channels}", "use another model")
    return name, _KINDS[name]


def _made(maker: Any, config: Config) -> Any:
    with explained(f"a config.json that {maker.__name__} can be built from"):
        return maker.from_config(dict(config))


def _affine(config: Config, kind: _Kind) -> tuple[Affine, Affine]:
    """Shift and scale of the latents."""
    told = {name: value for name, value in config.items() if value is not None}
    scale, shift = number(told, "scaling_factor", kind.scaling_factor), told.get("shift_factor", 0.0)
    with explained("'shift_factor', 'latents_mean' and 'latents_std' to be numbers"):
        if "latents_mean" not in told or "latents_std" not in told:
            return float(shift), scale
        return tuple(map(float, told["latents_mean"])), tuple(scale / float(std) for std in told["latents_std"])
