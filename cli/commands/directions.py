"""`ddim-edit directions`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..command import OptionGroup, SharedOption, command
from ..options import FOLDER, json_option
from ..session import Session
from ..types import DEFAULT_MODEL, ModelName


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    model = SharedOption(
        "--model",
        type=ModelName(),
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="Model whose packaged directions to list.",
    )
    return [OptionGroup("Options", [click.Argument(["folder"], required=False, type=FOLDER), model, json_option()])]


@command("Directions", 3, option_groups, "ddim-edit directions", "ddim-edit directions my-directions/ --json")
def directions(folder: Path | None, model: str, as_json: bool) -> None:
    """List directions. They are those that come with the package, or those in FOLDER.

    For each of them: name, model, level, estimator, and how well it separates images that it was not fitted to (AUC).
    """
    from ddim_edit.directions import Direction, directions_in, packaged_directions

    session = Session(as_json=as_json)
    files = packaged_directions(model) if folder is None else directions_in(folder)
    for file in files.values():
        with session.continue_on_error(file):
            summary = Direction.read_summary(file)
            row = json.dumps({"file": str(file), **summary}, sort_keys=True)
            click.echo(row if as_json else summary_line(summary))
    session.finish()


def summary_line(summary: Mapping[str, Any]) -> str:
    """Return the summary of a direction as a line of text."""
    fitted = f"{summary.get('method', ''):<9} n {summary.get('n', '?'):<6}"
    place = f"{summary['name']:<12} {summary['model']:<10} level {summary['level']:<8}"
    if "singular_value" in summary:
        return f"{place} {fitted} singular value {summary['singular_value']:.1f}"
    measured: list[str] = []
    for mean, sd in (("auc", "auc_sd"), ("permuted_auc", "permuted_sd")):
        known = summary.get(mean) is not None and summary.get(sd) is not None
        measured.append(f"{summary[mean]:.3f} +- {summary[sd]:.3f}" if known else "not measured")
    return f"{place} {fitted} AUC {measured[0]}, shuffled {measured[1]}"
