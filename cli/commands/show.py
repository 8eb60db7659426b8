"""`ddim-edit show`."""

import json
from pathlib import Path
from typing import Any

import click

from ..command import OptionGroup, command
from ..files import LATENT
from ..options import FILE_OR_FOLDER, base_option
from ..session import Session
from ..store_reading import open_store
from ..stores import is_store
from ..streams import STANDARD
from ..types import DIRECTION

SHORT_RECIPE = ("model", "components", "prediction", "dtype", "condition", "solver", "grid")
"""What is shown of the recipe that a store's latents share, whose list of times may be long."""


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    return [OptionGroup("Options", [click.Argument(["file"], type=FILE_OR_FOLDER), base_option()])]


@command(
    "Tools",
    2,
    option_groups,
    "ddim-edit show out/portrait.png",
    "ddim-edit show portrait.latent.safetensors",
    "ddim-edit show model-100.pt",
    "ddim-edit show flux1-dev.safetensors --base flux-parts",
)
def show(file: Path, base: str | None) -> None:
    """Show what a file is, as JSON; - is standard input.

    The recipe of a written image or a latent, the contents of a store, how a direction was fitted, or what is read
    from a checkpoint.
    """
    from ddim_edit.io import content
    from ddim_edit.models.families.family import SINGLE_FILE_SUFFIXES

    session = Session(base=base)
    if file == STANDARD:
        file = session.streams.read()
    kind = content.describe_file(file)
    weights = (content.GGUF, content.PICKLE, content.SAFETENSORS, content.ZIP)  # whatever the file is called
    if file.name.endswith(LATENT) or kind == content.LATENT:
        record = _describe_latent(file)
    elif file.name.endswith(DIRECTION) or kind == content.DIRECTION:
        from ddim_edit.directions import Direction

        record = Direction.read_summary(file)
    elif is_store(file):
        record = _describe_store(session, file)
    elif file.is_dir() or file.suffix.lower() in (*SINGLE_FILE_SUFFIXES, ".gguf") or kind in weights:
        with session.showing_progress():
            record = _describe_checkpoint(session, file)
    else:
        record = _describe_image(file)
    click.echo(json.dumps(record, indent=2, sort_keys=True))
    session.finish()


def _describe_latent(file: Path) -> dict[str, Any]:
    from ddim_edit import Latent

    header = Latent.read_header(file)
    return {
        "recipe": header.recipe.to_json(),
        "report": dict(header.report),
        "t": header.t,
        "shape": list(header.shape),
    }


def _describe_store(session: Session, folder: Path) -> dict[str, Any]:
    store = open_store(session, folder)
    if not store:
        session.finish()  # where shards failed, there is nothing else to say
    record = {
        "complete": store.complete,
        "failures": store.failures,
        "latents": len(store),
        "recipe": None,
        "shape": None,
        "shards": store.shards,
        "unconverged": store.unconverged,
    }
    if store:
        recipe = store.recipe.to_json()
        times = recipe["times"]
        short = {name: recipe[name] for name in SHORT_RECIPE}
        record["recipe"] = {**short, "steps": len(times) - 1, "t": times[-1]}
        record["shape"] = list(store.shape)
    return record


def _describe_checkpoint(session: Session, path: Path) -> dict[str, Any]:
    from ddim_edit import load_model

    model = load_model(path, **session.parts)
    return {
        "codec": type(model.codec).__name__,
        "components": dict(model.components),
        "follows": model.follows,
        "image_size": list(model.size),
        "latent_shape": list(model.shape),
        "model": model.name,
        "notes": list(model.notes),
        "prediction": model.prediction,
        "schedule": dict(model.schedule.description),
    }


def _describe_image(file: Path) -> dict[str, Any]:
    from ddim_edit import ImageError
    from ddim_edit.images import read_recipe

    recipe = read_recipe(file)
    if recipe is None:
        raise ImageError(f"{file}: there is no recipe in this image. Show one that ddim-edit wrote.")
    return {"recipe": recipe}
