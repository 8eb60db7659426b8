"""`fit` and `directions`: attributes as directions, from labelled pictures to files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .files import claim
from .labelling import Labels, StoredLabels, with_labels_or_store
from .looking import json_flag
from .options import overwrite_option, with_crop, with_session, with_walk
from .session import Session

if TYPE_CHECKING:
    from ddim_edit import Direction

METHOD_NAMES = ("logistic", "svm", "mean", "lda", "ridge")
DIRECTION = ".direction.safetensors"


@click.command()
@click.argument("name")
@with_labels_or_store
@click.option(
    "--method",
    type=click.Choice(METHOD_NAMES),
    default="logistic",
    show_default=True,
    help="Estimator of the direction.",
)
@click.option(
    "--level", default="0.4T", show_default=True, metavar="T|xT|h", help="Where: a time, a part of T, xT or h."
)
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="To write."
)
@with_walk
@with_crop
@overwrite_option
@with_session
def fit(
    name: str,
    labels: Labels | StoredLabels,
    method: str,
    level: str,
    output: Path,
    walk: Mapping[str, Any],
    crop: Any,
    cache: Path | None,
    overwrite: bool,
    session: Session,
) -> None:
    """Fit a direction NAME to labelled pictures and write it as FILE, a *.direction.safetensors.

    \b
    ddim-edit fit old --images faces/ --labels faces.csv --column age --positive ">=55" --negative "18..32" \\
        -o old.direction.safetensors

    With --latents STORE the codes are those that `invert` wrote, at the level that it inverted to, and stay on disk
    however many they are; the CSV names pictures as the store does.
    """
    if not output.name.endswith(DIRECTION):
        raise click.UsageError(f"The output must end in {DIRECTION}.")
    from ddim_edit.directions import fit_direction

    target = claim(output, frozenset(), overwrite)
    codes, values = labels.codes(session, level, walk, crop, cache)
    direction = fit_direction(name, codes, values, method)
    direction.save(target)
    session.emit({"output": str(target), **direction_row(direction)}, target)
    session.note(_line(direction_row(direction)))
    session.leave()


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--model", default="faces64", show_default=True, help="Whose packaged directions to list.")
@json_flag
def directions(folder: Path | None, model: str, as_json: bool) -> None:
    """List the directions that come with the package, or those in FOLDER: name, model, level, how well they hold."""
    from ddim_edit.directions import Direction, directions_in, packaged_directions

    session = Session(None, "auto", "auto", 1, as_json, quiet=False)
    files = packaged_directions(model) if folder is None else directions_in(folder)
    for file in files.values():
        with session.survive(file):
            row = direction_row(Direction.load(file))
            click.echo(json.dumps({"file": str(file), **row}, sort_keys=True) if as_json else _line(row))
    session.leave()


def direction_row(direction: "Direction") -> dict[str, Any]:
    """What there is to say of a direction, in JSON types."""
    home = {"name": direction.name, "model": direction.recipe.model, "level": direction.level, "sd": direction.sd}
    return {**home, **direction.report}


def _line(row: Mapping[str, Any]) -> str:
    told = {"method": "", "n": "?", **row}
    measured = f"AUC {_spread(row, 'auc', 'auc_sd')}, shuffled {_spread(row, 'permuted_auc', 'permuted_sd')}"
    return "{name:<12} {model:<10} level {level:<8} {method:<9} n {n:<6} ".format_map(told) + measured


def _spread(row: Mapping[str, Any], mean: str, sd: str) -> str:
    return "not measured" if row.get(mean) is None or row.get(sd) is None else f"{row[mean]:.3f} +- {row[sd]:.3f}"
