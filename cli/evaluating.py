"""`evaluate`: what round trips lose, against solver and steps, as rows, means, a table and a plot."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .files import claim, make_crop, picture_files, pictures_of, resolved
from .options import (
    GRID_NAMES,
    SOLVER_NAMES,
    folder_option,
    grid_name,
    images_argument,
    make_method,
    overwrite_option,
    with_condition,
    with_crop,
    with_metadata,
    with_session,
)
from .session import Session

if TYPE_CHECKING:
    from ddim_edit import DDIMEditError
    from ddim_edit.evaluation import Evaluation, EvaluationRow, EvaluationSetting, RoundTrip

SOLVERS, GRIDS = "dpm2m,ddim", "karras:14"
# Those of the DDIM paper's table.
STEPS = "10,20,50,100,200,500,1000"
# Written out here, as the names of the solvers are; a test compares them.
BASELINE_NAMES = ("diffusers",)


class Files(NamedTuple):
    """Where the results go."""

    rows: Path
    means: Path
    tables: Path
    plot: Path

    @classmethod
    def claimed(cls, folder: Path, inputs: frozenset[Path], overwrite: bool) -> "Files":
        """All of them in a folder, if they may be written there."""
        return cls(*(claim(folder / f"evaluation{end}", inputs, overwrite) for end in (".csv", ".json", ".md", ".png")))


def _listed(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    words = list(dict.fromkeys(word.strip() for word in value.split(",")))
    if not all(words):
        raise click.BadParameter(f"{value!r} is not a list of words with commas between them.")
    return words


def _solvers(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    words = _listed(context, parameter, value)
    if unknown := [word for word in words if word not in SOLVER_NAMES]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(SOLVER_NAMES)}.")
    return words


def _grids(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    return [grid_name(context, parameter, word) for word in _listed(context, parameter, value)]


def _steps(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    words = _listed(context, parameter, value)
    if not all(word.isascii() and word.isdecimal() and 1 <= int(word) <= 10_000 for word in words):
        raise click.BadParameter(f"{value!r} is not a list of numbers from 1 to 10000, as in 10,20,50.")
    return [int(word) for word in words]


@click.command()
@images_argument
@folder_option
@click.option(
    "--solvers", default=SOLVERS, show_default=True, callback=_solvers, help=f"Out of {', '.join(SOLVER_NAMES)}."
)
@click.option(
    "--grids",
    default=GRIDS,
    show_default=True,
    callback=_grids,
    help=f"Out of {', '.join(GRID_NAMES)}, karras:RHO and flow:SHIFT.",
)
@click.option("--steps", default=STEPS, show_default=True, callback=_steps, help="Numbers of steps, each way.")
@click.option("--exact", is_flag=True, help="Iterate every inversion until the decoded picture is the same.")
@click.option(
    "--against",
    type=click.Choice(BASELINE_NAMES),
    multiple=True,
    help="Beside this one, on the same network: diffusers' DDIMInverseScheduler and DDIMScheduler.",
)
@click.option(
    "--dequantise/--no-dequantise",
    default=True,
    show_default=True,
    help="Add the seeded noise that the first level implies, as `invert` does.",
)
@with_condition
@with_crop
@overwrite_option
@with_session
@with_metadata
def evaluate(
    images: Sequence[Path],
    output: Path,
    solvers: list[str],
    grids: list[str],
    steps: list[int],
    exact: bool,
    against: Sequence[str],
    dequantise: bool,
    condition: Mapping[str, Any],
    crop: Any,
    overwrite: bool,
    session: Session,
) -> None:
    """Take pictures there and back by every solver, grid and number of steps, and measure what is lost.

    Writes DIR/evaluation.csv (a row for each picture and setting), .json (means with 95 % intervals), .md (the tables
    that it prints, the DDIM paper's among them) and .png (error against evaluations, by the extra `eval`). A picture
    takes 2 S evaluations of each solver. The network computes in fp32 unless --dtype says otherwise.
    """
    from ddim_edit.evaluation import Evaluation, evaluation_recipe, make_round_trips

    if session.dtype == "auto":
        session.dtype = "fp32"  # the errors of many steps are smaller than those of rougher networks
    inputs = picture_files(session, images)
    files = Files.claimed(output, resolved(inputs), overwrite)
    method = make_method({"exact": exact, "dequantise": 0 if dequantise else None, "condition": condition})
    session.expect(2 * sum(steps) * len(inputs) * len(solvers) * len(grids))
    round_trips = make_round_trips(session.editor, solvers, grids, steps, method, against)
    least = sum(2 * round_trip.setting.steps for round_trip in round_trips)
    session.note(f"at least {least:,} network evaluations for each of {len(inputs)} images")
    rows = _evaluate_files(session, inputs, crop, round_trips, files.rows)
    found = Evaluation(rows, {**evaluation_recipe(session.editor, method), "crop": make_crop(crop).as_dict()})
    _tell(session, found, files)
    session.leave()


def _evaluate_files(
    session: Session, inputs: Sequence[Path], crop: Any, round_trips: "Sequence[RoundTrip]", target: Path
) -> "tuple[EvaluationRow, ...]":
    """Return all rows, written and printed as they are found; without any, end the command and leave no file."""
    from ddim_edit.evaluation import evaluate_iter, row_writer

    def report_failure(setting: "EvaluationSetting", error: "DDIMEditError") -> None:
        with session.survive(f"{setting.solver} {setting.grid} {setting.steps}"):
            raise error

    found: list[EvaluationRow] = []
    with row_writer(target) as write:
        for batch in pictures_of(session, [file.name for file in inputs], inputs, crop):
            for row in evaluate_iter(session.editor, batch, round_trips, report_failure):
                write(row)
                session.emit(row.to_json())
                if not row.converged:
                    setting = row.setting
                    text = f"{setting.solver} {setting.grid} did not converge in {setting.steps} steps"
                    session.warn(f"{row.image}: {text}")
                found.append(row)
        if not found:
            session.leave()
    return tuple(found)


def _tell(session: Session, found: "Evaluation", files: Files) -> None:
    """Write and print everything but the rows."""
    from ddim_edit.evaluation import markdown, write_tables

    found.save_json(files.means.parent)
    write_tables(found, files.tables)
    (session.note if session.as_json else click.echo)(markdown(found))
    if find_spec("matplotlib") is None:
        session.note(f"no {files.plot.name} without matplotlib: pip install 'ddim-edit[eval]'")
        return
    from ddim_edit.latents.image_recipes import EvaluationRecipe
    from ddim_edit.plots import evaluation_curves

    evaluation_curves(found, files.plot, session.signed(EvaluationRecipe(found.recipe)))
    session.note(f"wrote {', '.join(map(str, files))}")
