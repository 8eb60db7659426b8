"""Models of pipelines of diffusers that are in memory already, which share all weights with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.announcements import announce
from ddim_edit.models.autoencoders import codec_of_autoencoder
from ddim_edit.models.checkpoint import CheckpointBundle
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.codec.pixels import Codec, codec_for
from ddim_edit.models.devices import DeviceNetwork, Precision
from ddim_edit.models.diffusers_network import DiffusersNetwork, adapt_network
from ddim_edit.models.distillation import describe_distillation
from ddim_edit.models.effective_weights import EffectiveWeights, unwrapped
from ddim_edit.models.families.family import DiffusersFamily
from ddim_edit.models.families.registry import family_of_config
from ddim_edit.models.folder import diffusers_component, make_checkpoint, require_pixels
from ddim_edit.models.folder_layout import AUTOENCODERS, NETWORKS
from ddim_edit.models.identity import digest_tensors, network_component, process_component
from ddim_edit.models.loading import PlacedNetworks, assemble_model
from ddim_edit.models.model import Model
from ddim_edit.models.pretrained import import_diffusers
from ddim_edit.models.prompts import PromptEncoder
from ddim_edit.models.scheduler_config import read_process
from ddim_edit.models.sizes import Size
from ddim_edit.models.text_encoders import TextEncoder, make_prompt_encoder

_STEERING = re.compile("ControlNet|Adapter|Motion")


def model_from_pipeline(pipeline: Any, size: Size | int | None = None) -> Model:
    """Return the model of a pipeline of diffusers, as `Editor.from_pipeline` describes it.

    Args:
        pipeline: the pipeline, which is not changed.
        size: height and width of the images in pixels, or one number for both; as trained when left out.

    Raises:
        MissingExtraError: diffusers or transformers is not installed.
        ArgumentError: something that is no pipeline, or a size that cannot be had.
        ModelError: a pipeline whose network or process is not supported.
    """
    library = import_diffusers("Using a pipeline")
    if not isinstance(pipeline, library.DiffusionPipeline):
        raise ArgumentError(
            f"from_pipeline takes a pipeline object of diffusers, not {type(pipeline).__name__}. To load a model by "
            "its name or path, use from_pretrained."
        )
    name = _name(pipeline)
    component = _find_network(pipeline, name)
    network = pipeline.components[component]
    config = _config(network)
    source = f"{type(pipeline).__name__}.{component}"
    family = family_of_config(config, source)
    _require_unsteered(pipeline, config)
    scheduler = pipeline.components.get("scheduler")
    if scheduler is None:
        raise ModelError(f"{name}: the pipeline has no scheduler, which tells its noise schedule. Give it one.")
    scheduler_config = _config(scheduler)
    process = read_process(scheduler_config)
    classes = family.classes(config)
    adapted = adapt_network(network, family)
    checkpoint = make_checkpoint(name, adapted, process, classes, family.sizes(config))
    announce("hashing the weights of the pipeline")
    components = {"network": _network_component(adapted, family, config), "process": process_component(checkpoint)}
    vae = next((each for each in AUTOENCODERS if pipeline.components.get(each) is not None), None)
    if vae is None:
        require_pixels(checkpoint, name, "the pipeline has no vae. Give it one.")
        codec: Codec = codec_for(checkpoint.channels)
    else:
        codec = autoencoder = _codec(pipeline, vae)
        components["autoencoder"] = autoencoder.component
    encode_prompts = None
    if family.pipeline is not None:
        encode_prompts = partial(_prompts, pipeline, name, adapted)
    notes = describe_distillation(name, {"is_distilled": pipeline.config.get("is_distilled")}, config, scheduler_config)
    bundle = CheckpointBundle(checkpoint, codec, components, encode_prompts, notes)
    dtype = network.dtype

    def place(module: nn.Module) -> PlacedNetworks:
        # It runs where it is, as it is: hooks and adapters of the pipeline do their work, which no faster executor
        # would know of.
        return PlacedNetworks(DeviceNetwork(module, pipeline._execution_device, Precision(dtype), shared=True))

    pair = (size, size) if isinstance(size, int) else size
    return assemble_model(name, bundle, place, str(dtype).removeprefix("torch."), pair)


def _name(pipeline: Any) -> str:
    """Return what to call a pipeline: the last part of the name that it was loaded by, or else its class."""
    path = pipeline.config.get("_name_or_path")
    return Path(path).name if path else type(pipeline).__name__


def _config(component: Any) -> Mapping[str, Any]:
    """Return the config of a component, as its file would have it: with its class, which only loaded ones have."""
    config = dict(component.config)
    if "_class_name" in config:
        # Of a component that was loaded, these are entries that its file lacks. For a VQModel that matters.
        for name in config.get("_use_default_values", ()):
            config.pop(name, None)
    config["_class_name"] = type(unwrapped(component)).__name__
    return config


def _find_network(pipeline: Any, name: str) -> str:
    for component in NETWORKS:
        if pipeline.components.get(component) is not None:
            return component
    parts = [each for each, module in pipeline.components.items() if isinstance(module, nn.Module)]
    raise ModelError(
        f"{name}: a {type(pipeline).__name__} has no unet and no transformer to remove noise with, only "
        f"{', '.join(parts) or 'no networks'}. Use a pipeline of one of the families in docs/models.md."
    )


def _require_unsteered(pipeline: Any, config: Mapping[str, Any]) -> None:
    """Refuse what would be left out of the inversion, although the pipeline's own images depend on it."""
    kind = type(pipeline).__name__
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module) and _STEERING.search(type(component).__name__):
            raise ModelError(
                f"{kind}: its {name}, a {type(component).__name__}, steers the network by another image, which an "
                "inversion knows nothing of. Use a pipeline without it."
            )
    if config.get("encoder_hid_dim_type") is not None:
        raise ModelError(
            f"{kind}: the network has an IP-Adapter or another image prompt, which an inversion knows nothing of. "
            "Call the pipeline's unload_ip_adapter first."
        )


def _network_component(network: DiffusersNetwork, family: DiffusersFamily, config: Mapping[str, Any]) -> str:
    """Return the digest of the network, which equals that of the folder that the pipeline would be saved to."""
    weights = EffectiveWeights(network.inner)
    tensors = digest_tensors(weights, family.network)
    if family.own is not None:
        with torch.device("meta"):
            own = family.own(config)
        if own is not None and own.state_dict().keys() == set(weights):
            return network_component(own, tensors)
    return diffusers_component(network, tensors)


def _codec(pipeline: Any, component: str) -> AutoencoderCodec:
    autoencoder = pipeline.components[component]
    tensors = digest_tensors(EffectiveWeights(autoencoder), component)
    source = f"{type(pipeline).__name__}.{component}"
    return codec_of_autoencoder(autoencoder, _config(autoencoder), pipeline, tensors, source)


def _prompts(pipeline: Any, name: str, network: DiffusersNetwork, size: Size) -> PromptEncoder:
    text_pipeline = network.family.pipeline
    assert text_pipeline is not None
    encoders = {}
    for each in text_pipeline.text_encoders:
        module = pipeline.components.get(each)
        tokenizer = each.replace("text_encoder", "tokenizer")
        if module is None or pipeline.components.get(tokenizer) is None:
            if each in text_pipeline.optional:
                continue
            missing = each if module is None else tokenizer
            raise ModelError(f"{name}: the pipeline has no {missing}, which prompts need. Give it one.")
        if (kind := type(unwrapped(module)).__name__) not in text_pipeline.encoder_classes:
            raise ModelError(
                f"{name}: {each} is of the class {kind}. Supported are {', '.join(text_pipeline.encoder_classes)}."
            )
        encoders[each] = TextEncoder(
            unwrapped(module), module.config.to_dict(), digest_tensors(EffectiveWeights(module), each)
        )
    return make_prompt_encoder(name, pipeline, network, encoders, size)
