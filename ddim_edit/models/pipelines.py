"""Models of pipelines of diffusers that are in memory already, which share all weights with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.announcements import announce
from ddim_edit.models.autoencoders import codec_of_autoencoder
from ddim_edit.models.checkpoint import Checkpoint, CheckpointBundle
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.codec.pixels import Codec, codec_for
from ddim_edit.models.devices import DeviceNetwork, Precision
from ddim_edit.models.diffusers_network import DiffusersNetwork, adapt_network
from ddim_edit.models.distillation import describe_distillation
from ddim_edit.models.effective_weights import EffectiveWeights, unwrapped
from ddim_edit.models.families.family import DiffusersFamily
from ddim_edit.models.families.registry import family_of_config
from ddim_edit.models.families.tokens import from_tokens, to_tokens
from ddim_edit.models.folder import diffusers_component, make_checkpoint, require_pixels
from ddim_edit.models.folder_layout import AUTOENCODERS, NETWORKS
from ddim_edit.models.identity import digest_tensors, network_component, process_component
from ddim_edit.models.loading import PlacedNetworks, assemble_model, latent_size
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
    name, config, family, adapted, checkpoint, scheduler_config = _read(pipeline, "from_pipeline")
    _require_unsteered(pipeline, config)
    announce("hashing the weights of the pipeline")
    components = {"network": _network_component(adapted, family, config), "process": process_component(checkpoint)}
    codec = _find_codec(pipeline, name, checkpoint, digested=True)
    if isinstance(codec, AutoencoderCodec):
        components["autoencoder"] = codec.component
    encode_prompts = None
    if family.pipeline is not None:
        encode_prompts = partial(_prompts, pipeline, name, adapted)
    notes = describe_distillation(name, {"is_distilled": pipeline.config.get("is_distilled")}, config, scheduler_config)
    bundle = CheckpointBundle(checkpoint, codec, components, encode_prompts, notes)
    dtype = adapted.inner.dtype

    def place(module: nn.Module) -> PlacedNetworks:
        # It runs where it is, as it is: hooks and adapters of the pipeline do their work, which no faster executor
        # would know of.
        return PlacedNetworks(DeviceNetwork(module, pipeline._execution_device, Precision(dtype), shared=True))

    pair = (size, size) if isinstance(size, int) else size
    return assemble_model(name, bundle, place, str(dtype).removeprefix("torch."), pair)


class PipelineLatents(NamedTuple):
    """What the latents of a pipeline are.

    Attributes:
        codec: between images and x_0.
        size: height and width of the images in pixels.
        dtype: what the network computes in.
        family: whose pipeline it is.
    """

    codec: Codec
    size: Size
    dtype: torch.dtype
    family: DiffusersFamily

    def to_sample(self, x: Tensor) -> Tensor:
        """Return x [B, C, H, W] as the pipeline's scheduler gets it."""
        return to_tokens(x, self.family.tokens) if self.family.tokens else x

    def to_latents(self, sample: Tensor, x: Tensor) -> Tensor:
        """Return what the scheduler gets, for x of this shape, as `latents=` takes it, in the dtype of the network."""
        latents = from_tokens(sample, x, self.family.tokens) if self.family.packs else sample
        return latents.to(self.dtype)


def latents_of_pipeline(pipeline: Any, size: Size | int | None = None) -> PipelineLatents:
    """Return what the latents of a pipeline are; unlike `model_from_pipeline`, it neither hashes nor refuses adapters.

    Args:
        pipeline: the pipeline, which is not changed.
        size: as for `model_from_pipeline`.

    Raises:
        MissingExtraError: diffusers or transformers is not installed.
        ArgumentError: something that is no pipeline, or a size that cannot be had.
        ModelError: a pipeline whose network or process is not supported.
    """
    name, _, family, adapted, checkpoint, _ = _read(pipeline, "invert")
    if family.unshifted_times:
        raise ModelError(
            f"{name}: the pipelines of {family.title} give times of their own to the network, which no scheduler knows "
            "of. Use Editor.from_pipeline."
        )
    codec = _find_codec(pipeline, name, checkpoint, digested=False)
    pair = (size, size) if isinstance(size, int) else size
    height, width = latent_size(checkpoint, codec, pair)
    size = (height * codec.factor, width * codec.factor)
    return PipelineLatents(codec, size, adapted.inner.dtype, family)


class _PipelineParts(NamedTuple):
    name: str
    config: Mapping[str, Any]
    family: DiffusersFamily
    network: DiffusersNetwork
    checkpoint: Checkpoint
    scheduler_config: Mapping[str, Any]


def _read(pipeline: Any, caller: str) -> _PipelineParts:
    """Return what a pipeline is made of; `caller` is what errors call the function that was given it."""
    library = import_diffusers("Using a pipeline")
    if not isinstance(pipeline, library.DiffusionPipeline):
        raise ArgumentError(
            f"{caller} takes a pipeline object of diffusers, not {type(pipeline).__name__}. To load a model by its "
            "name or path, use from_pretrained."
        )
    name = _name(pipeline)
    component = _find_network(pipeline, name)
    network = pipeline.components[component]
    config = _config(network)
    family = family_of_config(config, f"{type(pipeline).__name__}.{component}")
    scheduler = pipeline.components.get("scheduler")
    if scheduler is None:
        raise ModelError(f"{name}: the pipeline has no scheduler, which tells its noise schedule. Give it one.")
    scheduler_config = _config(scheduler)
    process = read_process(scheduler_config)
    adapted = adapt_network(network, family)
    checkpoint = make_checkpoint(name, adapted, process, family.classes(config), family.sizes(config))
    return _PipelineParts(name, config, family, adapted, checkpoint, scheduler_config)


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


def _find_codec(pipeline: Any, name: str, checkpoint: Checkpoint, digested: bool) -> Codec:
    """Return the codec of a pipeline; with `digested`, an autoencoder says what identifies it."""
    component = next((each for each in AUTOENCODERS if pipeline.components.get(each) is not None), None)
    if component is None:
        require_pixels(checkpoint, name, "the pipeline has no vae. Give it one.")
        return codec_for(checkpoint.channels)
    autoencoder = pipeline.components[component]
    tensors = digest_tensors(EffectiveWeights(autoencoder), component) if digested else ""
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
