"""Options that several commands share; a command gets each group as one argument."""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .session import Session

if TYPE_CHECKING:
    from ddim_edit import InversionConfig

Command = Callable[..., Any]
# Written out here so that --help and wrong use need not load the solvers; a test compares them.
SOLVER_NAMES = ("dpm2m", "ddim", "heun", "midpoint", "belm", "bdia", "edict")
GRID_NAMES = ("karras", "logsnr", "uniform", "quad", "leading", "trailing", "linspace", "flow")
REFINER_NAMES = ("gradient", "fixed-point")
LOSSLESS = "bdia"

images_argument = click.argument(
    "images", nargs=-1, required=True, metavar="IMAGES|FOLDERS...", type=click.Path(path_type=Path)
)
folder_option = click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that exist.")


def stack(command: Command, *options: Callable[[Command], Command]) -> Command:
    """The command under several options, the first of them first in its help."""
    for option in reversed(options):
        command = option(command)
    return command


def with_session(command: Command) -> Command:
    """Hand the command a `session`: the editor that its options describe, and its voice on standard error."""

    @functools.wraps(command)
    def wrapped(
        *args: Any,
        model: str | None,
        device: str,
        dtype: str,
        size: tuple[int, int] | None,
        offline: bool,
        compile: str,  # noqa: A002 - the option's name
        batch_size: int | None,
        as_json: bool,
        quiet: bool,
        **rest: Any,
    ) -> Any:
        session = Session(model, device, dtype, batch_size, as_json, quiet, size, offline, compile)
        return command(*args, session=session, **rest)

    return stack(
        wrapped,
        click.option(
            "--model",
            metavar="NAME|DIR|FILE|HUB-ID",
            help="Packaged model, diffusers folder, checkpoint file or hub id. [faces64]",
        ),
        click.option("--device", default="auto", show_default=True, metavar="auto|cuda|mps|cpu", help="Where to run."),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "fp32", "tf32", "bf16", "fp16", "mixed"]),
            default="auto",
            show_default=True,
            help="What the network computes in; the state is float64 always. auto is fp32, but on CPUs with bf16 "
            "mixed, which is bf16 at low noise, unless --exact.",
        ),
        click.option("--size", callback=_size, metavar="N|WxH", help="Pixels of the pictures. [as trained]"),
        click.option("--offline", is_flag=True, help="Ask no hub: what is not in its cache is not there."),
        click.option(
            "--compile",
            type=click.Choice(["auto", "on", "off"]),
            default="auto",
            show_default=True,
            help="Compile the network; auto only on a GPU for jobs so long that it pays.",
        ),
        click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Pictures at once. [by device]"),
        click.option("--json", "as_json", is_flag=True, help="One JSON object per line on standard output."),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors."),
    )


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Height and width of a text that has the width first, as people write it."""
    if value is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not N or WIDTHxHEIGHT in pixels, as in 512 or 768x512.")
    width = int(found[1])
    return int(found[2] or width), width


def with_metadata(command: Command) -> Command:
    """Tell the command's session whether pictures carry the recipe that made them."""

    @functools.wraps(command)
    def wrapped(*args: Any, session: Session, metadata: bool, **rest: Any) -> Any:
        session.metadata = metadata
        return command(*args, session=session, **rest)

    return stack(
        wrapped,
        click.option(
            "--metadata/--no-metadata",
            default=True,
            show_default=True,
            help="Write into every picture how it was made, for `ddim-edit show`.",
        ),
    )


def grid_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The callback of an option that takes the name of a grid."""
    if not re.fullmatch(r"(karras|flow):[1-9]\d*(\.\d+)?", value) and value not in GRID_NAMES:
        known = f"none of {', '.join(GRID_NAMES)}"
        raise click.BadParameter(f"{value!r} is {known} and not karras:RHO or flow:SHIFT, of at least 1.")
    return value


def with_condition(command: Command) -> Command:
    """Hand the command a `condition`: the arguments of `Condition` that were given, as a dictionary."""

    @functools.wraps(command)
    def wrapped(*args: Any, **rest: Any) -> Any:
        given = {name: rest.pop(name) for name in ("prompt", "negative_prompt", "label", "guidance_scale")}
        condition = {name: value for name, value in given.items() if value is not None}
        return command(*args, condition=condition, **rest)

    return stack(
        wrapped,
        click.option("--prompt", metavar="TEXT", help="What the picture shows, for models that follow prompts."),
        click.option("--negative-prompt", metavar="TEXT", help="What guidance leads away from."),
        click.option("--class", "label", type=click.IntRange(0), metavar="N", help="Class, for models with classes."),
        click.option(
            "--guidance-scale", type=float, metavar="W", help="How far beyond prompt or class to go. [1: not at all]"
        ),
    )


def make_method(options: Mapping[str, Any]) -> "InversionConfig":
    """The method that options describe; they stay plain data so that recipes can hold them."""
    from ddim_edit import Condition, InversionConfig

    return InversionConfig(**{**options, "condition": Condition(**options["condition"])})


def with_walk(command: Command) -> Command:
    """Hand the command a `walk`: solver, grid, steps and condition, for `make_method`."""

    @functools.wraps(command)
    def wrapped(*args: Any, solver: str | None, grid: str, steps: int, condition: Any, **rest: Any) -> Any:
        walk = {"solver": solver or "dpm2m", "grid": grid, "steps": steps, "condition": condition}
        return command(*args, walk=walk, **rest)

    return walk_options(with_condition(wrapped))


def walk_options(command: Command, grid_flag: str = "--grid") -> Command:
    """Solver, grid and steps."""
    return stack(
        command,
        click.option(
            "--steps", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Steps of the grid."
        ),
        click.option("--solver", type=click.Choice(SOLVER_NAMES), help="How to walk. [dpm2m]"),
        click.option(
            grid_flag,
            "grid",
            default="karras:14",
            show_default=True,
            callback=grid_name,
            metavar="NAME",
            help=f"Times to visit: {', '.join(GRID_NAMES)}, karras:RHO or flow:SHIFT.",
        ),
    )


def with_method(grid_flag: str = "--grid") -> Callable[[Command], Command]:
    """Hand the command a `method`, for `make_method`."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapped(*args: Any, solver: str | None, lossless: bool, dequantise: bool, seed: int, **rest: Any) -> Any:
            if lossless and solver not in (None, LOSSLESS):
                raise click.UsageError(f"--lossless is --solver {LOSSLESS}; it does not go with --solver {solver}.")
            if rest["exact"] and rest["dtype"] == "auto":
                rest["dtype"] = "fp32"  # too rough a network leaves exact inversions short of their tolerance
            method = {name: rest.pop(name) for name in ("grid", "steps", "exact", "check", "refine", "condition")}
            method["solver"] = LOSSLESS if lossless else solver or "dpm2m"
            method["dequantise"] = seed if dequantise else None
            tol = rest.pop("tol")
            return command(*args, method=method if tol is None else {**method, "tol": tol}, **rest)

        return walk_options(with_condition(stack(wrapped, *_INVERSION)), grid_flag)

    return decorate


_INVERSION = (
    click.option("--exact", is_flag=True, help="Iterate until the decoded picture is the same, and certify it."),
    click.option(
        "--tol", type=click.FloatRange(0, min_open=True), help="Largest error for --exact. [all 8-bit pixels]"
    ),
    click.option("--lossless", is_flag=True, help="A two-state solver that is exact by algebra (bdia)."),
    click.option("--check", is_flag=True, help="Decode once to report the round-trip error."),
    click.option(
        "--dequantise/--no-dequantise",
        default=True,
        show_default=True,
        help="Add the seeded noise that the first level implies; decoding takes it off again.",
    ),
    click.option(
        "--dequantise-seed",
        "seed",
        type=int,
        default=0,
        show_default=True,
        help="Seed of that noise; each picture has its own.",
    ),
    click.option(
        "--refine-codec",
        "refine",
        type=click.Choice(REFINER_NAMES),
        help="Better the latent that an autoencoder finds, until it decodes more closely to the picture.",
    ),
)


def _crop(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int, int] | None:
    if value is None:
        return None
    if not re.fullmatch(r"\d+,\d+,[1-9]\d*", value):
        raise click.BadParameter(f"{value!r} is not X,Y,SIZE in pixels, as in 120,80,512.")
    x, y, size = map(int, value.split(","))
    return x, y, size


def with_crop(command: Command) -> Command:
    """Hand the command a `crop`: a box (x, y, size), "fit" or None for the centre square."""

    @functools.wraps(command)
    def wrapped(*args: Any, crop: tuple[int, int, int] | None, fit: bool, **rest: Any) -> Any:
        if crop and fit:
            raise click.UsageError("--crop and --fit exclude each other.")
        return command(*args, crop="fit" if fit else crop, **rest)

    return stack(
        wrapped,
        click.option("--crop", callback=_crop, metavar="X,Y,SIZE", help="Square to cut out. [the centre square]"),
        click.option("--fit", is_flag=True, help="Keep the whole picture, its edges continued to a square."),
    )
