"""What a file of a whole model is split into."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Config = Mapping[str, Any]


class ComponentTensors(NamedTuple):
    """A component of a diffusers folder, in memory: the entries of its config.json, and its tensors by their names."""

    config: Config
    tensors: Mapping[str, Tensor]


class OriginalParts(NamedTuple):
    """The components in a file, as the folder of the same model has them.

    Fields: network; facts, what its tensors do not tell, as `read_facts` returns it; text_encoders, those that the file
    has, by their names in the folder; autoencoder, with its tensors by the names of latent diffusion, or None; told,
    the entries of its scheduler that the file itself tells.
    """

    network: ComponentTensors
    facts: Mapping[str, Config]
    text_encoders: Mapping[str, ComponentTensors]
    autoencoder: Mapping[str, Tensor] | None = None
    told: Config = {}  # noqa: RUF012 - never changed


def assets_folder() -> Path:
    """Return the folder of the files that come with the package."""
    return Path(str(resources.files("ddim_edit.assets")))


def read_facts(kind: str) -> dict[str, dict[str, Any]]:
    """Return the entries of the configs of a released model that its tensors do not tell, by component.

    Args:
        kind: which model, as a file in `assets/single_files` is called.

    Examples:
        >>> read_facts("stable-diffusion-1")["vae"]["scaling_factor"]
        0.18215
    """
    facts: dict[str, dict[str, Any]] = json.loads((assets_folder() / "single_files" / f"{kind}.json").read_text())
    return facts


def strip_prefix(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with the first of some prefixes that any has, without it."""
    for prefix in prefixes:
        if found := {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}:
            return found
    return {}


def count_blocks(names: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many numbered blocks there are, as in `prefix` + "0.weight"."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})
