"""The registry of checkpoint families.

A family is one module of `ddim_edit.models.families` that defines `FAMILY`, a `SingleFileFamily` or a
`DiffusersFamily`. Loaders, tables and documentation are built from the registry, so that adding a family is adding one
file. Nothing here imports torch: family modules import it, and their networks, inside functions.

A transformer of diffusers needs as much as this, where `_encode` returns what the network gets for a prompt:

    FAMILY = DiffusersFamily(
        name="pixart-sigma",
        title="PixArt-Sigma",
        help="A transformer with a T5 text encoder.",
        order=45,
        network="PixArtTransformer2DModel",
        pipeline=TextPipeline("PixArtSigmaPipeline", "transformer", ("text_encoder",), _encode),
    )

Networks that take x or their conditioning otherwise have a `call` besides (`flux.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ddim_edit.discovery import find_entries
from ddim_edit.errors import ModelError
from ddim_edit.models import families
from ddim_edit.models.families.family import Config, DiffusersFamily, Family, SingleFileFamily
from ddim_edit.models.file_kinds import describe_addition, describe_class, describe_part

if TYPE_CHECKING:
    from ddim_edit.models.checkpoint import StateDict

FAMILIES: Mapping[str, Family] = find_entries(
    families, "FAMILY", lambda family: family.order, without=("family", "registry")
)
"""All families by name, in the order of tables."""


def family_of_state(state: StateDict, source: str) -> Family:
    """Return the family of a state dict.

    Args:
        state: tensors by name.
        source: the file, for the error.

    Raises:
        ModelError: it is of no known family.
    """
    # What changes another model may have names of that model, and what is a part of one has names of the whole.
    if kind := describe_addition(state):
        raise ModelError(f"{source}: {kind}")
    for family in FAMILIES.values():
        form = family if isinstance(family, SingleFileFamily) else family.original
        if form is not None and form.matches(state):
            return family
    if kind := describe_part({name: tensor.shape for name, tensor in state.items()}):
        raise ModelError(f"{source}: {kind}")
    names = ", ".join(list(state)[:3])
    known = [each.name for each in FAMILIES.values() if isinstance(each, SingleFileFamily) or each.original]
    raise ModelError(
        f"{source}: a checkpoint of an unknown family, with the tensors {names} and so on. Known are "
        f"{', '.join(known)}. Convert it to a diffusers folder."
    )


def family_of_config(config: Config, source: str = "config.json") -> DiffusersFamily:
    """Return the family of the config of a network of diffusers.

    Args:
        config: the config, with its class as `_class_name`.
        source: where it is from, for the error.

    Raises:
        ModelError: it is of no known family.
    """
    known = [family for family in FAMILIES.values() if isinstance(family, DiffusersFamily)]
    # Flat folders of 2022 have no _class_name; they are all UNet2DModels.
    name = config.get("_class_name", "UNet2DModel")
    for family in known:
        if family.network == name and family.accepts(config):
            return family
    if any(family.network == name for family in known):
        added = config.get("addition_embed_type")
        raise ModelError(f"{source}: {name}s with addition_embed_type {added!r} are not supported.")
    if kind := describe_class(name):
        raise ModelError(f"{source}: its class is {name!r:.60}: {kind}")
    networks = dict.fromkeys(family.network for family in known)
    raise ModelError(f"{source}: networks of the class {name!r:.60} are not supported. Known: {', '.join(networks)}.")
