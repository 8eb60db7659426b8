"""`probe`: how well a line through codes reads an attribute, from few labels to many."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .files import claim
from .labelling import Labels, read_codes, readable, with_labels
from .options import overwrite_option, with_crop, with_metadata, with_session, with_walk
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ddim_edit.images import InputImage

PLOTS = (".png", ".svg")
LEVELS = "0.1T,0.2T,0.4T,0.6T,xT,h:0.1T,h:0.4T"


def _sizes(context: click.Context, parameter: click.Parameter, value: str) -> list[int | None]:
    words = [word.strip() for word in value.split(",")]
    if not all(word == "all" or (word.isdecimal() and int(word) > 1) for word in words):
        raise click.BadParameter(f"{value!r} is not a list of numbers above 1 or 'all', as in 10,100,all.")
    return [None if word == "all" else int(word) for word in words]


def _plot(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix.lower() not in PLOTS:
        raise click.BadParameter(f"{value.name!r} ends in none of {', '.join(PLOTS)}.")
    return value


@click.command()
@with_labels
@click.option("--levels", default=LEVELS, show_default=True, help="Where to read codes: T, 0.4T, xT, h:LEVEL.")
@click.option("--sizes", default="10,100,1000,all", show_default=True, callback=_sizes, help="Labels to learn from.")
@click.option("--draws", type=click.IntRange(1), default=10, show_default=True, help="Draws of each size.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of split and draws.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_plot,
    metavar="FILE",
    help=".png or .svg to write.",
)
@with_walk
@with_crop
@overwrite_option
@with_session
@with_metadata
def probe(
    labels: Labels,
    levels: str,
    sizes: list[int | None],
    draws: int,
    seed: int,
    plot: Path | None,
    walk: Mapping[str, Any],
    crop: Any,
    cache: Path | None,
    overwrite: bool,
    session: Session,
) -> None:
    """Read an attribute from codes at several levels with linear probes, beside pixels and a random projection.

    Prints balanced accuracy with 95 % intervals on pictures that no probe has seen; a table, or JSON.
    """
    from ddim_edit.evaluation.probing import probe as run

    target = None if plot is None else claim(plot, frozenset(), overwrite)
    pictures, values = readable(session, labels.read(), crop)
    names = [level.strip() for level in levels.split(",")]
    codes = read_codes(session, pictures, names, walk, cache)
    columns = _baselines(pictures, seed) | {
        name: code.values.flatten(1).numpy() for name, code in zip(names, codes, strict=True)
    }
    report = run(columns, values, sizes, draws, seed=seed)
    click.echo(json.dumps(report.as_json(), sort_keys=True) if session.as_json else report.table())
    if target is not None:
        from ddim_edit.latents.image_recipes import ProbeRecipe
        from ddim_edit.plots import probe_curves

        recipe = ProbeRecipe(session.editor.model.name, tuple(names), seed, walk)
        probe_curves(report, target, recipe=session.signed(recipe))
        session.note(f"wrote {target}")
    session.leave()


def _baselines(pictures: "Sequence[InputImage]", seed: int) -> "dict[str, NDArray[Any]]":
    """The pictures themselves, and as many random numbers of each as a small feature vector has."""
    import torch

    from ddim_edit.evaluation.probing import random_projection

    pixels = torch.stack([picture.tensor for picture in pictures]).flatten(1).float().numpy()
    return {"pixels": pixels, "random projection": random_projection(pixels, 512, seed)}
