"""Load diffusers folders: pixels or latents, unconditional, by class or by prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.models.additions import find_additions
from ddim_edit.models.autoencoders import (
    AutoencoderFiles,
    autoencoder_factor,
    find_autoencoder,
    load_autoencoder,
)
from ddim_edit.models.checkpoint import Checkpoint, CheckpointBundle, Classes, LoadOptions
from ddim_edit.models.codec.pixels import codec_for
from ddim_edit.models.devices import PRECISIONS, diffusers_memory_format, suited_memory_format
from ddim_edit.models.diffusers_network import DiffusersNetwork, load_diffusers_network
from ddim_edit.models.digest_cache import cached_digest
from ddim_edit.models.distillation import describe_distillation
from ddim_edit.models.effective_weights import unwrapped
from ddim_edit.models.families.family import COUNT, DiffusersFamily
from ddim_edit.models.families.registry import family_of_config
from ddim_edit.models.file_kinds import class_of, describe_class, describe_folder, note_of_fp8
from ddim_edit.models.folder_layout import AUTOENCODERS, INDEX, FolderLayout, find_layout
from ddim_edit.models.identity import (
    config_beyond_defaults,
    digest_config,
    digest_tensors,
    network_component,
    process_component,
)
from ddim_edit.models.loras import find_loras
from ddim_edit.models.pretrained import has_fp8, read_config, stored_weights, weights_files
from ddim_edit.models.scheduler_config import DiffusionProcess, find_scheduler_config, read_process
from ddim_edit.models.sizes import Size, SizeRule, require_size
from ddim_edit.models.text_encoders import find_encoder_dtype, load_prompts

if TYPE_CHECKING:
    from torch import nn


def load_folder(folder: Path, name: str, options: LoadOptions) -> CheckpointBundle:
    """Load the checkpoint in a diffusers folder, of any `DiffusersFamily` of the registry.

    Pixel-space UNets run on our own network; all else needs the extra `ddim-edit[diffusers]`.

    Args:
        folder: with a model_index.json and its components, or flat, as google/ddpm-* are, or a checkpoint of a
            training (`folder_layout`).
        name: what to call the model.
        options: the device, where autoencoders and text encoders run; the size of the images, which is checked before
            anything large is read; and parts that take the place of the folder's.

    Raises:
        MissingExtraError: diffusers or transformers is needed and not installed.
        ModelError: files that are missing or broken, or a network or process that cannot be run.
        ArgumentError: parts that do not exist or cannot be, or a size that the network does not take.
    """
    layout = find_layout(folder)
    network_folder = layout.network
    if words := describe_class(layout.index.get("_class_name")):
        raise ModelError(f"{folder}: {words}")
    if not (network_folder / "config.json").is_file() and (kind := describe_folder(folder)):
        raise ModelError(f"{folder}: {kind}")
    config = read_config(network_folder / "config.json")
    _require_checkpoint(folder, layout, config)
    family = family_of_config(config)
    # What cannot be run is found out before anything large is read.
    scheduler_config = find_scheduler_config(layout.rest, options.parts.get("scheduler"))
    process = read_process(scheduler_config)
    classes = family.classes(config)
    sizes = family.sizes(config)
    vae = find_autoencoder(layout.autoencoder, options.parts.get("vae"))
    if options.size is not None:
        require_size(options.size, sizes, 1 if vae is None else autoencoder_factor(vae.folder))
    additions = find_additions(name, family.pipeline, options.parts)
    encoder_dtype = find_encoder_dtype(name, family.pipeline, options.parts)
    network: Any = None if family.load is None else family.load(network_folder, config)
    if network is None:
        network = load_diffusers_network(network_folder, family, *network_layout(options))
    checkpoint = make_checkpoint(name, network, process, classes, sizes)
    if isinstance(network, DiffusersNetwork):
        additions = additions.read(network.inner)
        is_changed = additions.merge_network(network.inner)
        component = diffusers_component(network, _digest(network_folder, network.inner, is_changed))
    else:
        component = network_component(network, _digest(network_folder, network))
    components = {"network": component, "process": process_component(checkpoint)}
    if vae is None:
        require_pixels(checkpoint, name, "the folder vae is missing. Download it too, or name another one with --vae.")
        codec = codec_for(checkpoint.channels)
    else:
        offloaded = bool(options.parts.get("offload"))
        codec = load_autoencoder(
            vae.folder, options.device, file=vae.file, channels=checkpoint.channels, offloaded=offloaded
        )
        components["autoencoder"] = codec.component
    encode_prompts = None
    if family.pipeline is not None and isinstance(network, DiffusersNetwork):
        encode_prompts = partial(load_prompts, layout, name, network, options.device, additions, encoder_dtype)
    notes = [*layout.notes, *describe_distillation(name, layout.index, config, scheduler_config)]
    if rough := [part.name for part in _parts(layout, family, vae) if has_fp8(part)]:
        notes.append(note_of_fp8(" and ".join(rough)))
    for file in find_loras(folder, without=additions.loras):
        notes.append(f"the LoRA {file.name} in the folder is not used; --lora {file} merges it")
    return CheckpointBundle(checkpoint, codec, components, encode_prompts, tuple(notes))


def _parts(layout: FolderLayout, family: DiffusersFamily, vae: AutoencoderFiles | None) -> list[Path]:
    """Return the folders of the components whose weights are read from there."""
    parts = [layout.network]
    if vae is not None and vae.file is None:
        parts.append(vae.folder)
    if family.pipeline is not None:
        parts += [layout.text_encoder(each) for each in family.pipeline.text_encoders]
    return [part for part in parts if part.is_dir()]


def network_layout(options: LoadOptions) -> tuple[torch.dtype | None, torch.memory_format]:
    """Return in which dtype (None is that of the file) and format a network is loaded, as near to how it will run as
    saves memory.
    """
    if options.parts.get("loras"):
        # They are merged as PEFT does, in float32, and all is cast afterwards.
        return torch.float32, torch.contiguous_format
    dtype = PRECISIONS[options.dtype].dtype
    if options.parts.get("offload"):
        return dtype, suited_memory_format(options.device)
    if options.device.type != "cpu":
        # From the file to the device, tensor by tensor.
        return None, torch.contiguous_format
    return dtype, options.memory_format or diffusers_memory_format(options.device, dtype)


def make_checkpoint(
    name: str, network: Any, process: DiffusionProcess, classes: Classes | None, sizes: SizeRule
) -> Checkpoint:
    """Return the checkpoint of a network of diffusers, or of our own that takes the place of one.

    Raises:
        ModelError: a network that sees more than x, or that answers with something else.
    """
    shape = network.config
    if shape.out_channels not in (shape.in_channels, 2 * shape.in_channels):
        raise ModelError(
            f"{name}: the network has {shape.in_channels} channels in and {shape.out_channels} out, but it should have "
            "as many out as in, or twice as many with learned variances. Networks for inpainting and upsampling see "
            "more than x and are not supported."
        )
    checkpoint = Checkpoint(
        network=network,
        schedule=process.schedule,
        parametrization=process.parametrization,
        channels=shape.in_channels,
        size=_sample_size(shape.sample_size),
        classes=classes,
        sizes=sizes,
    )
    if not isinstance(network, DiffusersNetwork):
        return checkpoint
    family = network.family
    schedule = replace(process.schedule, sampler=family.sampler(process.schedule.sampler))
    return replace(checkpoint, schedule=schedule, guidance=family.guidance, unshifted_times=family.unshifted_times)


def diffusers_component(network: DiffusersNetwork, tensors: str) -> str:
    """Return the digest of a network of diffusers, given that of its tensors."""
    settings = config_beyond_defaults(type(unwrapped(network.inner)), network.inner.config)
    if not network.family.sized:
        settings.pop("sample_size", None)
    return digest_config(settings, tensors)


def require_pixels(checkpoint: Checkpoint, name: str, problem: str) -> None:
    """Refuse a network of latents without an autoencoder.

    Args:
        checkpoint: one without an autoencoder.
        name: what to call it.
        problem: what is missing, and what to do.

    Raises:
        ModelError: it is one of latents.
    """
    if checkpoint.channels not in (1, 3):
        raise ModelError(
            f"{name}: the network has {checkpoint.channels} channels, as those of latents have, but there is no "
            f"autoencoder: {problem}"
        )


def _require_checkpoint(folder: Path, layout: FolderLayout, config: Mapping[str, Any]) -> None:
    """Refuse folders that are something else than a whole checkpoint, and say what they are.

    Raises:
        ModelError: a part of a checkpoint, one of another kind, or one of which a component is missing.
    """
    index = layout.index
    if words := describe_class(class_of(config)):
        raise ModelError(f"{folder}: {words}")
    if layout.network == folder != layout.rest and (folder.parent / INDEX).is_file():
        raise ModelError(f"{folder}: {describe_folder(folder)}")
    if index.get("requires_aesthetics_score"):
        raise ModelError(
            f"{folder}: it is the refiner of Stable Diffusion XL, which finishes images that a base model has begun. "
            "Use the base model."
        )
    for each in AUTOENCODERS:
        if isinstance(index.get(each), list) and all(index[each]) and not (layout.rest / each).is_dir():
            raise ModelError(
                f"{layout.rest}: {INDEX} names the autoencoder {each}, but there is no folder {each}. Download it too."
            )


def _digest(folder: Path, network: nn.Module, is_changed: bool = False) -> str:
    if is_changed:
        return digest_tensors(network.state_dict(), folder.name)
    files = weights_files(folder)

    def digest() -> str:
        # As they are in the files, whatever they were cast to since.
        stored = stored_weights(files)
        return digest_tensors(stored.renamed({name: name for name in network.state_dict()}), folder.name)

    return cached_digest(files, digest)


def _sample_size(size: object) -> Size | None:
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if problem := schema.list_of(COUNT, 2).find_problem(sides, "sample_size"):
        raise ModelError(f"config.json: {problem}. Download the checkpoint again.")
    height, width = sides
    return height, width
