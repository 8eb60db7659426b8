"""Load diffusers-format autoencoders as codecs; the networks themselves are diffusers'."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.io import schema
from ddim_edit.models.announcements import announce_loading
from ddim_edit.models.autoencoder_classes import AutoencoderClass, find_autoencoder_class
from ddim_edit.models.cast_layers import cast_on_use
from ddim_edit.models.codec.autoencoder import Affine, Autoencoder, AutoencoderCodec
from ddim_edit.models.devices import evaluation_mode
from ddim_edit.models.digest_cache import cached_digest
from ddim_edit.models.folder_layout import autoencoder_folder
from ddim_edit.models.identity import config_beyond_defaults, digest_config, digest_tensors
from ddim_edit.models.pretrained import (
    ComponentWeights,
    explain_errors,
    find_class,
    import_diffusers,
    quiet_libraries,
    read_component_weights,
    read_config,
)
from ddim_edit.models.tensor_files import common_dtype, read_tensors
from ddim_edit.models.weights import fill
from ddim_edit.precision import float32_precision

Config = Mapping[str, Any]
LARGEST_UNTILED = 1024 * 1024
"""Pixels of the largest image that no autoencoder needs tiles for."""


@dataclass(frozen=True, eq=False)
class WholeAutoencoder:
    """A network of diffusers that takes every image as a whole, on its own device, in float32 without tf32.

    Args:
        network: has `encode` and `decode`.
        device: where its weights are.
        kind: how these are called.
    """

    network: Any
    device: torch.device
    kind: AutoencoderClass

    def encode(self, images: Tensor) -> Tensor:
        """Return the latents of images, on the device of the images."""
        with float32_precision():
            return self.kind.encode(self.network, images.to(self.device)).to(images.device)

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of latents, on the device of the latents."""
        with float32_precision():
            return self.kind.decode(self.network, z.to(self.device)).to(z.device)


@dataclass(frozen=True, eq=False)
class PipelineAutoencoder:
    """The autoencoder of a pipeline in memory, in the pipeline's dtype and with its own tiling, slicing and offloading.

    Autoencoders with `force_upcast`, which overflow in float16, run in float32, as in diffusers' pipelines. Gradients
    flow where the input requires them.

    Args:
        network: has `encode` and `decode`.
        pipeline: knows the device on which it runs.
        kind: how these are called.
    """

    network: Any
    pipeline: Any
    kind: AutoencoderClass

    def encode(self, images: Tensor) -> Tensor:
        """Return the latents of images, on the device of the images."""
        with self._running() as dtype:
            found = self.kind.encode(self.network, images.to(self.pipeline._execution_device, dtype))
        return found.to(images.device)

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of latents, on the device of the latents."""
        with self._running() as dtype:
            images = self.kind.decode(self.network, z.to(self.pipeline._execution_device, dtype))
        return images.to(z.device)

    @contextmanager
    def _running(self) -> Iterator[torch.dtype]:
        """Have the network ready inside the block; yield the dtype that it takes."""
        network = self.network
        with evaluation_mode(network), without_parameter_gradients(network), float32_precision():
            if network.dtype != torch.float16 or not network.config.get("force_upcast"):
                yield network.dtype
                return
            # The tensors are replaced and put back, so that the pipeline finds the very ones that it had.
            parameters = list(network.parameters())
            before = [parameter.data for parameter in parameters]
            try:
                for parameter in parameters:
                    parameter.data = parameter.data.float()
                yield torch.float32
            finally:
                for parameter, data in zip(parameters, before, strict=True):
                    parameter.data = data


@contextmanager
def without_parameter_gradients(network: nn.Module) -> Iterator[None]:
    """Have no parameter of a network track gradients inside the block."""
    tracking = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in tracking:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in tracking:
            parameter.requires_grad = True


@dataclass(frozen=True, eq=False)
class TiledAutoencoder:
    """An autoencoder that cuts large images into diffusers' overlapping tiles, which bounds its memory.

    Each tile is normalised and attended to by itself, which changes the image, so small images are left whole.

    Args:
        autoencoder: of an `AutoencoderKL`.
        largest_untiled: pixels of the largest image that is left whole.
        factor: pixels a side of one cell of its latents.
    """

    autoencoder: WholeAutoencoder
    largest_untiled: int
    factor: int

    @property
    def network(self) -> Any:
        """The network that is called."""
        return self.autoencoder.network

    def encode(self, images: Tensor) -> Tensor:
        """Return the latents of images."""
        self.autoencoder.network.use_tiling = images.shape[-2] * images.shape[-1] > self.largest_untiled
        return self.autoencoder.encode(images)

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of latents."""
        pixels = z.shape[-2] * z.shape[-1] * self.factor**2
        self.autoencoder.network.use_tiling = pixels > self.largest_untiled
        return self.autoencoder.decode(z)


class AutoencoderFiles(NamedTuple):
    """Where an autoencoder is.

    Fields: folder, with its config and, if there is no file, its weights; file, with its weights.
    """

    folder: Path
    file: Path | None = None


def find_autoencoder(own: Path | None, vae: str | Path | None = None) -> AutoencoderFiles | None:
    """Return where the autoencoder of a checkpoint is, or None for a checkpoint without one.

    Args:
        own: the folder of the checkpoint's own autoencoder, if it has one.
        vae: takes its place: a folder of an autoencoder or of a checkpoint that has one, or a file.

    Raises:
        ArgumentError: an autoencoder that does not exist, or a file for a checkpoint without a config for it.
    """
    if vae is None:
        return None if own is None else AutoencoderFiles(own)
    path = Path(vae)
    if path.is_dir():
        return AutoencoderFiles(autoencoder_folder(path) or path)
    if not path.is_file():
        raise ArgumentError(f"There is no autoencoder {str(vae)!r:.200}. Name its folder or its file.")
    if own is None:
        raise ArgumentError(f"{path}: the checkpoint has no vae whose config fits this file. Name a folder with one.")
    return AutoencoderFiles(own, path)


@torch.inference_mode(False)
def load_autoencoder(
    folder: Path,
    device: torch.device,
    largest_untiled: int = LARGEST_UNTILED,
    *,
    file: Path | None = None,
    channels: int | None = None,
    offloaded: bool = False,
) -> AutoencoderCodec:
    """Load the codec in a diffusers `vae` or `vqvae` folder, of any class in `autoencoder_classes`.

    KL latents are posterior means. VQ latents are those before the codebook, which belongs to decoding. AutoencoderKL
    cuts images of more pixels than `largest_untiled`, and than it was trained on, into tiles.

    Args:
        folder: has a config.json and the weights.
        device: where the network runs, in float32, whatever dtype its weights keep.
        largest_untiled: pixels of the largest image that is never cut into tiles.
        file: has the weights instead of the folder, with the names of diffusers or of latent diffusion.
        channels: that its latents must have; None for any.
        offloaded: whether the network stays on the CPU, from where hooks will fetch it.

    Raises:
        MissingExtraError: diffusers is not installed.
        ModelError: files are missing, broken or pickles, or it is another kind of autoencoder.

    References:
        Kingma, Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114.
        Esser, Rombach, Ommer, "Taming Transformers for High-Resolution Image Synthesis", CVPR 2021, arXiv:2012.09841.
        Rombach, Blattmann, Lorenz, Esser, Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models",
        CVPR 2022, arXiv:2112.10752.
    """
    config = read_config(folder / "config.json")
    find_autoencoder_class(config, folder.name)
    weights = read_component_weights(folder, config) if file is None else read_autoencoder_file(file, config)
    digest = partial(cached_digest, weights.files)
    return make_autoencoder(
        config, weights, folder.name, device, digest, largest_untiled, channels=channels, offloaded=offloaded
    )


@torch.inference_mode(False)
def make_autoencoder(
    config: Config,
    weights: ComponentWeights,
    name: str,
    device: torch.device,
    digest: Callable[[Callable[[], str]], str],
    largest_untiled: int = LARGEST_UNTILED,
    *,
    channels: int | None = None,
    offloaded: bool = False,
) -> AutoencoderCodec:
    """Return the codec of an autoencoder whose weights were read already.

    Args:
        config: its config.
        weights: its tensors by the names of diffusers.
        name: what to call it in errors.
        device: as for `load_autoencoder`.
        digest: returns what a function computes of the weights, or what is known of that.
        largest_untiled: as for `load_autoencoder`.
        channels: as for `load_autoencoder`.
        offloaded: as for `load_autoencoder`.

    Raises:
        MissingExtraError: diffusers is not installed.
        ModelError: weights that do not fit the config, or another kind of autoencoder.
    """
    kind = find_autoencoder_class(config, name)
    class_name = config["_class_name"]
    network_class = find_class(import_diffusers(f"Running an {class_name}"), class_name)

    def build() -> Any:
        with explain_errors(f"{name}: cannot build an {class_name} from config.json"):
            return network_class.from_config(dict(config))

    network = fill(build, weights.tensors, weights.source, common_dtype(weights.tensors.values()))
    found = network.config[kind.channels] * kind.patch**2
    if channels is not None and found != channels:
        raise ModelError(
            f"{weights.source}: the autoencoder has {found} latent channels and the network {channels}. Use one that "
            "the network was trained with."
        )
    tensors = digest(lambda: digest_tensors(network.state_dict(), name))
    if offloaded:
        network.float()  # hooks know of parameters only
    else:
        cast_on_use(network, torch.float32)
        network = network.to(device)
    autoencoder = WholeAutoencoder(network, device, kind)
    codec = _make_codec(autoencoder, network, config, kind, tensors)
    if not kind.tiles:
        return codec
    # The size of its training, which its config has as `sample_size`.
    largest_untiled = max(largest_untiled, (network.tile_latent_min_size * codec.factor // kind.patch) ** 2)
    return replace(codec, autoencoder=TiledAutoencoder(autoencoder, largest_untiled, codec.factor))


def read_autoencoder_file(file: Path, config: Config) -> ComponentWeights:
    """Return the weights of an autoencoder in one file, by the names of diffusers.

    Raises:
        ModelError: a file that cannot be read, or that is of something else.
    """
    announce_loading(file.name, [file])
    tensors = {name: tensor for name, tensor in read_tensors(file).items() if tensor.is_floating_point()}
    if not any(re.search(r"(^|\.)decoder\.", name) for name in tensors):
        raise ModelError(f"{file}: there is no autoencoder (VAE) in this file. Name another one with --vae.")
    return ComponentWeights(name_as_diffusers(tensors, config, str(file)), [file], str(file))


def name_as_diffusers(tensors: Mapping[str, Tensor], config: Config, source: str) -> Mapping[str, Tensor]:
    """Return the tensors of an autoencoder by the names of diffusers, given by these or those of latent diffusion."""
    if any(".down_blocks." in name for name in tensors):
        return tensors
    from diffusers.loaders import single_file_utils

    convert: Any = single_file_utils.convert_ldm_vae_checkpoint  # untyped
    with explain_errors(f"{source}: no autoencoder can be made of this file"), quiet_libraries():
        converted: Mapping[str, Tensor] = convert(tensors, dict(config))
    return converted


def codec_of_autoencoder(network: Any, config: Config, pipeline: Any, tensors: str, source: str) -> AutoencoderCodec:
    """Return the codec of the autoencoder of a pipeline in memory, which runs there as its pipeline runs it.

    Args:
        network: the autoencoder, which is not changed.
        config: its config, with its class as `_class_name`.
        pipeline: the pipeline.
        tensors: the digest of its tensors.
        source: what to call it in errors.

    Raises:
        ModelError: it is another kind of autoencoder.
    """
    kind = find_autoencoder_class(config, source)
    return _make_codec(PipelineAutoencoder(network, pipeline, kind), network, config, kind, tensors)


def autoencoder_factor(folder: Path) -> int:
    """Return how many pixels a side of one cell of the latents of an autoencoder has, from its config alone.

    Raises:
        ModelError: no config, or of another kind of autoencoder.
    """
    config = read_config(folder / "config.json")
    kind = find_autoencoder_class(config, folder.name)
    widths = schema.read_entry(
        config, kind.widths, schema.list_of(schema.number), kind.default_widths, source="config.json", error=ModelError
    )
    if not widths:
        raise ModelError(f"{folder / 'config.json'}: {kind.widths} is empty, and must name the width of each level.")
    return kind.factor(widths)


def _make_codec(
    autoencoder: Autoencoder, network: Any, config: Config, kind: AutoencoderClass, tensors: str
) -> AutoencoderCodec:
    factor = kind.factor(network.config[kind.widths])
    shift, scale = _shift_and_scale(config, kind, network)
    settings = config_beyond_defaults(type(network), network.config)
    settings = {name: value for name, value in settings.items() if name not in _NUMBERS}
    # As used, since a missing scaling_factor does not mean the same for all classes.
    component = digest_config({**settings, "scale": scale, "shift": shift}, tensors)
    return AutoencoderCodec(autoencoder, scale, shift, factor, component)


_NUMBERS = {
    "scaling_factor": schema.positive_number,
    "shift_factor": schema.number,
    "latents_mean": schema.list_of(schema.number),
    "latents_std": schema.list_of(schema.positive_number),
}


def _shift_and_scale(config: Config, kind: AutoencoderClass, network: Any) -> tuple[Affine, Affine]:
    """Return shift and scale of the latents, per channel where config or weights have statistics of each."""
    statistics = getattr(network, "bn", None)
    if statistics is not None:
        deviations = (statistics.running_var.double() + statistics.eps).sqrt()
        return tuple(statistics.running_mean.tolist()), tuple((1 / deviations).tolist())
    given = {name: config[name] for name in _NUMBERS if config.get(name) is not None}
    if problem := schema.find_problem(given, {name: _NUMBERS[name] for name in given}):
        raise ModelError(f"config.json: {problem}. Download the checkpoint again.")
    scale = float(given.get("scaling_factor", kind.scaling_factor))
    if "latents_mean" not in given or "latents_std" not in given:
        return float(given.get("shift_factor", 0.0)), scale
    return tuple(map(float, given["latents_mean"])), tuple(scale / float(std) for std in given["latents_std"])
