"""Load Stable Diffusion and Flux from one file, in the layout of the code that trained them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_edit.errors import ModelError
from ddim_edit.models.additions import find_additions
from ddim_edit.models.announcements import announce
from ddim_edit.models.autoencoders import (
    autoencoder_factor,
    load_autoencoder,
    make_autoencoder,
    name_as_diffusers,
    read_autoencoder_file,
)
from ddim_edit.models.checkpoint import CheckpointBundle, LoadOptions
from ddim_edit.models.diffusers_network import DiffusersNetwork, adapt_network
from ddim_edit.models.digest_cache import cached_digest
from ddim_edit.models.distillation import describe_distillation
from ddim_edit.models.families.family import DiffusersFamily
from ddim_edit.models.folder import diffusers_component, make_checkpoint, network_layout
from ddim_edit.models.identity import digest_tensors, process_component
from ddim_edit.models.original_prompts import OriginalPrompts
from ddim_edit.models.original_sources import OriginalSources, find_sources
from ddim_edit.models.originals.autoencoder import read_autoencoder_config
from ddim_edit.models.originals.latent_diffusion import AUTOENCODER_PREFIXES
from ddim_edit.models.originals.parts import Config, strip_prefix
from ddim_edit.models.pretrained import ComponentWeights, explain_errors, find_class, import_diffusers, quiet_libraries
from ddim_edit.models.scheduler_config import read_process
from ddim_edit.models.sizes import require_size
from ddim_edit.models.tensor_files import StoredViews, read_tensors
from ddim_edit.models.text_encoders import find_encoder_dtype
from ddim_edit.models.weights import fill_in_place, without_parameters

if TYPE_CHECKING:
    from ddim_edit.models.checkpoint import StateDict
    from ddim_edit.models.codec.autoencoder import AutoencoderCodec


def load_original_file(path: Path, state: StateDict, family: DiffusersFamily, options: LoadOptions) -> CheckpointBundle:
    """Load a whole model of a family of diffusers from one file; what it lacks comes from a folder.

    Args:
        path: the file.
        state: its tensors.
        family: the family that they are of.
        options: the device, where autoencoder and text encoders run; the size of the images; and parts that take the
            place of the file's. `base` is a diffusers folder of the family, for what the file lacks.

    Raises:
        MissingExtraError: diffusers or transformers is not installed.
        ModelError: a model that cannot be run, or one that lacks something.
        ArgumentError: parts that do not exist, or a size that the network does not take.
    """
    name = path.resolve().stem
    import_diffusers(f"Running a {family.network}")
    sources = find_sources(path, state, family, options.parts)
    sources.require_all()
    process = read_process(sources.scheduler)
    config = sources.parts.network.config
    sizes = family.sizes(config)
    vae_config = {} if sources.vae_folder else _read_autoencoder_config(sources)
    if options.size is not None:
        folder = sources.vae_folder
        factor = autoencoder_factor(folder) if folder else 2 ** (len(vae_config["block_out_channels"]) - 1)
        require_size(options.size, sizes, factor)
    additions = find_additions(name, family.pipeline, options.parts)
    encoder_dtype = find_encoder_dtype(name, family.pipeline, options.parts)
    tensors = StoredViews(sources.parts.network.tensors, state, path)
    network = _build_network(sources, tensors, options)
    checkpoint = make_checkpoint(name, network, process, family.classes(config), sizes)
    additions = additions.read(network.inner)
    is_changed = additions.merge_network(network.inner)
    # As they are in the file, whatever they were cast to since.
    filled = network.inner.state_dict()
    if not is_changed:
        filled = StoredViews({each: sources.parts.network.tensors[each] for each in filled}, state, path)
    digest = cached_digest([] if is_changed else [path], lambda: digest_tensors(filled, path.name), "network")
    codec = _load_autoencoder(sources, vae_config, options, checkpoint.channels)
    components = {
        "network": diffusers_component(network, digest),
        "process": process_component(checkpoint),
        "autoencoder": codec.component,
    }
    prompts = OriginalPrompts(name, sources, network, additions, options.device, encoder_dtype)
    notes = [*describe_distillation(name, {}, config, sources.scheduler), *sources.notes]
    return CheckpointBundle(checkpoint, codec, components, prompts.load, tuple(notes))


def _build_network(sources: OriginalSources, tensors: StoredViews, options: LoadOptions) -> DiffusersNetwork:
    """Return the network on the CPU, as near to how it will run as saves memory."""
    family, path = sources.family, sources.path
    announce(f"building the network of {path.name}")
    kind = find_class(import_diffusers(f"Running a {family.network}"), family.network)
    with (
        explain_errors(f"{path}: cannot build a {family.network}"),
        quiet_libraries(),
        without_parameters(),
    ):
        network = kind.from_config(dict(sources.parts.network.config))
    dtype, memory_format = network_layout(options)
    fill_in_place(network, tensors, dtype or tensors.dtype, memory_format, str(path))
    return adapt_network(network, family)


def _read_autoencoder_config(sources: OriginalSources) -> Config:
    """Return the config of the autoencoder in the file, or in the one that takes its place.

    Raises:
        ModelError: a file of something else, or of half an autoencoder.
    """
    file = sources.vae_file or sources.path
    tensors = read_tensors(file) if sources.vae_file else sources.parts.autoencoder
    assert tensors is not None
    try:
        bare = strip_prefix(tensors, *AUTOENCODER_PREFIXES) or tensors
        return read_autoencoder_config(bare, sources.parts.facts["vae"])
    except (LookupError, TypeError) as error:
        raise ModelError(f"{file}: no autoencoder can be made of this file. Name another one with --vae.") from error


def _load_autoencoder(
    sources: OriginalSources, config: Config, options: LoadOptions, channels: int
) -> AutoencoderCodec:
    offloaded = bool(options.parts.get("offload"))
    if sources.vae_folder is not None:
        return load_autoencoder(sources.vae_folder, options.device, channels=channels, offloaded=offloaded)
    if sources.vae_file is not None:
        file = sources.vae_file
        weights = read_autoencoder_file(file, config)
        digest = partial(cached_digest, weights.files)
    else:
        file = sources.path
        assert sources.parts.autoencoder is not None
        weights = ComponentWeights(name_as_diffusers(sources.parts.autoencoder, config, str(file)), [file], str(file))
        digest = partial(cached_digest, weights.files, part="vae")
    return make_autoencoder(config, weights, file.name, options.device, digest, channels=channels, offloaded=offloaded)
