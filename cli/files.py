"""Input files, and the names of what is written for them. A file that fails ends only itself."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ddim_edit.errors import ArgumentError

from .options import CropChoice, make_crop
from .session import Session

if TYPE_CHECKING:
    from ddim_edit import Latent
    from ddim_edit.images import InputImage

Item = TypeVar("Item")
LATENT = ".latent.safetensors"


class Job(NamedTuple):
    """An input file, and the file that its result goes to."""

    source: Path
    target: Path

    def to_json(self) -> dict[str, str]:
        """Return both as --json prints them."""
        return {"input": str(self.source), "output": str(self.target)}


class Destination(NamedTuple):
    """Where results go: a folder, the suffix of their names, and whether they may replace files."""

    folder: Path
    suffix: str
    overwrite: bool


def resolve_all(paths: Sequence[Path]) -> frozenset[Path]:
    """Return where paths lead, links followed."""
    return frozenset(Path(os.path.realpath(path)) for path in paths)  # resolve() fails at a link to itself


def claim(target: Path, inputs: frozenset[Path], overwrite: bool) -> Path:
    """Return a target that may be written: never over a (resolved) input, over other files only with --overwrite.

    Raises:
        ArgumentError: it may not.
    """
    if target.resolve() in inputs:
        raise ArgumentError(f"{target} is an input too. Write somewhere else.")
    is_empty_folder = target.is_dir() and not any(target.iterdir())
    if target.exists() and not overwrite and not is_empty_folder:
        raise ArgumentError(f"{target} exists. Use --overwrite, or write somewhere else.")
    return target


def find_images(session: Session, paths: Sequence[Path]) -> list[Path]:
    """Return the image files that arguments name, with those in folders."""
    from ddim_edit.images import find

    return _expand(session, paths, lambda path: find([path]))


def find_latents(session: Session, paths: Sequence[Path]) -> list[Path]:
    """Return the latent files that arguments name, with those in folders."""

    def expand(path: Path) -> list[Path]:
        if not path.is_dir():
            return [path]
        found = sorted(path.glob(f"*{LATENT}"))
        if not found:
            raise ArgumentError(f"{path}: there are no *{LATENT} files here. Write some with `ddim-edit invert`.")
        return found

    return _expand(session, paths, expand)


def _expand(session: Session, paths: Sequence[Path], expand: Callable[[Path], list[Path]]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        with session.continue_on_error(path):
            files += expand(path)
    return files


def plan_jobs(
    session: Session, files: Sequence[Path], destination: Destination, reserved: Collection[Path] = ()
) -> list[Job]:
    """Return a job for every file; equal and reserved names are numbered, and files that may not be replaced fail."""
    jobs: list[Job] = []
    inputs = resolve_all(files)
    taken = {path.name.removesuffix(destination.suffix) for path in reserved if path.name.endswith(destination.suffix)}
    for file in files:
        target = destination.folder / f"{unused_name(stem(file), taken)}{destination.suffix}"
        with session.continue_on_error(file):
            jobs.append(Job(file, claim(target, inputs, destination.overwrite)))
    return jobs


def source_of(item: tuple[Job, object]) -> Path:
    """Return the input file of a job with whatever goes with it."""
    return item[0].source


def stem(file: Path) -> str:
    """Return a file's name without the suffixes that this program gives."""
    return file.name.removesuffix(LATENT) if file.name.endswith(LATENT) else file.stem


def unused_name(name: str, taken: set[str]) -> str:
    """Return a name, with a number if it is taken, and add it to those that are."""
    free, number = name, 2
    while free in taken:
        free = f"{name}-{number}"
        number += 1
    taken.add(free)
    return free


def read_jobs(
    session: Session,
    images: Sequence[Path],
    destination: Destination,
    crop: CropChoice,
    reserved: Collection[Path] = (),
) -> Iterator[list[tuple[Job, "InputImage"]]]:
    """Yield the images that arguments name batch by batch, each with its job; notes say what was done to them."""
    jobs = plan_jobs(session, find_images(session, images), destination, reserved)
    yield from read_batches(session, jobs, [job.source for job in jobs], crop)


def read_batches(
    session: Session, items: Sequence[Item], files: Sequence[Path], crop: CropChoice
) -> "Iterator[list[tuple[Item, InputImage]]]":
    """Yield batches of items, each with the image of its file; files that cannot be read fail."""
    pairs = zip(items, read_images(session, files, crop), strict=True)
    for batch in session.batches(pairs, "images", len(files)):
        readable = [(item, image) for item, (_, image) in batch if image is not None]
        if readable:
            yield readable


def read_images(
    session: Session, files: Sequence[Path], crop: CropChoice, with_notes: bool = True
) -> "Iterator[tuple[Path, InputImage | None]]":
    """Yield each file with its image, or None where it cannot be read; print why, and what was done to images."""
    from ddim_edit.images import read_all

    if not files:
        return
    editor = session.editor
    # While one batch goes through the network, the next is read.
    for file, image in read_all(files, editor.model.size, make_crop(crop), session.fail, editor.batch_size):
        if with_notes and image is not None and image.notes:
            session.note(f"{file.name}: {', '.join(image.notes)}")
        yield file, image


def load_latents(session: Session, files: Sequence[Path]) -> "dict[Path, Latent]":
    """Return the latents of files; without --dtype, the session takes the dtype that the first was made in."""
    from ddim_edit import Latent

    latents: dict[Path, Latent] = {}
    for file in files:
        with session.continue_on_error(file):
            latents[file] = Latent.load(file)
    if latents:
        session.prefer_dtype(next(iter(latents.values())).recipe.dtype)
    return latents
