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
    from torch import Tensor

    from ddim_edit import Direction, NoiseSchedule, Workload
    from ddim_edit.images import InputImage
    from ddim_edit.latents.image_recipes import DiscoveryRecipe

ON_SHEET = 3
"""Images on the sheet at most, each with a row for each direction."""
CELL = 128
"""Pixels that an image on the sheet is wide at least."""
PRODUCTS = 8
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
    all_names = _name_all(names or [], count)
    require_folder(output)

    # This imports torch, and so only once the arguments are known to be right.
    from ddim_edit.latents.image_recipes import DiscoveryRecipe

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
    sources, factors = tuple(image.source for image in readable), tuple(strengths.factors)
    recipe = DiscoveryRecipe(
        session.editor.model.name, sources, tuple(all_names), level, factors, seed, config, iterations
    )
    _write_sheet(session, sheet, readable[:ON_SHEET], found, recipe)
    session.note(f"wrote {sheet}")
    session.finish()


def _name_all(names: Sequence[str], count: int) -> list[str]:
    """Return the names of all directions: v1, v2 and so on where there are no others.

    Raises:
        UsageError: there are too many names, or two are equal.
    """
    if len(names) > count:
        raise click.UsageError(f"There are {len(names)} names for {count} directions. Raise --count, or name fewer.")
    all_names = [*names, *(f"v{number}" for number in range(len(names) + 1, count + 1))]
    for name in names:
        if all_names.count(name) > 1:
            raise click.UsageError(f"Two directions would be called {name}. Choose another name.")
    return all_names


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
    directions: "Sequence[Direction]",
    recipe: "DiscoveryRecipe",
) -> None:
    """Write a sheet with a column for each strength, and a row for each direction and image."""
    from ddim_edit.images import display_factor, labelled, short_label, to_uint8, upscale

    settings = [{direction: factor} for direction in directions for factor in recipe.factors]

    def workload(schedule: "NoiseSchedule") -> "Workload":
        moved = [any(setting.values()) for setting in settings]
        return len(images) * directions[0].config.edits_workload(schedule, moved)

    with session.counting_evaluations(len(images), workload, 3 + len(settings)):
        edited = to_uint8(session.editor.edits(images, settings))
    rows: list[Tensor] = []
    row_labels: list[str] = []
    for number, name in enumerate(recipe.names):
        columns = slice(number * len(recipe.factors), (number + 1) * len(recipe.factors))
        for image in edited[:, columns]:
            rows.append(upscale(image, display_factor(image.shape[-1], CELL)))
        # The rows of one direction share its label.
        row_labels += [short_label(name, f"v{number + 1}"), *[""] * (len(images) - 1)]
    labels = [f"{factor:+.3g}" if factor else "0" for factor in recipe.factors]
    session.save_image(file, labelled(rows, labels, row_labels), recipe)
