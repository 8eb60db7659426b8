"""`ddim-edit evaluate`."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import Option, OptionGroup, command
from ..crops import CropOptions, crop_group
from ..files import InputFile, claim, find_images, read_files, require_folder, resolve_all
from ..options import (
    FILE_OR_FOLDER,
    condition_group,
    folder_option,
    grid_forms,
    make_config,
    metadata_option,
    overwrite_option,
    parse_grid,
    recursive_group,
    session_options,
)
from ..session import Session
from ..types import Text, list_of, parse_steps

if TYPE_CHECKING:
    from ddim_edit import DDIMEditError, Workload
    from ddim_edit.evaluation import EvaluationRow, EvaluationSetting, RoundTrip


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    from ddim_edit import SOLVER_ENTRIES
    from ddim_edit.evaluation import BASELINES, DEFAULT_GRIDS, DEFAULT_SOLVERS, DEFAULT_STEPS

    inputs = click.Argument(["images"], nargs=-1, metavar="[IMAGES|FOLDERS...]", type=FILE_OR_FOLDER)
    baselines = "; ".join(f"{name}: {baseline.help}" for name, baseline in BASELINES.items())
    return [
        OptionGroup("Output", [inputs, folder_option(), overwrite_option(), metadata_option()]),
        recursive_group(),
        OptionGroup(
            "Settings",
            [
                Option(
                    "--solvers",
                    type=Text(list_of(parse_solver)),
                    default=",".join(DEFAULT_SOLVERS),
                    metavar="NAME,...",
                    help=f"Solvers: {', '.join(SOLVER_ENTRIES)}.",
                ),
                Option(
                    "--grids",
                    type=Text(list_of(parse_grid)),
                    default=",".join(DEFAULT_GRIDS),
                    metavar="NAME,...",
                    help=f"Grids of timesteps: {grid_forms()}.",
                ),
                Option(
                    "--steps",
                    type=Text(list_of(parse_steps)),
                    default=",".join(map(str, DEFAULT_STEPS)),
                    metavar="N,...",
                    help="Numbers of steps, each way.",
                ),
                Option("--exact", is_flag=True, help="Iterate every inversion until the decoded image is the same."),
                Option(
                    "--against",
                    type=click.Choice(list(BASELINES)),
                    multiple=True,
                    help=f"Baseline on the same network. {baselines}. Repeatable.",
                ),
                Option(
                    "--dequantise/--no-dequantise",
                    default=True,
                    help="Add the seeded noise of the first level, as `invert` does.",
                ),
                Option(
                    "--self-interpolation",
                    argument="seeds",
                    type=click.IntRange(1, 10_000),
                    metavar="COUNT",
                    help="Sample COUNT images too, invert them, and decode what is between their true and their found "
                    "x_T. Needs no images.",
                ),
            ],
        ),
        condition_group(),
        crop_group(),
        session_options(),
    ]


def parse_solver(text: str) -> str:
    """Return the name of a solver as it is.

    Raises:
        ValueError: no such solver.
    """
    from ddim_edit import SOLVER_ENTRIES

    if text not in SOLVER_ENTRIES:
        raise ValueError(f"{text!r} is none of {', '.join(SOLVER_ENTRIES)}.")
    return text


@command(
    "Evaluate",
    1,
    option_groups,
    "ddim-edit evaluate faces/ -o out/ --steps 10,20,50 --solvers dpm2m,ddim --against diffusers",
    "ddim-edit evaluate -o out/ --self-interpolation 8 --steps 20",
)
def evaluate(
    images: Sequence[Path],
    output: Path,
    overwrite: bool,
    metadata: bool,
    solvers: list[str],
    grids: list[str],
    steps: list[int],
    exact: bool,
    against: Sequence[str],
    dequantise: bool,
    seeds: int | None,
    condition: Mapping[str, Any],
    crop: CropOptions,
    session: Session,
) -> None:
    """Measure what inversion and decoding lose. Every solver, grid and number of steps is evaluated.

    Writes DIR/evaluation.csv (a row for each image and setting), .json (means with 95 % intervals), .md (the tables
    that it prints, the DDIM paper's among them) and .png (error against evaluations, with the extra `eval`). An image
    takes 2 S evaluations of each solver. The network computes in fp32 unless --dtype says otherwise.

    --self-interpolation writes DIR/self-interpolation.csv, .json, .md and .png: LPIPS and PSNR along the way from the
    x_T that an image was sampled from to the one that inverting it finds. A seed takes about 6 S evaluations.
    """
    from ddim_edit.evaluation import evaluation_recipe, make_round_trips

    if not images and seeds is None:
        raise click.UsageError("Give images to evaluate, or --self-interpolation COUNT, or both.")
    session.metadata = metadata
    session.prefer_dtype("fp32")  # the errors of many steps are smaller than those of rougher networks
    require_folder(output)
    files = find_images(session, images, crop) if images else []
    inputs = resolve_all(file.path for file in files)
    # Whatever cannot be written is refused before anything is computed.
    if images:
        _claim_files(output, "evaluation", inputs, overwrite)
    if seeds is not None:
        _claim_files(output, "self-interpolation", inputs, overwrite)
    config = make_config({"exact": exact, "dequantise": 0 if dequantise else None, "condition": condition})
    session.expected = 2 * sum(steps) * len(files) * len(solvers) * len(grids)
    round_trips = make_round_trips(session.editor, solvers, grids, steps, config, against)
    recipe = evaluation_recipe(session.editor, config)
    if images:
        _evaluate_images(session, files, crop, round_trips, recipe, output)
    if seeds is not None:
        # Samples are inverted with the noise that they have.
        _self_interpolate(session, range(seeds), round_trips, {**recipe, "dequantise": None}, output)
    session.finish()


SUFFIXES = (".csv", ".json", ".md", ".png")
"""Of the files that are written: rows, means, tables and a plot."""


def _claim_files(output: Path, stem: str, inputs: frozenset[Path], overwrite: bool) -> None:
    """Refuse files that may not be written."""
    for suffix in SUFFIXES:
        claim(output / f"{stem}{suffix}", inputs, overwrite)


def _evaluate_images(
    session: Session,
    files: Sequence[InputFile],
    crop: CropOptions,
    round_trips: "Sequence[RoundTrip]",
    recipe: Mapping[str, Any],
    output: Path,
) -> None:
    """Evaluate round trips of images, and write what is found."""
    from ddim_edit import Workload
    from ddim_edit.evaluation import Evaluation, markdown, write_tables

    csv, json, tables, plot = (output / f"evaluation{suffix}" for suffix in SUFFIXES)
    workload = sum((round_trip.workload for round_trip in round_trips), Workload.exactly(0))
    about = "" if workload.known else "about "
    session.note(f"{about}{workload.expected:,} network evaluations for each of {len(files)} images")
    rows = _evaluate_files(session, files, crop, round_trips, workload, csv)
    found = Evaluation(rows, {**recipe, "crop": crop.make(session).as_dict()})
    found.save_json(json.parent)
    write_tables(found, tables)
    session.print_table(markdown(found))
    if _can_plot(session, plot):
        from ddim_edit.latents.image_recipes import EvaluationRecipe
        from ddim_edit.plots import evaluation_curves

        evaluation_curves(found, plot, session.recipe_json(EvaluationRecipe(found.recipe)))
        session.note(f"wrote {csv}, {json}, {tables}, {plot}")


def _self_interpolate(
    session: Session,
    seeds: Sequence[int],
    round_trips: "Sequence[RoundTrip]",
    recipe: Mapping[str, Any],
    output: Path,
) -> None:
    """Run the self-interpolation test, and write what is found."""
    from ddim_edit import Workload
    from ddim_edit.evaluation import FRACTIONS, SelfInterpolation, SelfInterpolationRow, self_interpolate_iter

    loads = [round_trip.self_interpolation_workload(len(FRACTIONS)) for round_trip in round_trips]
    workload = len(seeds) * sum(loads, Workload.exactly(0))
    passes = (2 + len(FRACTIONS)) * len(round_trips)
    rows: list[SelfInterpolationRow] = []
    with session.counting_evaluations(len(seeds), lambda schedule: workload, passes) as progress:
        for round_trip in round_trips:
            setting = round_trip.setting
            with session.continue_on_error(f"{setting.solver} {setting.grid} {setting.steps}"):
                # A setting that fails half-way has no rows, so that all of them have the same seeds.
                for row in list(self_interpolate_iter(session.editor, seeds, [round_trip])):
                    session.emit(row.to_json())
                    rows.append(row)
        progress.finish_images(len(seeds))
    if not rows:
        session.finish()
    found = SelfInterpolation(tuple(rows), recipe)
    found.save(output)
    session.print_table(found.markdown())
    plot = output / "self-interpolation.png"
    if _can_plot(session, plot):
        from ddim_edit.latents.image_recipes import SelfInterpolationRecipe
        from ddim_edit.plots import self_interpolation_curves

        self_interpolation_curves(found, plot, session.recipe_json(SelfInterpolationRecipe(found.recipe)))
        session.note(f"wrote {plot} and .csv, .json, .md beside it")


def _can_plot(session: Session, plot: Path) -> bool:
    """Return whether matplotlib is installed; where it is not, a note says so."""
    if find_spec("matplotlib") is None:
        session.note(f"no {plot.name} without matplotlib: pip install 'ddim-edit[eval]'")
        return False
    return True


def _evaluate_files(
    session: Session,
    files: Sequence[InputFile],
    crop: CropOptions,
    round_trips: "Sequence[RoundTrip]",
    workload: "Workload",
    target: Path,
) -> "tuple[EvaluationRow, ...]":
    """Return all rows, written and printed as they are found; without any, end the command and leave no file."""
    from ddim_edit.evaluation import evaluate_iter, row_writer

    def report_failure(setting: "EvaluationSetting", error: "DDIMEditError") -> None:
        session.fail(f"{setting.solver} {setting.grid} {setting.steps}", error)

    rows: list[EvaluationRow] = []
    with row_writer(target) as write:
        for batch in read_files(session, files, crop, lambda schedule: workload, 3 * len(round_trips)):
            named = [(path.name, image) for path, image in batch]
            for row in evaluate_iter(session.editor, named, round_trips, report_failure):
                write(row)
                session.emit(row.to_json())
                if not row.converged:
                    setting = row.setting
                    session.warn(
                        f"{row.image}: {setting.solver} {setting.grid} did not converge in {setting.steps} steps"
                    )
                rows.append(row)
        if not rows:
            session.finish()
    return tuple(rows)
