"""What every family of checkpoints turns into before it is placed on a device."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ddim_edit.diffusion.parametrization import Parametrization
from ddim_edit.diffusion.schedules import NoiseSchedule

State = Mapping[str, Tensor]
"""A state dict: tensors by parameter name."""


@dataclass(frozen=True)
class Classes:
    """The classes that a network was trained on: count of them, and the label that stands for none, if there is one."""

    count: int
    none: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A trained network of pixels, and what must be known to walk with it.

    Attributes:
        network: called with x [B, C, H, W], indices [B] and, where there are classes, label=[B] int64; answers in the
            shape of x, or with more channels, of which the first C count (the others are learned variances).
        schedule: the noise schedule that it was trained with.
        parametrization: how it is called and what its output means.
        channels: C.
        size: (H, W) of its training pictures, or None where any will do and nothing tells.
        classes: its classes, or None.
    """

    network: nn.Module
    schedule: NoiseSchedule
    parametrization: Parametrization
    channels: int
    size: tuple[int, int] | None
    classes: Classes | None = None
