"""`ddim-edit edit`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import Option, OptionGroup, command
from ..crops import CropOptions, crop_group
from ..files import Destination, Job, find_images, open_destination, plan_jobs, read_job_faces, run_on_faces
from ..grids import settle_grid
from ..options import (
    fps_option,
    images_argument,
    inversion_groups,
    level_option,
    make_config,
    output_option,
    overwrite_option,
    recursive_group,
    session_options,
)
from ..results import PHOTO, ResultOptions, ResultWriter, result_group
from ..session import Session
from ..types import DIRECTION, DirectionName, Strip, Text, parse_strength, parse_strip
from ..words import WordOptions, choose_directions, require_names, word_group

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import NoiseSchedule, Workload
    from ddim_edit.images import InputImage
    from ddim_edit.latents.image_recipes import EditRecipe


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
                    type=Strength(),
                    metavar="NAME=STRENGTH",
                    help="Direction, its file or hub id, and how many standard deviations to move along it; or words, "
                    "for models that follow prompts, and how much of the way to go. Repeatable.",
                ),
                Option(
                    "--keep",
                    multiple=True,
                    type=DirectionName(),
                    metavar="NAME",
                    help="Direction, its file, or words, whose score must not change. Repeatable.",
                ),
                Option(
                    "--conditional",
                    is_flag=True,
                    help="Move along each direction only where it leaves the others alone.",
                ),
                level_option(
                    "Refuse directions of another level; of words alone, where to stop inverting. [default: each at "
                    "the level it was fitted at, words at xT]"
                ),
            ],
        ),
        word_group(),
        OptionGroup(
            "Output",
            [
                output_option(),
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
            ],
        ),
        result_group(),
        recursive_group(),
        *inversion_groups("check", "level"),
        crop_group(all_faces=True),
        session_options(),
    ]


@command(
    "Edit and create",
    3,
    option_groups,
    "ddim-edit edit portrait.jpg --set old=+6 -o out/",
    "ddim-edit edit portrait.jpg --set old --strip -9:9:7 --keep female -o out/",
    "ddim-edit edit portrait.jpg --set old --strip -9:9:25 --animate webp -o out/",
    'ddim-edit edit man.jpg --model DIR --prompt "a man" --set smiling=+2 -o out/',
    'ddim-edit edit man.jpg --model DIR --prompt "a man" --from "a man" --to "an old man" -o out/',
)
def edit(
    images: Sequence[Path],
    strengths: Sequence[tuple[str, float]],
    keep: Sequence[str],
    conditional: bool,
    level: str | None,
    words: WordOptions,
    output: Path,
    overwrite: bool,
    result: ResultOptions,
    strip: Strip | None,
    animate: str | None,
    fps: float | None,
    config: Mapping[str, Any],
    crop: CropOptions,
    session: Session,
) -> None:
    """Edit images along directions or words. A photograph is written whole, as DIR/NAME-edited.jpg or .png.

    Only the face, or the part that another model sees, changes: pixels outside of it keep every bit, as far as the
    format does, and strength 0 changes nothing. A --strip is written as DIR/NAME-strip.png, and its animation as
    DIR/NAME-animated.webp, both of the model's size.
    """
    _require_consistent(strip, animate, result, crop)
    if not strengths and not words.pairs:
        raise click.UsageError("Missing option '--set'. Name a direction with its strength, as in --set old=+6.")
    if len(dict(strengths)) < len(strengths):
        raise click.UsageError("--set names a direction twice. Name each once.")
    require_names([*dict(strengths), *keep], words, session.model)

    # This imports torch, and so only once the arguments are known to be right.
    from ddim_edit.images import display_factor, to_uint8, upscale
    from ddim_edit.latents.image_recipes import EditRecipe

    session.metadata = result.metadata
    if config["exact"]:
        session.prefer_dtype("fp32")
    factors = strip.factors if strip else [1.0]
    destination = _open_destination(session, output, overwrite, result, strip, animate)
    files = find_images(session, images, crop)
    jobs = plan_jobs(session, files, destination)
    writer = ResultWriter(session, result)
    chosen = choose_directions(session, strengths, keep, words)
    # Fitted directions have their own grid.
    config = config if chosen.fitted else settle_grid(session, config, files, crop)
    steps = [{each: strength * factor for each, strength in chosen.strengths.items()} for factor in factors]
    recorded = None if chosen.fitted else {**config, **({"level": level} if level else {})}
    own_config = None if recorded is None else make_config(config)

    def edit_batch(batch: "Sequence[tuple[Job, list[InputImage]]]") -> "Iterator[list[Tensor]]":
        def edits(faces: "list[InputImage]") -> "Tensor":
            return session.editor.edits(faces, steps, level, chosen.keep, conditional, config=own_config)

        return run_on_faces(edits, batch)

    def workload(schedule: "NoiseSchedule") -> "Workload":
        inversion = chosen.fitted.config if chosen.fitted else replace(make_config(config), level=level)
        moving = chosen.fitted.evaluations if chosen.fitted else 0
        return inversion.edits_workload(schedule, [any(step.values()) for step in steps], moving)

    for batch in read_job_faces(session, jobs, crop, workload, 3 + len(steps), face_required=True):
        model = session.editor.model.name
        for (job, faces), edited in session.run_batch(batch, edit_batch):
            recipe = EditRecipe(
                chosen.recorded_strengths,
                chosen.recorded_keep,
                conditional,
                tuple(factors),
                model,
                faces[0].source,
                words=chosen.recorded_words,
                config=recorded,
            )
            with session.continue_on_error(job.source):
                if strip is None:
                    if result.is_photo(faces[0]):
                        recipe = replace(recipe, frames=tuple(face.preprocessing for face in faces))
                    writer.write(job.source, job.target, faces, [edits[0] for edits in edited], recipe)
                else:
                    frames, signature = to_uint8(edited[0]), session.recipe_json(recipe)
                    frames = upscale(frames, result.upscale or display_factor(frames.shape[-1]))
                    for note in _write_sweep(job.target, frames, recipe, animate is not None, fps, signature):
                        session.note(f"{job.target.name}: {note}")
                row = {**job.to_json(), **recipe.to_json()}
                del row["source"]
                session.emit(row, job.target)
    session.finish()


def _require_consistent(strip: Strip | None, animate: str | None, result: ResultOptions, crop: CropOptions) -> None:
    """Refuse options that do not go together."""
    if animate and not strip:
        raise click.UsageError("--animate sweeps through a --strip, as in --strip -9:9:25 --animate webp.")
    if strip and (result.output_size == PHOTO or crop.all_faces):
        raise click.UsageError("A --strip shows one face in the model's size. Enlarge it with --upscale.")


def _open_destination(
    session: Session, output: Path, overwrite: bool, result: ResultOptions, strip: Strip | None, animate: str | None
) -> Destination:
    if animate:
        return open_destination(session, output, f".{animate}", overwrite, "-animated", [f".{animate}"])
    if strip:
        return open_destination(session, output, result.suffix or ".png", overwrite, "-strip")
    return open_destination(session, output, result.suffix, overwrite, "-edited")


def _write_sweep(
    target: Path,
    frames: "Tensor",
    recipe: "EditRecipe",
    animated: bool,
    fps: float | None,
    signature: Mapping[str, Any] | None,
) -> Sequence[str]:
    """Write the frames of a --strip as an image or as an animation; return notes."""
    import torch

    from ddim_edit.images import labelled, write, write_animation

    if animated:
        # There and back, so that the animation may loop.
        both_ways = torch.cat([frames, frames[1:-1].flip(0)])
        return write_animation(target, both_ways, fps, signature)
    labels = [f"{factor:+.3g}" if factor else "0" for factor in recipe.factors]
    words = recipe.words or {}
    names = [name if name in words else Path(name).name.removesuffix(DIRECTION) for name in recipe.strengths]
    title = ", ".join(names)
    write(target, labelled([frames], labels, [title]), signature)
    return ()
