"""`invert`, `decode` and `reconstruct`: pictures to their codes and back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .files import (
    LATENT,
    Job,
    Place,
    claim,
    jobs,
    latent_files,
    load_latents,
    make_crop,
    pictures,
    resolved,
    save_picture,
    warn_if_unfinished,
)
from .options import (
    folder_option,
    images_argument,
    make_method,
    overwrite_option,
    with_condition,
    with_crop,
    with_metadata,
    with_method,
    with_session,
)
from .session import Session
from .storing import STORE, decode_store, fill_store, is_store, with_filling
from .table import CODEC_SCORES, SCORES, Sheet, table

if TYPE_CHECKING:
    from ddim_edit import Latent


@click.command()
@images_argument
@folder_option
@with_method()
@with_crop
@overwrite_option
@with_filling
@with_session
def invert(
    images: Sequence[Path],
    output: Path,
    method: Mapping[str, Any],
    crop: Any,
    overwrite: bool,
    filling: Mapping[str, Any],
    session: Session,
) -> None:
    """Find the code x_T of every picture and write it as DIR/NAME.latent.safetensors.

    A DIR whose name ends in .latents becomes a store: hundreds of codes a file, for folders of any size. A run that
    was interrupted goes on where it stopped, new pictures are added, and several processes may share the work.
    """
    if output.suffix == STORE:
        how = {"config": make_method(method), "crop": make_crop(crop)}
        fill_store(session, images, output, overwrite, filling, **how)
    else:
        _invert_to_files(session, images, Place(output, LATENT, overwrite), method, crop)
    session.leave()


def _invert_to_files(
    session: Session, images: Sequence[Path], place: Place, method: Mapping[str, Any], crop: Any
) -> None:
    for batch in pictures(session, images, place, crop):
        latents = session.editor.invert([picture for _, picture in batch], make_method(method))
        for (job, _), latent in zip(batch, latents, strict=True):
            with session.survive(job.source):
                latent.save(job.target)
                warn_if_unfinished(session, job.source, latent.report)
                session.emit({**_row(job), "t": latent.t, **latent.report}, job.target)


@click.command()
@click.argument(
    "latents", nargs=-1, required=True, metavar="LATENTS|FOLDERS|STORES...", type=click.Path(path_type=Path)
)
@folder_option
@click.option("--force", is_flag=True, help="Decode codes of another model too.")
@overwrite_option
@with_condition
@with_session
@with_metadata
def decode(
    latents: Sequence[Path],
    output: Path,
    force: bool,
    overwrite: bool,
    condition: Mapping[str, Any],
    session: Session,
) -> None:
    """Decode every latent, of files or stores, by its own recipe and write the picture as DIR/NAME.png.

    Another prompt, class or guidance than the one it was inverted under makes an edit of it.
    """
    place = Place(output, ".png", overwrite)
    if files := [path for path in latents if not is_store(path)]:
        _decode_files(session, files, place, force, condition)
    for path in latents:
        if is_store(path):
            decode_store(session, path, place, force, condition)
    session.leave()


def _decode_files(
    session: Session, files: Sequence[Path], place: Place, force: bool, condition: Mapping[str, Any]
) -> None:
    work = jobs(session, latent_files(session, files), place)
    found = load_latents(session, [job.source for job in work])
    loaded = {
        path: latent.with_condition(replace(latent.recipe.condition, **condition)) for path, latent in found.items()
    }
    pairs = [(job, loaded[job.source]) for job in work if job.source in loaded]
    own = [pair for pair in pairs if _is_own(session, *pair, force)]
    for batch in session.batches(own, "latents", len(own)):
        decoded = session.editor.decode([latent for _, latent in batch], force)
        for (job, latent), picture in zip(batch, decoded, strict=True):
            with session.survive(job.source):
                save_picture(job.target, picture, latent, session.metadata)
                session.emit(_row(job), job.target)


def _is_own(session: Session, job: Job, latent: "Latent", force: bool) -> bool:
    editor, before = session.editor, session.failures
    with session.survive(job.source):
        editor.require_own(latent, force)
    return session.failures == before


@click.command()
@images_argument
@folder_option
@with_method()
@with_crop
@overwrite_option
@with_session
@with_metadata
def reconstruct(
    images: Sequence[Path],
    output: Path,
    method: Mapping[str, Any],
    crop: Any,
    overwrite: bool,
    session: Session,
) -> None:
    """Take every picture through its code and back, measure it, and write DIR/NAME.png and DIR/sheet.png."""
    from ddim_edit.latents.image_recipes import ReconstructionRecipe

    rows, sheet, sheet_file = [], Sheet(), claim(output / "sheet.png", resolved(images), overwrite)
    for batch in pictures(session, images, Place(output, ".png", overwrite), crop, {sheet_file}):
        trip = session.editor.reconstruct([picture for _, picture in batch], make_method(method))
        sheet.add(trip.originals, trip.decoded, [picture.source for _, picture in batch])
        for (job, _), picture, latent, score in zip(batch, trip.decoded, trip.latents, trip.scores, strict=True):
            with session.survive(job.source):
                save_picture(job.target, picture, latent, session.metadata)
                warn_if_unfinished(session, job.source, score)
                told = [*SCORES, *(name for name in CODEC_SCORES if name in score)]
                rows.append({**_row(job), **{name: score[name] for name in told}})
                session.emit(rows[-1])
    if rows:
        recipe = ReconstructionRecipe(session.editor.model.name, tuple(sheet.sources), method)
        sheet.save(sheet_file, session.signed(recipe))
        (session.note if session.as_json else click.echo)(table(rows))
    session.leave()


def _row(job: Job) -> dict[str, Any]:
    return {"input": str(job.source), "output": str(job.target)}
