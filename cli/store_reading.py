"""Read stores of latents: what is there comes out, and what is missing or damaged is printed and counted as failed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddim_edit.errors import DDIMEditError, LatentError

from .files import Destination, claim, unused_name
from .session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import Latent, LatentStore

WRITE_AHEAD = 16
"""Number of images that wait to be written while the next ones go through the network."""


class StoredLatent(NamedTuple):
    """A latent of a store, the name of its image, and the file of its result."""

    name: str
    target: Path
    latent: "Latent"


def open_store(session: Session, path: Path) -> "LatentStore":
    """Return a store, as far as it can be read; a shard that is missing or damaged fails."""
    from ddim_edit import LatentStore

    def fail(file: Path, error: LatentError) -> None:
        session.fail(f"{path.name}/{file.name}", type(error)(str(error).removeprefix(f"{file}: ")))

    store = LatentStore(path, on_damage=fail)
    if store.missing:
        first = store.missing[0]
        which = f"shard {first} is" if len(store.missing) == 1 else f"{len(store.missing):,} shards, first {first}, are"
        reason = f"{which} not there. The run was not finished, or files were lost; repeat the command that made it."
        session.fail(path, LatentError(reason))
    return store


def read_latents(session: Session, store: "LatentStore", destination: Destination) -> Iterator[StoredLatent]:
    """Yield the latents of a store; those that cannot be read fail."""
    taken: set[str] = set()
    for index in range(store.shards):
        try:
            names = store.shard_names(index)
            shard = store.shard(index)
        except DDIMEditError as error:
            session.fail(f"{store.path.name}/{store.file(index).name}", error)
            continue
        for row, name in enumerate(names):
            target = destination.target(unused_name(str(Path(name).with_suffix("")), taken))
            try:
                latent = shard[row]
            except DDIMEditError as error:
                session.fail(f"{store.path.name}: {name}", error)
            else:
                yield StoredLatent(name, target, latent)


def decode_store(
    session: Session, path: Path, destination: Destination, force: bool, condition: Mapping[str, Any]
) -> None:
    """Decode a store batch by batch, into images that are named as those it was made from."""
    from ddim_edit.io.prefetch import prefetch_map

    store = open_store(session, path)
    if not store:
        return
    session.prefer_dtype(store.recipe.dtype)
    latents = read_latents(session, store, destination)
    first = next(latents, None)
    if first is None:
        return
    session.editor.require_own(first.latent, force)  # refused once, not for every latent

    def write(decoded: "tuple[StoredLatent, Tensor]") -> None:
        stored, image = decoded
        target = claim(stored.target, frozenset(), destination.overwrite)
        session.save_image(target, image, stored.latent.recipe)

    # Images are written in threads, while the next ones go through the network.
    decoded = _decode_rows(session, chain([first], latents), len(store), force, condition)
    for (stored, _), written in prefetch_map(write, decoded, WRITE_AHEAD):
        with session.continue_on_error(stored.name):
            written()
            session.emit({"input": f"{path}/{stored.name}", "output": str(stored.target)}, stored.target)


def _decode_rows(
    session: Session, latents: Iterable[StoredLatent], count: int, force: bool, condition: Mapping[str, Any]
) -> "Iterator[tuple[StoredLatent, Tensor]]":
    def decode(batch: Sequence[StoredLatent]) -> "Iterable[Tensor]":
        conditioned = []
        for stored in batch:
            latent = stored.latent
            conditioned.append(latent.with_condition(replace(latent.recipe.condition, **condition)))
        return session.editor.decode(conditioned, force)

    for batch in session.batches(latents, "latents", count):
        yield from session.run_batch(batch, decode)
