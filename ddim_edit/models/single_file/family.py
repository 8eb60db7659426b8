"""What a family of single-file checkpoints has to say of itself."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.models.checkpoint import Checkpoint, State

Settings = Mapping[str, Any]
"""What the weights cannot tell, as JSON values under the family's own flag names."""


@dataclass(frozen=True)
class Family:
    """Checkpoints of one code base: how to know them by their tensors' names, and how to build their network.

    Attributes:
        name: as its users call it.
        settings: the flags that may be given, because its weights do not tell them.
        matches: whether a state dict is one of this family; looks at names and shapes only.
        build: the checkpoint of a state dict that matches; what neither weights nor settings tell is assumed as in the
            family's released checkpoints. Raises `ModelError`.
    """

    name: str
    settings: Collection[str]
    matches: Callable[[State], bool]
    build: Callable[[State, Settings], Checkpoint]


def linear(T: int) -> NoiseSchedule:
    """Ho et al.'s betas, scaled so that T levels add as much noise as 1000; what most code bases call linear."""
    return NoiseSchedule.linear(1000 / T * 1e-4, 1000 / T * 0.02, T)
