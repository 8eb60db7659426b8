"""Cards of repositories on the hub: what is in them, which model and grid it belongs to, and how it is used."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ddim_edit.directions import Direction
from ddim_edit.errors import ArgumentError
from ddim_edit.latents.latent import Latent
from ddim_edit.latents.provenance import Recipe
from ddim_edit.models.identity import find_difference
from ddim_edit.models.model import Model
from ddim_edit.models.packaged import DEFAULT_MODEL
from ddim_edit.tables import markdown_table

FILE = "README.md"
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_NOT_SHOWN = ("level", "model", "name")
"""Entries of summaries that the cards show elsewhere."""
_FACTS = {
    "sd": "unit of strength: sd of the projections",
    "method": "estimator",
    "n": "images",
    "positive": "images with it",
    "negative": "images without it",
    "auc": "AUC on held-out images",
    "auc_sd": "its sd over the folds",
    "permuted_auc": "AUC with shuffled labels",
    "permuted_sd": "its sd",
    "d": "dimensions",
}
"""What entries of reports mean; others stand under their own names."""


class About(NamedTuple):
    """What a card says.

    Attributes:
        title: its first line.
        text: its first paragraph.
        sections: Markdown by its heading.
        tags: for the hub's search.
        loaded_by: the library that loads what is in the repository.
    """

    title: str
    text: str
    sections: Mapping[str, str]
    tags: Sequence[str]
    loaded_by: str = "ddim-edit"


def write(about: About, license: str, description: str) -> str:  # noqa: A002 - the hub's own word
    """Return a card as Markdown, with the hub's front matter."""
    tags = "\n".join(f"- {tag}" for tag in ("ddim-edit", "diffusion", *about.tags))
    front = f"---\nlibrary_name: {about.loaded_by}\nlicense: {license}\ntags:\n{tags}\n---"
    parts = [front, f"# {about.title}", about.text, description.strip()]
    parts += [f"## {heading}\n\n{body}" for heading, body in about.sections.items()]
    parts.append(f"Written by ddim-edit {metadata.version('ddim-edit')}. License: {license}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def describe_directions(directions: Mapping[str, Direction], repo: str) -> About:
    """Return the card of directions by their names in the repository.

    Raises:
        ArgumentError: directions of several models.
    """
    recipes = {name: direction.recipe for name, direction in directions.items()}
    model = _one_model(recipes)
    summaries = [direction.summary() for direction in directions.values()]
    known = dict.fromkeys([*_FACTS, *chain.from_iterable(summaries)])
    fitted = []
    for entry in known:
        values = [_number(summary.get(entry, "")) for summary in summaries]
        if entry not in _NOT_SHOWN and any(values):
            fitted.append([_FACTS.get(entry, entry.replace("_", " ")), *values])
    first = next(iter(directions))
    id_of_first = repo if len(directions) == 1 else f"{repo}/{first}"
    strength = f"{min(3.0, directions[first].strongest):.2g}"
    usage = (
        f"```python\nfrom ddim_edit import Editor\n\neditor = Editor.from_pretrained({json.dumps(model.model)})\n"
        f'edited = editor.edit_photograph("portrait.jpg", {{"{id_of_first}": {strength}}})\n```\n\n'
        f"```sh\nddim-edit edit portrait.jpg --set {id_of_first}=+{strength} -o out/{_model_option(model)}\n```\n\n"
        "Strengths are standard deviations (sd) of the projections of the training latents."
    )
    return About(
        title=", ".join(map(_cell, directions)),
        text=f"{_count(len(directions), 'direction')} in the latent space of the diffusion model "
        f"`{_cell(model.model)}`: moving the latent of an image along it changes an attribute of the image.",
        sections={
            "How it was fitted": _table(["", *directions], fitted),
            "Where it belongs": _grid_table(recipes, {name: each.level for name, each in directions.items()}),
            "The model": _model_table(model),
            "Use": usage,
        },
        tags=["latent-direction"],
    )


def describe_latents(latents: Mapping[str, Latent], repo: str) -> About:
    """Return the card of latents by their names in the repository.

    Raises:
        ArgumentError: latents of several models.
    """
    recipes = {name: latent.recipe for name, latent in latents.items()}
    model = _one_model(recipes)
    made = []
    for name, latent in latents.items():
        summary = latent.summary()
        figures = [_number(summary.get(entry, "")) for entry in ("nfe", "converged", "error", "xt_std", "xt_corr")]
        made.append([name, summary["origin"], *figures])
    usage = (
        f"```python\nfrom ddim_edit import Editor, load_latents\n\n"
        f"editor = Editor.from_pretrained({json.dumps(model.model)}, dtype={json.dumps(model.dtype)})\n"
        f'images = editor.decode(load_latents("{repo}")).to_pil()\n```\n\n'
        f"```sh\nhf download {repo} --local-dir latents/\n"
        f"ddim-edit decode latents/ -o images/{_model_option(model)}\n```"
    )
    return About(
        title=f"{_count(len(latents), 'latent')} of {_cell(model.model)}",
        text=f"Noise latents of the diffusion model `{_cell(model.model)}`, each with the recipe that decodes it.",
        sections={
            "How they were made": _table(
                ["latent", "origin", "evaluations", "converged", "error", "std of x", "correlation of neighbours"], made
            ),
            "Where they belong": _grid_table(recipes, {name: f"{latent.t:g}" for name, latent in latents.items()}),
            "The model": _model_table(model),
            "Use": usage,
        },
        tags=["diffusion-latent"],
    )


def describe_model(model: Model, own_card: Path, repo: str) -> About:
    """Return the card of a model, with what its own card says, if it has one."""
    told = own_card.read_text(encoding="utf-8") if own_card.is_file() else ""
    told = _FRONT_MATTER.sub("", told).strip()
    heading, _, rest = told.partition("\n")
    title = heading.removeprefix("# ") if heading.startswith("# ") else model.name
    facts = {
        "images": f"{model.size[1]}x{model.size[0]}",
        "state x": "x".join(map(str, model.shape)),
        "prediction": model.prediction,
        "schedule": json.dumps(dict(model.schedule.description), sort_keys=True),
        "follows": model.follows,
        **{f"digest of {name}": digest for name, digest in sorted(model.components.items())},
    }
    usage = (
        f"```python\nfrom ddim_edit import Editor\n\neditor = Editor.from_pretrained({json.dumps(repo)})\n"
        f'latent = editor.invert("photo.jpg")\n```\n\n'
        f"```sh\nddim-edit reconstruct photo.jpg --model {repo} -o out/\n```"
    )
    return About(
        title=title,
        text=(rest.strip() if heading.startswith("# ") else told) or "A diffusion model in the format of diffusers.",
        sections={"What it is": _table(["", ""], [[name, value] for name, value in facts.items()]), "Use": usage},
        tags=[],
        loaded_by="diffusers",
    )


def _one_model(recipes: Mapping[str, Recipe]) -> Recipe:
    """Return the recipe of the first; raise ArgumentError if they are not all of one model."""
    (first, recipe), *others = recipes.items()
    for name, other in others:
        if find_difference(recipe.components, other.components):
            raise ArgumentError(
                f"{first} and {name} are of two models. Give those of each model a repository of their own."
            )
    return recipe


def _model_table(recipe: Recipe) -> str:
    rows = [["name", recipe.model]]
    rows += [[f"digest of {name}", digest] for name, digest in sorted(recipe.components.items())]
    rows += [["schedule", json.dumps(dict(recipe.schedule), sort_keys=True)], ["prediction", recipe.prediction]]
    known = "A latent or a direction is refused by a model of other digests."
    return f"{_table(['', ''], rows)}\n\n{known}"


def _grid_table(recipes: Mapping[str, Recipe], levels: Mapping[str, str]) -> str:
    rows = []
    for name, recipe in recipes.items():
        condition = ", ".join(f"{key} {value}" for key, value in recipe.condition.as_dict().items()) or "none"
        steps = str(len(recipe.times) - 1)
        rows.append([name, levels[name], recipe.solver, recipe.grid, steps, recipe.dtype, condition])
    return _table(["", "level t", "solver", "grid", "steps", "dtype", "condition"], rows)


def _model_option(recipe: Recipe) -> str:
    return "" if recipe.model == DEFAULT_MODEL else f" --model {recipe.model}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(titles, [list(map(_cell, row)) for row in rows])


def _cell(text: object) -> str:
    """Return a text that cannot end a cell, a line or a piece of code."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").replace("`", "'")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
