"""`load_model`: load a checkpoint of any family by a packaged name, a path or a hub id."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Unpack

import torch
from torch import nn

from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.diffusion.parametrization import FlowParametrization
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.images.face_templates import TEMPLATE_FILE, FaceTemplate
from ddim_edit.io.regular import require_regular
from ddim_edit.models.announcements import announce, announce_loading
from ddim_edit.models.autoencoders import TiledAutoencoder
from ddim_edit.models.blocks import require_blocks
from ddim_edit.models.checkpoint import Checkpoint, CheckpointBundle, LoadOptions, ModelParts
from ddim_edit.models.checkpoint_file import read_settings, read_state_dict
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.codec.pixels import Codec, codec_for
from ddim_edit.models.conditioning import ClassLabels, ConditionEncoder, Conditioner
from ddim_edit.models.devices import (
    PRECISIONS,
    DeviceNetwork,
    Precision,
    dtype_name,
    find_device,
    is_native,
    state_device,
)
from ddim_edit.models.digest_cache import cached_digest
from ddim_edit.models.families.family import SINGLE_FILE_SUFFIXES, DiffusersFamily
from ddim_edit.models.families.registry import family_of_state
from ddim_edit.models.file_kinds import note_of_fp8
from ddim_edit.models.folder import load_folder
from ddim_edit.models.hub import fetch
from ddim_edit.models.identity import digest_tensors, network_component, process_component
from ddim_edit.models.model import Model
from ddim_edit.models.offloading import require_offload
from ddim_edit.models.original_file import load_original_file
from ddim_edit.models.packaged import DEFAULT_MODEL, packaged_models
from ddim_edit.models.placing import can_share, place_cast, place_in_runtime, place_network, place_offloaded
from ddim_edit.models.runtimes import find_runtime, require_runtime
from ddim_edit.models.sizes import Size, require_size
from ddim_edit.models.tensor_files import require_unquantised, upcast_fp8
from ddim_edit.models.typicality import find_typicality


def load_model(
    name_or_path: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    size: int | tuple[int, int] | None = None,
    offline: bool = False,
    compiled: bool = False,
    blocks: str = "fused",
    **parts: Unpack[ModelParts],
) -> Model:
    """Load a checkpoint of any family in docs/models.md; what it is is read from its files.

    Args:
        name_or_path: a packaged model's name, a diffusers folder, a checkpoint file, or a hub id such as
            google/ddpm-cifar10-32, which is downloaded if it is not in the hub's cache; faces64 when left out.
        device: "auto", "cuda", "mps" or "cpu".
        dtype: of the network, "float32", "tf32", "bfloat16", "float16" or "mixed", float32 and below s = 1 bfloat16;
            autoencoders stay float32, and text encoders too unless `encoder_dtype` says otherwise.
        size: height and width of the images in pixels, or one number for both; as trained when left out.
        offline: whether a hub id may come from the cache only; HF_HUB_OFFLINE=1 has the same effect.
        compiled: whether TorchInductor compiles the network, which takes a minute for every batch size.
        blocks: how the blocks of a pixel-space UNet run: "fused", with Triton kernels for what lies between the
            convolutions on CUDA devices where these work, and as "eager" elsewhere; "eager"; or "compiled" one by one
            by TorchInductor. Networks of diffusers, and networks that are compiled as a whole, run as they are.
        parts: what takes the place of parts of the model, and how they run. `base`, a diffusers folder from which a
            single file of Stable Diffusion or Flux gets what it lacks: text encoders, tokenizers, autoencoder.
            `scheduler`, where the noise schedule is read from: a scheduler_config.json, its folder, or "linear",
            "scaled_linear" or "cosine". `vae`, another autoencoder: a folder of diffusers, or a file. `loras`, files of
            LoRAs that are merged, each with ":SCALE" behind it if that is not 1. `embeddings`, files of textual
            inversions, whose words prompts may then use. `encoder_dtype`, what text encoders compute in, "float32" (the
            default), "bfloat16" or "float16"; latents of other ones are of another model. `offload`, for GPUs with
            little memory: "model" has one network at a time there, "sequential" one layer. `runtime`, for processors:
            "onnx" (ONNX Runtime, in float32) or "openvino" compute the network's output in place of "torch", to which
            the latents are the same up to rounding; "auto", the default, is "torch" (docs/performance.md).

    Raises:
        MissingExtraError: diffusers, huggingface_hub or the runtime is needed and not installed.
        ModelError: no such model, or one that cannot be run as it claims.
        ArgumentError: a device, dtype or size that cannot be had, an unknown `blocks`, or both ways of compiling.

    Examples:
        >>> model = load_model("faces64")
        >>> model.shape, model.prediction
        ((3, 64, 64), 'epsilon')
    """
    require_blocks(blocks, compiled)
    pair = (size, size) if isinstance(size, int) else size
    options = LoadOptions(find_device(device), dtype_name(dtype), pair, compiled, blocks, parts=parts)
    require_offload(options)
    require_runtime(options)
    return load_with_options(str(name_or_path or DEFAULT_MODEL), options, offline)


def load_with_options(name: str, options: LoadOptions, offline: bool = False) -> Model:
    """Load a checkpoint as `load_model` does, with everything that `LoadOptions` can ask for."""
    path = _find(name, offline)
    template = _read_face_template(path)
    if path.is_file():
        model = build_model(path.resolve().stem, load_single_file(path, options), options)
    else:
        if options.parts.get("base") is not None:
            raise ArgumentError(f"{name} is a folder, which has all of its parts. base goes with a single file.")
        # A folder is called by the last part of its path; hub ids and packaged models keep their names.
        title = path.resolve().name if Path(name).is_dir() else name
        model = build_model(title, load_folder(path, title, options), options)
    typicality = find_typicality(path, model.components["network"], model.shape)
    return replace(model, face_template=template, typicality=typicality)


def load_face_template(name_or_path: str | Path | None = None, offline: bool = False) -> FaceTemplate | None:
    """Return the face template of a model, without loading the model; None for one that has none.

    Arguments and errors as `load_model`, and:

    Raises:
        ImageError: a template that cannot be read.

    Examples:
        >>> load_face_template("faces64").landmarks[2]
        (31.43, 33.32)
    """
    return _read_face_template(_find(str(name_or_path or DEFAULT_MODEL), offline))


def _read_face_template(model: Path) -> FaceTemplate | None:
    file = model.with_name(f"{model.stem}.{TEMPLATE_FILE}") if model.is_file() else model / TEMPLATE_FILE
    return FaceTemplate.load(file) if file.is_file() else None


def _find(name: str, offline: bool) -> Path:
    packaged = packaged_models()
    path = Path(name)
    if name in packaged:
        return packaged[name]
    if path.exists():
        if not path.is_dir():
            require_regular(path, ModelError)
        return path
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and path.suffix not in SINGLE_FILE_SUFFIXES:
        return fetch(name, offline)
    raise ModelError(
        f"There is no model {name!r}. Give a model folder or file, a hub id, or one of {', '.join(packaged)}; see "
        "`ddim-edit models`."
    )


def load_single_file(path: Path, options: LoadOptions) -> CheckpointBundle:
    """Load the checkpoint in a .pt, .pth, .ckpt, .bin or .safetensors file of a registered family.

    What the weights do not show is read from NAME.json beside the file, under the names of the family's own code, or
    assumed as in its released checkpoints.

    Raises:
        ModelError: a file that cannot be read, that is of no known family, or that lacks something.
        ArgumentError: parts of a model that has no parts.
    """
    announce_loading(path.name, [path], quick=True)
    stored = read_state_dict(path)
    state = upcast_fp8(stored)
    family = family_of_state(state, path.name)
    if isinstance(family, DiffusersFamily):
        require_unquantised({name: str(tensor.dtype) for name, tensor in state.items()}, str(path))
        bundle = load_original_file(path, state, family, options)
        return bundle if state is stored else bundle._replace(notes=(*bundle.notes, note_of_fp8(path.name)))
    if missing := [name for name in options.parts if name != "runtime"]:
        raise ArgumentError(
            f"{path.name} is a network of pixels in one file, without {' and '.join(missing)}. What its weights "
            f"do not tell is read from {path.stem}.json beside it."
        )
    checkpoint = family.load(state, read_settings(path), path.with_suffix(".json").name)
    network = checkpoint.network
    tensors = cached_digest([path], lambda: digest_tensors(network.state_dict(), path.name))
    components = {"network": network_component(network, tensors), "process": process_component(checkpoint)}
    return CheckpointBundle(checkpoint, codec_for(checkpoint.channels), components)


def build_model(name: str, bundle: CheckpointBundle, options: LoadOptions) -> Model:
    """Build the model of a loaded checkpoint: network on its device, conditions tied to it, size settled.

    Raises:
        ModelError: a checkpoint without a size of its own, and none in the options.
        ArgumentError: a size that cannot be had.
    """
    precision = PRECISIONS[options.dtype]

    def place(network: nn.Module) -> PlacedNetworks:
        if options.device.type != "cpu" and not options.parts.get("offload"):
            announce(f"moving the network to {options.device}")
        if how := options.parts.get("offload"):
            return PlacedNetworks(place_offloaded(network, bundle.codec, precision, options.device, how, name))
        if runtime := find_runtime(options):
            return PlacedNetworks(*place_in_runtime(network, precision, runtime))
        if precision.low is None:
            return PlacedNetworks(place_network(network, precision, options))
        low = Precision(precision.low)
        if can_share(network, options):
            high = place_network(network, precision, options)
            return PlacedNetworks(high, place_cast(high, low, options))
        rough = place_network(deepcopy(network), low, options)
        return PlacedNetworks(place_network(network, precision, options), rough)

    return assemble_model(name, bundle, place, options.dtype, options.size)


class PlacedNetworks(NamedTuple):
    """A network where it runs, and a coarser copy of it for low noise, if there is one."""

    network: DeviceNetwork
    low: DeviceNetwork | None = None


def assemble_model(
    name: str,
    bundle: CheckpointBundle,
    place: Callable[[nn.Module], PlacedNetworks],
    dtype: str,
    size: Size | None,
) -> Model:
    """Assemble a model of a checkpoint's parts: conditions tied to its network, size settled.

    Args:
        name: what to call it.
        bundle: the parts.
        place: puts the network where it runs.
        dtype: what the network computes in, by name.
        size: of its images (height, width); None for the model's own.

    Raises:
        ModelError: a checkpoint without a size of its own, and none given.
        ArgumentError: a size that cannot be had.
    """
    checkpoint = bundle.checkpoint
    codec = bundle.codec
    height, width = latent_size(checkpoint, codec, size)
    # A token of a transformer is a patch, the sides of which height and width must be multiples of.
    patch = checkpoint.sizes.multiple
    sampler = checkpoint.schedule.sampler.for_tokens((height // patch) * (width // patch))
    encoder: ConditionEncoder | None = None
    if bundle.encode_prompts is not None:
        encoder = bundle.encode_prompts((height * codec.factor, width * codec.factor))
    elif checkpoint.classes is not None:
        encoder = ClassLabels(name, checkpoint.classes)
    parametrization = checkpoint.parametrization
    if checkpoint.unshifted_times and isinstance(parametrization, FlowParametrization):
        parametrization = replace(parametrization, shift=sampler.shift_of(1))
    network, low = place(checkpoint.network)
    # A network in float64 takes x as it is; all others take float32, and round it themselves.
    kind = torch.float64 if network.precision.dtype == torch.float64 else torch.float32
    denoiser = NetworkDenoiser(network, parametrization, kind, low)
    rule = checkpoint.guidance or torch.lerp
    conditioner = None if encoder is None else Conditioner(denoiser, network, encoder, low, rule)
    return Model(
        denoiser=denoiser if conditioner is None else conditioner.unconditional(),
        codec=codec,
        schedule=replace(checkpoint.schedule, sampler=sampler),
        shape=(checkpoint.channels, height, width),
        name=name,
        components={**bundle.components, **({} if encoder is None else encoder.components)},
        prediction=checkpoint.parametrization.name,
        dtype=dtype,
        device=network.device,
        native=is_native(network.device, (low or network).precision.dtype),
        state_device=state_device(network.device),
        conditioner=conditioner,
        notes=(*bundle.notes, *_notes_of_size(codec, height, width)),
        follows="nothing" if encoder is None else encoder.follows,
        sizes=checkpoint.sizes.scaled(codec.factor),
    )


def _notes_of_size(codec: Codec, height: int, width: int) -> list[str]:
    """Return what may surprise about latents of a size."""
    autoencoder = codec.autoencoder if isinstance(codec, AutoencoderCodec) else None
    pixels = height * width * codec.factor**2
    if not isinstance(autoencoder, TiledAutoencoder) or pixels <= autoencoder.largest_untiled:
        return []
    side = int(autoencoder.largest_untiled**0.5)
    return [
        f"images of more than {side}x{side} pixels go through the autoencoder in tiles, which changes them a little"
    ]


def latent_size(checkpoint: Checkpoint, codec: Codec, size: Size | None) -> Size:
    """Return height and width of x_0 for images of a size in pixels, or of the size of its training."""
    if size is None:
        if checkpoint.size is None:
            raise ModelError("This model does not tell the size of its images. Give --size.")
        height, width = checkpoint.size
        size = height * codec.factor, width * codec.factor
    return require_size(size, checkpoint.sizes, codec.factor)
