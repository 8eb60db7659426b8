"""`ddim-edit edit`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import Option, OptionGroup, command, did_you_mean
from ..files import Job, find_images, open_destination, plan_jobs, read_jobs
from ..options import (
    CropChoice,
    crop_group,
    fps_option,
    image_options,
    images_argument,
    level_option,
    output_option,
    overwrite_option,
    recursive_group,
    scale_option,
    session_options,
)
from ..session import Session
from ..types import (
    DEFAULT_MODEL,
    DIRECTION,
    DirectionName,
    Strip,
    Text,
    list_assets,
    list_directions,
    parse_strength,
    parse_strip,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import NoiseSchedule, Workload
    from ddim_edit.images import InputImage


class Strength(DirectionName):
    """NAME=STRENGTH; shells complete the names."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return name and strength."""
        return Text(parse_strength).convert(value, param, ctx)


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    from ddim_edit.images import animation_suffixes

    animations = [suffix.removeprefix(".") for suffix in animation_suffixes()]
    return [
        OptionGroup(
            "Attributes",
            [
                images_argument(),
                Option(
                    "--set",
                    argument="strengths",
                    multiple=True,
                    required=True,
                    type=Strength(),
                    metavar="NAME=STRENGTH",
                    help="Direction, or its file, and how many standard deviations to move along it. Repeatable.",
                ),
                Option(
                    "--keep",
                    multiple=True,
                    type=DirectionName(),
                    metavar="NAME",
                    help="Direction, or its file, whose score must not change. Repeatable.",
                ),
                Option(
                    "--conditional",
                    is_flag=True,
                    help="Move along each direction only where it leaves the others alone.",
                ),
                level_option("Refuse directions of another level. [default: each at the level it was fitted at]"),
            ],
        ),
        OptionGroup(
            "Output",
            [
                output_option(),
                *image_options(),
                overwrite_option(),
                Option(
                    "--strip",
                    type=Text(parse_strip),
                    metavar="LOW:HIGH:COUNT",
                    help="Write a strip of images: the --set strengths times factors from LOW to HIGH.",
                ),
                Option(
                    "--animate",
                    type=click.Choice(animations),
                    help="Write the --strip as an animation, there and back.",
                ),
                fps_option("Frames per second of --animate."),
                scale_option(None, " [default: 1, in a strip 2]"),
            ],
        ),
        recursive_group(),
        crop_group(),
        session_options(),
    ]


@command(
    "Edit and create",
    2,
    option_groups,
    "ddim-edit edit portrait.jpg --set old=+6 -o out/",
    "ddim-edit edit portrait.jpg --set old --strip -9:9:7 --keep female -o out/",
    "ddim-edit edit portrait.jpg --set old --strip -9:9:25 --animate webp -o out/",
)
def edit(
    images: Sequence[Path],
    strengths: Sequence[tuple[str, float]],
    keep: Sequence[str],
    conditional: bool,
    level: str | None,
    output: Path,
    suffix: str,
    metadata: bool,
    overwrite: bool,
    strip: Strip | None,
    animate: str | None,
    fps: float,
    scale: int | None,
    crop: CropChoice,
    session: Session,
) -> None:
    """Edit attributes of images along directions. Each is written as DIR/NAME-edited.png; strength 0 changes nothing.

    A --strip is written as DIR/NAME-strip.png, and its animation as DIR/NAME-animated.webp.
    """
    if animate and not strip:
        raise click.UsageError("--animate sweeps through a --strip, as in --strip -9:9:25 --animate webp.")
    settings = dict(strengths)
    for name in [*settings, *keep]:
        _require_direction(name, session.model)

    # This imports torch, and so only once the arguments are known to be right.
    from ddim_edit import Grid
    from ddim_edit.images import enlarge, to_uint8, write
    from ddim_edit.latents.image_recipes import EditRecipe

    session.metadata = metadata
    factors = strip.factors if strip else [1.0]
    steps = [{name: strength * factor for name, strength in settings.items()} for factor in factors]
    if animate:
        suffix = f".{animate}"
        destination = open_destination(session, output, suffix, overwrite, "-animated", [suffix])
    else:
        destination = open_destination(session, output, suffix, overwrite, "-strip" if strip else "-edited")
    jobs = plan_jobs(session, find_images(session, images), destination)

    def edit_batch(batch: "Sequence[tuple[Job, InputImage]]") -> "Iterable[Tensor]":
        return to_uint8(session.editor.edits([image for _, image in batch], steps, level, keep, conditional))

    def workload(schedule: "NoiseSchedule") -> "Workload":
        # From the grid of the first direction, which all share: there and back once, to see what is lost, and an edit
        # for each step.
        direction = session.editor.direction(next(iter(settings)))
        inversion = replace(direction.config, check=True)
        times = Grid(direction.recipe.grid, direction.recipe.times)
        return inversion.inversion_workload(schedule) + len(steps) * replace(
            inversion, grid=times, level=None
        ).decoding_workload(schedule)

    for batch in read_jobs(session, jobs, crop, workload, 3 + len(steps)):
        model = session.editor.model.name
        for (job, image), frames in session.run_batch(batch, edit_batch):
            recipe = EditRecipe(settings, tuple(keep), conditional, tuple(factors), model, image.source)
            with session.continue_on_error(job.source):
                signature = session.recipe_json(recipe)
                if strip is None:
                    write(job.target, enlarge(frames[0], scale or 1), signature)
                elif animate is None:
                    _write_strip(job.target, frames, scale or 2, strip.factors, list(settings), signature)
                else:
                    for note in _write_animation(job.target, frames, scale or 2, fps, signature):
                        session.note(f"{job.target.name}: {note}")
                row = {**job.to_json(), **recipe.to_json()}
                del row["source"]
                session.emit(row, job.target)
    session.finish()


def _require_direction(name: str, model: str | None) -> None:
    """Refuse a name that is neither a file nor packaged for the model, if that is a packaged model itself."""
    known = list_directions(model)
    is_file = name.endswith(DIRECTION) or Path(name).exists()
    if name not in known and not is_file and (model is None or model in list_assets("models")):
        hint = did_you_mean(name, known) or f" It has {', '.join(known)}."
        raise click.UsageError(f"{model or DEFAULT_MODEL} has no direction {name!r}, and there is no such file.{hint}")


def _write_strip(
    target: Path,
    frames: "Tensor",
    scale: int,
    factors: Sequence[float],
    names: Sequence[str],
    recipe: Mapping[str, Any] | None,
) -> None:
    from ddim_edit.images import enlarge, labelled, write

    labels = [f"{factor:+.3g}" if factor else "0" for factor in factors]
    title = ", ".join(Path(name).name.removesuffix(DIRECTION) for name in names)
    write(target, labelled([enlarge(frames, scale)], labels, [title]), recipe)


def _write_animation(
    target: Path, frames: "Tensor", scale: int, fps: float, recipe: Mapping[str, Any] | None
) -> Sequence[str]:
    """Write the frames there and back, so that the animation may loop."""
    import torch

    from ddim_edit.images import enlarge, write_animation

    return write_animation(target, enlarge(torch.cat([frames, frames[1:-1].flip(0)]), scale), fps, recipe)
