"""Read stores of latents: what is there comes out, and what is missing or damaged is printed and counted as failed."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddim_edit.errors import DDIMEditError, LatentError, LatentMismatchError

from .files import Destination, claim, resolve_all, unused_name, workload_of
from .photos import find_stored_photo, read_frame
from .results import MODEL, PHOTO, ResultOptions, ResultWriter
from .session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import Latent, LatentStore

    from .session import FindWorkload

WRITE_AHEAD = 16
"""Number of images that wait to be written while the next ones go through the network."""


class StoredLatent(NamedTuple):
    """A latent of a store, the name of its image, the file of its result, and the photograph it was made from."""

    name: str
    target: Path
    latent: "Latent"
    photo: Path | None = None


def fail_shard(session: Session, store: Path, file: Path, error: DDIMEditError) -> None:
    """Count a shard that cannot be read as a failure, and print why, after its name."""
    session.fail(f"{store.name}/{file.name}", type(error)(str(error).removeprefix(f"{file}: ")))


def open_store(session: Session, path: Path) -> "LatentStore":
    """Return a store, as far as it can be read; a shard that is missing or damaged fails."""
    from ddim_edit import LatentStore

    store = LatentStore(path, on_damage=partial(fail_shard, session, path))
    if store.missing:
        first = store.missing[0]
        which = f"shard {first} is" if len(store.missing) == 1 else f"{len(store.missing):,} shards, first {first}, are"
        reason = f"{which} not there. The run was not finished, or files were lost; repeat the command that made it."
        session.fail(path, LatentError(reason))
    return store


def read_latents(
    session: Session, store: "LatentStore", destination: Destination, photo: Path | None = None
) -> Iterator[StoredLatent]:
    """Yield the latents of a store; those that cannot be read fail.

    Args:
        session: of the command.
        store: the store.
        destination: of the results.
        photo: the photograph, or the folder of photographs, that the results are put in.
    """
    taken: set[str] = set()
    for index in range(store.shards):
        try:
            names = store.shard_names(index)
            shard = store.shard(index)
        except DDIMEditError as error:
            fail_shard(session, store.path, store.file(index), error)
            continue
        for row, name in enumerate(names):
            found = find_stored_photo(name, photo)
            target = destination.target(unused_name(str(Path(name).with_suffix("")), taken), found)
            try:
                latent = shard[row]
            except DDIMEditError as error:
                _fail_row(session, store.path, name, error)
            else:
                yield StoredLatent(name, target, latent, found)


def find_whole_rows(session: Session, store: "LatentStore") -> Iterator[str]:
    """Yield the names of the images of all rows that can be read; the others fail."""
    for index in range(store.shards):
        try:
            names = store.shard_names(index)
            shard = store.shard(index)
        except DDIMEditError as error:
            fail_shard(session, store.path, store.file(index), error)
            continue
        for row, name in enumerate(names):
            try:
                shard[row].require_finite()
            except DDIMEditError as error:
                _fail_row(session, store.path, name, error)
            else:
                yield name


def _fail_row(session: Session, store: Path, name: str, error: DDIMEditError) -> None:
    """Count a latent of a store that cannot be read as a failure; the file in the message goes with the store."""
    session.fail(f"{store.name}: {name}", type(error)(str(error).removeprefix(f"{store}{os.sep}")))


def decode_store(
    session: Session,
    path: Path,
    destination: Destination,
    force: bool,
    condition: Mapping[str, Any],
    result: ResultOptions,
    photo: Path | None,
) -> None:
    """Decode a store batch by batch, into images that are named as those it was made from.

    Args:
        session: of the command.
        path: the store.
        destination: of the images.
        force: whether latents of another model are decoded too.
        condition: what is changed of the conditions of the latents.
        result: how the images are written; whole photographs only where `photo` names them.
        photo: the photograph, or the folder of those that the store was made from.
    """
    from ddim_edit.io.prefetch import prefetch_map

    store = open_store(session, path)
    if not store:
        return
    session.prefer_dtype(store.recipe.dtype)
    if result.output_size == MODEL or result.upscale is not None:
        photo = None
    in_photo = photo is not None or result.output_size == PHOTO
    latents = read_latents(session, store, destination, photo)
    first = next(latents, None)
    if first is None:
        return
    try:
        session.editor.require_own(first.latent, force)  # refused once, not for every latent
    except LatentMismatchError:
        raise
    except LatentError:
        pass  # only this one is at fault, and fails in its turn

    writer = ResultWriter(session, result)

    def write(decoded: "tuple[StoredLatent, Tensor]") -> None:
        (name, target, latent, found), image = decoded
        target = claim(target, resolve_all([found] if found else []), destination.overwrite)
        frame = read_frame(session, name, found, latent, required=True) if in_photo else None
        if frame is None or found is None:
            writer.write_model_size(target, image, latent.recipe)
        else:
            writer.write(found, target, [frame], [image], latent.recipe)

    # Images are written in threads, while the next ones go through the network.
    find_workload = workload_of([first.latent])
    decoded = _decode_rows(
        session,
        chain([first], latents),
        len(store),
        lambda schedule: len(store) * find_workload(schedule),
        force,
        condition,
    )
    for (stored, _), written in prefetch_map(write, decoded, WRITE_AHEAD):
        with session.continue_on_error(stored.name):
            written()
            session.emit({"input": f"{path}/{stored.name}", "output": str(stored.target)}, stored.target)


def _decode_rows(
    session: Session,
    latents: Iterable[StoredLatent],
    count: int,
    workload: "FindWorkload",
    force: bool,
    condition: Mapping[str, Any],
) -> "Iterator[tuple[StoredLatent, Tensor]]":
    def decode(batch: Sequence[StoredLatent]) -> "Iterable[Tensor]":
        conditioned = []
        for stored in batch:
            latent = stored.latent
            conditioned.append(latent.with_condition(replace(latent.recipe.condition, **condition)))
        return session.editor.decode(conditioned, force)

    for batch in session.batches(latents, count, workload, 1):
        yield from session.run_batch(batch, decode)
