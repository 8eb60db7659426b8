"""What a family of single-file checkpoints has to say of itself, and the settings that its weights cannot tell."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ddim_edit.backends.checkpoint import Checkpoint, State
from ddim_edit.errors import ModelError

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


def choice(settings: Settings, name: str, default: str, known: Collection[str]) -> str:
    """A setting that is a word out of `known`.

    Raises:
        ModelError: it is not.
    """
    value = settings.get(name, default)
    if not isinstance(value, str) or value not in known:
        remedy = "name what the network was trained with"
        raise ModelError(f"{name!r} to be one of {', '.join(known)}", f"{value!r}", remedy)
    return value


def number(settings: Settings, name: str, default: float) -> float:
    """A setting that is a positive number.

    Raises:
        ModelError: it is not.
    """
    value = settings.get(name, default)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ModelError(f"{name!r} to be a positive number", f"{value!r}", f"{default:.3g} is usual")
    return float(value)


def count(settings: Settings, name: str, default: int) -> int:
    """A setting that is a positive whole number.

    Raises:
        ModelError: it is not.
    """
    value = settings.get(name, default)
    if type(value) is not int or value < 1:
        raise ModelError(f"{name!r} to be a positive whole number", f"{value!r}", f"{default} is usual")
    return value
