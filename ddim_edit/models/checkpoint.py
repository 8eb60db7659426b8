"""Checkpoints as loaders hand them over, before anything is placed on a device. Importing this needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from ddim_edit.models.sizes import ANY_SIZE, Size, SizeRule

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ddim_edit.diffusion.denoisers import GuidanceRule
    from ddim_edit.diffusion.parametrization import Parametrization
    from ddim_edit.diffusion.schedules import NoiseSchedule
    from ddim_edit.models.codec.pixels import Codec
    from ddim_edit.models.conditioning import ConditionEncoder
    from ddim_edit.models.identity import Components

    StateDict = Mapping[str, Tensor]
    """Tensors by parameter name."""


@dataclass(frozen=True)
class Classes:
    """The classes that a network was trained on.

    Args:
        count: how many there are.
        none: the label that stands for no class, if there is one.
    """

    count: int
    none: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and its diffusion process.

    Args:
        network: called with x [B, C, H, W], time conditions [B] and, where there are classes, label=[B] int64. Its
            output has the shape of x, or more channels, of which the first C count (the others are learned variances).
        schedule: the noise schedule of its training.
        parametrization: how it is called and what its output means.
        channels: C.
        size: (H, W) of its training images, or latents; None where it is in no file.
        classes: its classes, or None.
        sizes: the heights and widths of x_0 that the network takes.
        guidance: how guidance combines two of its outputs; None as in Ho and Salimans.
        unshifted_times: whether a flow network is told times as they were before the shift of its sampler, which may
            depend on the size of the images.
    """

    network: nn.Module
    schedule: NoiseSchedule
    parametrization: Parametrization
    channels: int
    size: Size | None
    classes: Classes | None = None
    sizes: SizeRule = ANY_SIZE
    guidance: GuidanceRule | None = None
    unshifted_times: bool = False


class CheckpointBundle(NamedTuple):
    """A checkpoint with what belongs to it.

    Fields: checkpoint; codec between images and x_0; components, the digest of each; encode_prompts, which makes the
    encoder of prompts for images of a size, or None for networks that follow no prompts; notes, sentences on what may
    surprise about it.
    """

    checkpoint: Checkpoint
    codec: Codec
    components: Components
    encode_prompts: Callable[[Size], ConditionEncoder] | None = None
    notes: tuple[str, ...] = ()


class ModelParts(TypedDict, total=False):
    """What takes the place of parts of a diffusers folder, and how they run, as keywords of `load_model`."""

    base: str | Path | None
    scheduler: str | Path | None
    vae: str | Path | None
    loras: Sequence[str | Path]
    embeddings: Sequence[str | Path]
    encoder_dtype: str | None
    offload: str | None
    runtime: str | None


class LoadOptions(NamedTuple):
    """How to load and run a model.

    Fields: device; dtype by name; size of the images (height, width), None for the model's own; compiled, whether
    TorchInductor compiles the network; blocks, how residual blocks run, one of `blocks.BLOCKS`; memory_format of the
    feature maps, None for the one that suits the device; parts that take the place of the checkpoint's own.
    """

    device: torch.device
    dtype: str
    size: Size | None = None
    compiled: bool = False
    blocks: str = "fused"
    memory_format: torch.memory_format | None = None
    parts: ModelParts = {}  # noqa: RUF012 - never changed
