"""`ddim-edit decode`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import Option, OptionGroup, command
from ..files import Destination, Job, find_latents, load_latents, open_destination, plan_jobs, workload_of
from ..options import (
    FILE_OR_FOLDER,
    condition_group,
    inputs_argument,
    output_option,
    overwrite_option,
    recursive_group,
    session_options,
)
from ..photos import find_photo, read_frame
from ..results import MODEL, PHOTO, ResultOptions, ResultWriter, result_group
from ..session import Session
from ..store_reading import decode_store
from ..stores import is_store

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import Latent


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    force = Option("--force", is_flag=True, help="Decode latents of another model too.")
    output = [
        inputs_argument("latents", "LATENTS|FOLDERS|STORES..."),
        output_option(),
        Option(
            "--photo",
            type=FILE_OR_FOLDER,
            metavar="FILE|DIR",
            help="Photograph that the latents were made from, or the folder where it is. [default: beside each latent "
            "file, under its name]",
        ),
        overwrite_option(),
    ]
    model = OptionGroup("Model and run", [force])
    groups = [OptionGroup("Output", output), result_group(), recursive_group()]
    return [*groups, condition_group(), model, session_options()]


@command(
    "Invert and decode",
    2,
    option_groups,
    "ddim-edit decode latents/ -o images/",
    "ddim-edit invert - < a.png -o - | ddim-edit decode - -o a-decoded.png",
    'ddim-edit decode cat.latent.safetensors --prompt "a dog" --model ./stable-diffusion -o images/',
)
def decode(
    latents: Sequence[Path],
    output: Path,
    photo: Path | None,
    overwrite: bool,
    result: ResultOptions,
    condition: Mapping[str, Any],
    force: bool,
    session: Session,
) -> None:
    """Decode latents to images. They come from files or stores, and each is written as DIR/NAME.png.

    A latent is decoded by its own recipe. Another prompt, class or guidance than the one it was inverted under makes
    an edit of it. A latent of a photograph that is found gives the whole photograph, in which only the part that the
    model saw changes.
    """
    session.metadata = result.metadata
    destination = open_destination(session, output, result.suffix, overwrite)
    stores = [path for path in latents if is_store(path)]
    if stores and destination.file is not None:
        raise click.UsageError(f"{output} is one file, and a store is decoded to many. Name an output folder.")
    if files := [path for path in latents if path not in stores]:
        _decode_files(session, files, destination, force, condition, result, photo)
    for path in stores:
        with session.continue_on_error(path):
            decode_store(session, path, destination, force, condition, result, photo)
    session.finish()


def _decode_files(
    session: Session,
    files: Sequence[Path],
    destination: Destination,
    force: bool,
    condition: Mapping[str, Any],
    result: ResultOptions,
    photo: Path | None,
) -> None:
    found = find_latents(session, files)
    if result.output_size != MODEL and result.upscale is None:
        found = [file._replace(photo=find_photo(file.path, photo)) for file in found]
    jobs = plan_jobs(session, found, destination)
    loaded = load_latents(session, [job.source for job in jobs])
    pairs: list[tuple[Job, Latent]] = []
    for job in jobs:
        if job.source not in loaded:
            continue
        latent = loaded[job.source]
        latent = latent.with_condition(replace(latent.recipe.condition, **condition))
        editor = session.editor  # outside of the block below: a model that cannot be loaded fails the command
        with session.continue_on_error(job.source):
            editor.require_own(latent, force)
            pairs.append((job, latent))

    def decode(some: "Sequence[tuple[Job, Latent]]") -> "Iterable[Tensor]":
        return session.editor.decode([latent for _, latent in some], force)

    writer = ResultWriter(session, result)
    for batch in session.batches(pairs, len(pairs), workload_of(latent for _, latent in pairs), 1):
        for (job, latent), image in session.run_batch(batch, decode):
            with session.continue_on_error(job.source):
                required = photo is not None or result.output_size == PHOTO
                frame = read_frame(session, job.source.name, job.photo, latent, required)
                if frame is None:
                    writer.write_model_size(job.target, image, latent.recipe)
                else:
                    writer.write(job.photo or job.source, job.target, [frame], [image], latent.recipe)
                session.emit(job.to_json(), job.target)
