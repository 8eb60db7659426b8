"""Diffusers-format folders: pixels or latents, unconditional, by class or by prompt, as a loaded checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddim_edit.errors import ModelError
from ddim_edit.models.assembly import CheckpointBundle, LoadOptions, cells, fingerprint
from ddim_edit.models.autoencoders import load_autoencoder
from ddim_edit.models.checkpoint import Checkpoint, Classes
from ddim_edit.models.codec.pixels import codec_for
from ddim_edit.models.component import component, read_json, weights_in
from ddim_edit.models.diffusers_network import DiffusersNetwork, load_diffusers_network
from ddim_edit.models.entries import MOST, count, word, words
from ddim_edit.models.process import read_process
from ddim_edit.models.prompts import Prompts, load_prompts
from ddim_edit.models.unet.checkpoint import load_unet
from ddim_edit.models.unet.network import UNet

_OWN_BLOCKS = {"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"}
_TEXT = ("UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel")


def load_folder(folder: Path, name: str, wish: LoadOptions) -> CheckpointBundle:
    """A diffusers folder: UNets of pixels or of latents, DiT, Stable Diffusion 1, 2, XL and 3, Flux; no others.

    Pixel-space UNets run on our own network; whatever else there is needs the extra `ddim-edit[diffusers]`.

    Args:
        folder: with a model_index.json and its components, or flat, as google/ddpm-* are.
        name: what to call the model.
        wish: where it shall live, and pictures of which size.

    Raises:
        ModelError: files that are missing or broken, a network or process that cannot be run, or no diffusers.
    """
    part = component(folder, "transformer" if (folder / "transformer").is_dir() else "unet")
    config = read_json(part / "config.json")
    kind = word(config, "_class_name", "UNet2DModel")
    codec_folder = next((folder / each for each in ("vae", "vqvae") if (folder / each).is_dir()), None)
    # Found out before anything large is read.
    process = read_process(folder)
    network = load_unet(part) if _is_own(kind, config) else load_diffusers_network(part)
    checkpoint = Checkpoint(
        network=network,
        schedule=process.schedule,
        parametrization=process.parametrization,
        channels=_channels(network),
        size=_size(network),
        classes=_classes(kind, config),
    )
    codec = codec_for(checkpoint.channels) if codec_folder is None else load_autoencoder(codec_folder, wish.device)
    files = [*_weights(part), *([] if codec_folder is None else _weights(codec_folder))]
    loaded = CheckpointBundle(checkpoint, codec, fingerprint(files))
    return loaded._replace(prompts=_prompts(folder, name, loaded, wish)) if kind in _TEXT else loaded


def _is_own(kind: str, config: Mapping[str, Any]) -> bool:
    blocks = {*words(config, "down_block_types"), *words(config, "up_block_types")}
    return kind == "UNet2DModel" and blocks <= _OWN_BLOCKS


def _channels(network: UNet | DiffusersNetwork) -> int:
    channels, answered = network.config.in_channels, network.config.out_channels
    if answered not in (channels, 2 * channels):
        given = f"{channels} channels in, {answered} out"
        remedy = "use another one: inpainting and upsampling networks see more than x"
        raise ModelError("a network that answers in its own channels, or in them and their variances", given, remedy)
    return channels


def _size(network: UNet | DiffusersNetwork) -> tuple[int, int] | None:
    size = network.config.sample_size
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= MOST for side in sides):
        wanted = "'sample_size' to be a number of cells, or two of them"
        raise ModelError(wanted, f"{size!r:.60}", "fetch the checkpoint again")
    return sides


def _classes(kind: str, config: Mapping[str, Any]) -> Classes | None:
    if kind == "DiTTransformer2DModel":
        classes = count(config, "num_embeds_ada_norm", 1000)
        return Classes(classes, none=classes)
    if (embedded := config.get("class_embed_type")) is not None:
        wanted = "a network whose condition is a class or a prompt"
        raise ModelError(wanted, f"one with class_embed_type {embedded!r}", "use `load_unet` and your own denoiser")
    return None if config.get("num_class_embeds") is None else Classes(count(config, "num_class_embeds", 1000))


def _prompts(folder: Path, name: str, loaded: CheckpointBundle, wish: LoadOptions) -> Prompts:
    checkpoint, factor = loaded.checkpoint, loaded.codec.factor
    assert isinstance(checkpoint.network, DiffusersNetwork)
    height, width = cells(checkpoint, loaded.codec, wish.size)
    return load_prompts(folder, name, checkpoint.network, wish.device, (height * factor, width * factor))


def _weights(folder: Path) -> list[Path]:
    """The files that make a component what it is: one, or its shards."""
    whole = weights_in(folder)
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
