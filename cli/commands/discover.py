"""`ddim-edit discover`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import Option, OptionGroup, command
from ..crops import CropOptions, crop_group
from ..files import claim, find_images, read_images, require_folder, resolve_all
from ..options import (
    SEED,
    config_groups,
    folder_option,
    image_options,
    images_argument,
    level_option,
    make_config,
    overwrite_option,
    recursive_group,
    session_options,
)
from ..session import Session
from ..types import DIRECTION, Strip, Text, parse_names, parse_strip
from .directions import summary_line

if TYPE_CHECKING:
    from ddim_edit import Direction, NoiseSchedule, Workload
    from ddim_edit.images import InputImage

ON_SHEET = 3
"""Images on the sheet at most, each with a row for each direction."""
PRODUCTS = 7
"""Products with the Jacobian that a direction takes, about; each is two passes through half of the network."""


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    return [
        OptionGroup(
            "Directions",
            [
                images_argument(),
                Option("--count", type=click.IntRange(1, 100), default=6, metavar="N", help="Number of directions."),
                Option(
                    "--names",
                    type=Text(parse_names),
                    metavar="NAME,...",
                    help="Names of the directions, in order. [default: v1, v2 and so on]",
                ),
                level_option("Level at which they are found: a time (400), a part of T (0.4T) or xT.", "0.4T"),
                Option("--seed", type=SEED, default=0, metavar="N", help="Random seed of the iteration."),
                Option(
                    "--iterations",
                    type=click.IntRange(1, 1000),
                    default=12,
                    metavar="N",
                    help="Iterations at most; fewer where all directions have converged.",
                ),
            ],
        ),
        OptionGroup(
            "Output",
            [
                folder_option(),
                Option(
                    "--strengths",
                    type=Text(parse_strip),
                    default="-6:6:7",
                    metavar="LOW:HIGH:COUNT",
                    help="Strengths on the sheet.",
                ),
                *image_options(),
                overwrite_option(),
            ],
        ),
        recursive_group(),
        *config_groups("solver", "grid", "steps"),
        crop_group(),
        session_options(),
    ]


@command(
    "Directions",
    2,
    option_groups,
    "ddim-edit discover portrait.jpg -o found/",
    "ddim-edit discover portrait.jpg --count 3 --names smile,turn,light -o named/",
    "ddim-edit discover faces/ -o global/",
)
def discover(
    images: Sequence[Path],
    count: int,
    names: list[str] | None,
    level: str,
    seed: int,
    iterations: int,
    output: Path,
    strengths: Strip,
    suffix: str,
    metadata: bool,
    overwrite: bool,
    config: Mapping[str, Any],
    crop: CropOptions,
    session: Session,
) -> None:
    """Discover directions without labels: those in which a step moves the bottleneck of the network most.

    They are written as DIR/NAME.direction.safetensors, for `ddim-edit edit --set FILE=+3`, and shown at several
    strengths in DIR/sheet.png, where you see what they do. Of several images they are what moves all of them most, and
    the sheet shows the first three.
    """
    if level.startswith("h"):
        raise click.UsageError(f"Directions are discovered in x, not in h. Give a --level such as 0.4T, not {level}.")
    all_names = [*(names or []), *(f"v{number}" for number in range(len(names or []) + 1, count + 1))]
    if len(all_names) > count:
        raise click.UsageError(
            f"There are {len(all_names)} names for {count} directions. Raise --count, or leave some out."
        )
    if len(set(all_names)) < count:
        raise click.UsageError(f"Two directions would be called {_repeated(all_names)}. Give each a name of its own.")
    require_folder(output)

    session.metadata = metadata
    files = find_images(session, images, crop)
    inputs = resolve_all(file.path for file in files)
    sheet = claim(output / f"sheet{suffix}", inputs, overwrite)
    targets = [claim(output / f"{name}{DIRECTION}", inputs, overwrite) for name in all_names]
    crops = [crop.make(session, file.crop) for file in files]
    readable = [each for _, each in read_images(session, [file.path for file in files], crops) if each is not None]
    if not readable:
        session.finish()

    found = _discover(session, readable, count, level, seed, iterations, config)
    for target, name, each in zip(targets, all_names, found, strict=True):
        direction = replace(each, name=name)
        direction.save(target)
        summary = direction.summary()
        session.note(summary_line(summary))
        session.emit({"output": str(target), **summary}, target)
    if not all(each.report["converged"] for each in found):
        session.warn("not all directions have converged; raise --iterations")
    _write_sheet(session, sheet, readable, dict(zip(all_names, found, strict=True)), strengths, level, seed, config)
    session.note(f"wrote {sheet}")
    session.finish()


def _repeated(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _discover(
    session: Session,
    images: "Sequence[InputImage]",
    count: int,
    level: str,
    seed: int,
    iterations: int,
    config: Mapping[str, Any],
) -> "list[Direction]":
    from ddim_edit import Workload

    inversion_config = make_config(config)

    def workload(schedule: "NoiseSchedule") -> "Workload":
        inversion = replace(inversion_config, level=level).inversion_workload(schedule)
        return len(images) * (inversion + Workload(2 * PRODUCTS * count, None))

    with session.counting_evaluations(len(images), workload, 1):
        return session.editor.discover(images, count, level, inversion_config, seed=seed, iterations=iterations)


def _write_sheet(
    session: Session,
    file: Path,
    images: "Sequence[InputImage]",
    directions: "Mapping[str, Direction]",
    strengths: Strip,
    level: str,
    seed: int,
    config: Mapping[str, Any],
) -> None:
    """Write a sheet with a column for each strength, and a row for each direction and image."""
    from ddim_edit.images import display_factor, labelled, short_label, to_uint8, upscale
    from ddim_edit.latents.image_recipes import DiscoveryRecipe

    shown = images[:ON_SHEET]
    settings = [{direction: factor} for direction in directions.values() for factor in strengths.factors]
    inversion = replace(next(iter(directions.values())).config, check=True)

    def workload(schedule: "NoiseSchedule") -> "Workload":
        edits = len(settings) * inversion.decoding_workload(schedule)
        return len(shown) * (inversion.inversion_workload(schedule) + edits)

    with session.counting_evaluations(len(shown), workload, 3 + len(settings)):
        edited = to_uint8(session.editor.edits(shown, settings))
    edited = edited.unflatten(1, (len(directions), len(strengths.factors)))
    rows, row_labels = [], []
    for number, name in enumerate(directions):
        for image in edited[:, number]:
            rows.append(upscale(image, display_factor(image.shape[-1], 128)))
        label = short_label(name, f"v{number + 1}")
        row_labels += [label, *[""] * (len(shown) - 1)]
    labels = [f"{factor:+.3g}" if factor else "0" for factor in strengths.factors]
    sources = tuple(image.source for image in images)
    recipe = DiscoveryRecipe(
        session.editor.model.name, sources, tuple(directions), level, tuple(strengths.factors), seed, config
    )
    session.save_image(file, labelled(rows, labels, row_labels), recipe)
