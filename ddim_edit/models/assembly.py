"""From a checkpoint to a `Model`: the network placed, its conditions tied to it, its size settled."""

import hashlib
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.images.reading import PIXEL_LIMIT
from ddim_edit.models.blocks import prepare_blocks
from ddim_edit.models.checkpoint import Checkpoint
from ddim_edit.models.codec.pixels import Codec
from ddim_edit.models.conditioning import ClassLabels, ConditionEncoder, Conditioner
from ddim_edit.models.executors import executor_for
from ddim_edit.models.model import Model
from ddim_edit.models.placement import (
    PRECISIONS,
    DeviceNetwork,
    Precision,
    is_native,
    state_device,
    suited_memory_format,
)
from ddim_edit.models.unet.base import UNetBase

Size = tuple[int, int]


class LoadOptions(NamedTuple):
    """How to load and run a model.

    Fields: device; dtype by name; size of the images (height, width), None for the model's own; compiled, whether
    TorchInductor compiles the network; blocks, how residual blocks run, one of `blocks.BLOCKS`; memory_format of the
    feature maps, None for the one that suits the device.
    """

    device: torch.device
    dtype: str
    size: Size | None = None
    compiled: bool = False
    blocks: str = "eager"
    memory_format: torch.memory_format | None = None


class CheckpointBundle(NamedTuple):
    """A checkpoint with what stands around it: its codec, its fingerprint, and its prompts if it follows any."""

    checkpoint: Checkpoint
    codec: Codec
    weights: str
    prompts: ConditionEncoder | None = None


def assemble(name: str, loaded: CheckpointBundle, wish: LoadOptions) -> Model:
    """The model of a loaded checkpoint.

    Raises:
        ModelError: a checkpoint of no size of its own, and none wished; ArgumentError: a size that cannot be.
    """
    checkpoint, codec, precision = loaded.checkpoint, loaded.codec, PRECISIONS[wish.dtype]
    low = None
    if precision.low is not None:
        low = place(deepcopy(checkpoint.network), Precision(precision.low), wish)
    network = place(checkpoint.network, precision, wish)
    denoiser = NetworkDenoiser(network, checkpoint.parametrization, low=low)
    labels = None if checkpoint.classes is None else ClassLabels(name, checkpoint.classes)
    embedder = loaded.prompts or labels
    conditioner = None if embedder is None else Conditioner(denoiser, network, embedder, low)
    return Model(
        denoiser=denoiser if conditioner is None else conditioner.unconditional(),
        codec=codec,
        schedule=checkpoint.schedule,
        shape=(checkpoint.channels, *cells(checkpoint, codec, wish.size)),
        name=name,
        weights=loaded.weights,
        prediction=checkpoint.parametrization.name,
        dtype=wish.dtype,
        device=wish.device,
        native=is_native(wish.device, precision.low or precision.dtype),
        state_device=state_device(wish.device),
        conditioner=conditioner,
        follows="nothing" if embedder is None else embedder.follows,
    )


def place(network: nn.Module, precision: Precision, options: LoadOptions) -> DeviceNetwork:
    """Return a network on its device, prepared to run as fast as we know how to there.

    Args:
        network: a module that is not used elsewhere; it is moved, cast, laid out and, on a CPU, packed in place.
        precision: of its weights and activations.
        options: device, memory format, and how it is compiled.
    """
    memory_format = options.memory_format or suited_memory_format(options.device)
    module = network.to(options.device, precision.dtype)
    if not isinstance(module, UNetBase):
        module = module.to(memory_format=memory_format)
    else:
        module = module.laid_out(memory_format)
        # We know the layers of these; a compiler packs for itself, and packed layers are channels_last ones.
        if not options.compiled and (options.blocks != "eager" or memory_format == torch.channels_last):
            module = prepare_blocks(module, options.blocks)
    return DeviceNetwork(module, options.device, precision, run=executor_for(options.device, options.compiled)(module))


def cells(checkpoint: Checkpoint, codec: Codec, size: Size | None) -> Size:
    """Height and width of x_0: as wished in pixels, or as trained.

    Raises:
        ModelError: neither; ArgumentError: pixels that make no whole cells.
    """
    if size is None and checkpoint.size is None:
        raise ModelError("a size for pictures of this model, which does not tell its own", "none", "give --size")
    height, width = size or _pixels(checkpoint.size or (0, 0), codec)
    if height * width > PIXEL_LIMIT:  # larger ones could never be read
        given = f"{width}x{height}"
        raise ArgumentError(f"pictures of at most {PIXEL_LIMIT:,} pixels", given, "give a smaller --size")
    if size is None:
        return height // codec.factor, width // codec.factor
    if min(size) < 1 or any(side % codec.factor for side in size):
        wanted = f"a size in multiples of {codec.factor} pixels"
        raise ArgumentError(wanted, f"{size[1]}x{size[0]}", "choose the nearest one")
    return size[0] // codec.factor, size[1] // codec.factor


def _pixels(cells: Size, codec: Codec) -> Size:
    return cells[0] * codec.factor, cells[1] * codec.factor


def fingerprint(files: Iterable[Path]) -> str:
    """SHA-256 of one file, or of the digests of several in the order of their names."""
    digests = [_digest(file) for file in sorted(files)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
