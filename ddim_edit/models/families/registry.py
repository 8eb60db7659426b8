"""The registry of checkpoint families.

A family is one module of `ddim_edit.models.families` that defines `FAMILY`, a `SingleFileFamily` or a
`DiffusersFamily`. Loaders, tables and documentation are built from the registry, so that adding a family is adding one
file. Nothing here imports torch: family modules import it, and their networks, inside functions.

A transformer of diffusers that takes x as it is, and its time condition as the index of a level, needs as much as this,
where `_encode` returns what the network gets for a prompt:

    FAMILY = DiffusersFamily(
        name="name",
        title="Name",
        order=50,
        notes=FamilyNotes("--model DIR --prompt TEXT", "`NameTransformer2DModel`", "betas, autoencoder, T5"),
        network="NameTransformer2DModel",
        sizes=sizes_by_patch,
        pipeline=TextPipeline("NamePipeline", "transformer", ("text_encoder",), _encode),
    )

Networks that take x, times or conditioning otherwise have a `call` besides (`flux.py`, `tokens.py`), pipelines with a
schedule of their own a `sampler` (`flux_2_klein.py`), and those that guide otherwise a `guidance` (`qwen_image.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ddim_edit.discovery import find_entries
from ddim_edit.errors import ModelError
from ddim_edit.models import families
from ddim_edit.models.families.family import Config, DiffusersFamily, Family, SingleFileFamily
from ddim_edit.models.file_kinds import describe_addition, describe_class, describe_part

if TYPE_CHECKING:
    from ddim_edit.models.checkpoint import StateDict

_FORMER_CLASSES: Mapping[str, str] = {
    "ada_norm_zero": "DiTTransformer2DModel",
    "ada_norm_single": "PixArtTransformer2DModel",
}
"""What became of the class Transformer2DModel, which released DiT and PixArt still name, by the entry norm_type."""
FAMILIES: Mapping[str, Family] = find_entries(
    families, "FAMILY", lambda family: family.order, without=("family", "registry", "tokens")
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
    for family in FAMILIES.values():
        unread = family.unread if isinstance(family, DiffusersFamily) else None
        if unread and any(re.search(unread, name) for name in state):
            raise ModelError(f"{source}: it is {family.title} in one file, which cannot be read. Use its folder.")
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
    if name == "Transformer2DModel":
        name = _FORMER_CLASSES.get(str(config.get("norm_type")), name)
    for family in known:
        if family.network == name and family.accepts(config):
            return family
    if any(family.network == name for family in known):
        added = config.get("addition_embed_type")
        raise ModelError(f"{source}: {name}s with addition_embed_type {added!r} are not supported.")
    if kind := describe_class(name):
        raise ModelError(f"{source}: its class is {name!r:.60}: {kind}")
    raise ModelError(
        f"{source}: networks of the class {name!r:.60} are not supported. `ddim-edit models --families` lists "
        "those that are."
    )
