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
from ddim_edit.models.placement import PRECISIONS, DeviceNetwork, Precision, is_native, state_device
from ddim_edit.models.unet.base import UNetBase

Size = tuple[int, int]


class LoadOptions(NamedTuple):
    """What a user wants of a model: where, how precisely, run in which way, pictures of which size, if not its own."""

    device: torch.device
    dtype: str
    size: Size | None = None
    compiled: bool = False
    blocks: str = "eager"


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
    low = None if precision.low is None else _placed(deepcopy(checkpoint.network), wish, Precision(precision.low))
    network = _placed(checkpoint.network, wish, precision)
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


def _placed(network: nn.Module, wish: LoadOptions, precision: Precision) -> DeviceNetwork:
    """A network where it is wanted, run as fast as we know how to there."""
    module = network.to(wish.device, precision.dtype).to(memory_format=torch.channels_last)
    if isinstance(module, UNetBase) and not wish.compiled:  # whose layers we know; a compiler packs for itself
        module = prepare_blocks(module, wish.blocks)
    run = executor_for(wish.device, wish.compiled)(module)
    return DeviceNetwork(module, wish.device, precision, run=run)


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
