"""Input files and the names of outputs, where one failure ends nothing but itself."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ddim_edit import ArgumentError

from .session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import Latent
    from ddim_edit.images import InputImage

Item = TypeVar("Item")
LATENT = ".latent.safetensors"


class Job(NamedTuple):
    """One input file and where its result goes."""

    source: Path
    target: Path


class Place(NamedTuple):
    """Where results go: a folder, the suffix of their names, and whether they may replace files."""

    folder: Path
    suffix: str
    overwrite: bool


def resolved(paths: Sequence[Path]) -> frozenset[Path]:
    """Where paths really lead."""
    return frozenset(Path(os.path.realpath(path)) for path in paths)  # resolve() fails over a link to itself


def claim(target: Path, inputs: frozenset[Path], overwrite: bool) -> Path:
    """The target, if it may be written: never over a (resolved) input, and over other files only if so asked."""
    if target.resolve() in inputs:
        raise ArgumentError("an output apart from the inputs", str(target), "write elsewhere")
    if not overwrite and target.exists() and not _is_empty_folder(target):
        raise ArgumentError("a name that is free", str(target), "use --overwrite or write elsewhere")
    return target


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def picture_files(session: Session, paths: Sequence[Path]) -> list[Path]:
    """The picture files that arguments name, folders opened."""
    from ddim_edit.images import find

    return _gathered(session, paths, lambda path: find([path]))


def latent_files(session: Session, paths: Sequence[Path]) -> list[Path]:
    """The latent files that arguments name, folders opened."""
    return _gathered(session, paths, _latents_in)


def _latents_in(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob(f"*{LATENT}"))
    if not found:
        raise ArgumentError(f"a folder with *{LATENT} files", str(path), "write some with `ddim-edit invert`")
    return found


def _gathered(session: Session, paths: Sequence[Path], expand: Callable[[Path], list[Path]]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        with session.survive(path):
            files += expand(path)
    return files


def jobs(session: Session, files: Sequence[Path], place: Place, reserved: Collection[Path] = ()) -> list[Job]:
    """A target for every file; equal and reserved names are numbered, and what may not be replaced fails."""
    made, inputs = [], resolved(files)
    taken = {path.name.removesuffix(place.suffix) for path in reserved if path.name.endswith(place.suffix)}
    for file in files:
        target = place.folder / f"{untaken(stem(file), taken)}{place.suffix}"
        with session.survive(file):
            made.append(Job(file, claim(target, inputs, place.overwrite)))
    return made


def stem(file: Path) -> str:
    """A file's name without the suffixes that this program gives."""
    return file.name.removesuffix(LATENT) if file.name.endswith(LATENT) else file.stem


def untaken(name: str, taken: set[str]) -> str:
    """The name, numbered if it is taken; from then on it is."""
    free, number = name, 2
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    taken.add(free)
    return free


def pictures(
    session: Session, images: Sequence[Path], place: Place, crop: Any, reserved: Collection[Path] = ()
) -> Iterator[list[tuple[Job, "InputImage"]]]:
    """The pictures that arguments name, batch by batch, each with its job; says what was done to them."""
    work = jobs(session, picture_files(session, images), place, reserved)
    yield from pictures_of(session, work, [job.source for job in work], crop)


def pictures_of(
    session: Session, items: Sequence[Item], files: Sequence[Path], crop: Any
) -> "Iterator[list[tuple[Item, InputImage]]]":
    """Each item with the picture of its file, batch by batch; what cannot be read is named and left out."""
    coming = zip(items, read_images(session, files, crop), strict=True)
    for batch in session.batches(coming, "pictures", len(files)):
        good = [(item, picture) for item, (_, picture) in batch if picture is not None]
        if good:
            yield good


def read_images(
    session: Session, files: Sequence[Path], crop: Any, with_notes: bool = True
) -> "Iterator[tuple[Path, InputImage | None]]":
    """Yield each file with its image, or None where it cannot be read; say why, and what was done to images."""
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
    """The latents of files; a session that was told no dtype takes the one that the first was made in."""
    from ddim_edit import Latent

    latents: dict[Path, Latent] = {}
    for file in files:
        with session.survive(file):
            latents[file] = Latent.load(file)
    if latents and session.dtype == "auto":
        session.dtype = next(iter(latents.values())).recipe.dtype
    return latents


def make_crop(crop: Any) -> Any:
    """The crop that the options describe: None, "fit" or a box."""
    from ddim_edit.images import Box, CentreSquare, Fit

    if crop is None:
        return CentreSquare()
    return Fit() if crop == "fit" else Box(*crop)


def save_picture(path: Path, picture: "Tensor", latent: "Latent", metadata: bool = True) -> None:
    """Write a picture [3, H, W] in [-1, 1] with the recipe of the latent that it was decoded from, if so asked."""
    from ddim_edit.images import to_uint8, write

    write(path, to_uint8(picture), latent.recipe.to_json() if metadata else None)


def warn_if_unfinished(session: Session, source: Path, report: Mapping[str, Any]) -> None:
    """Say so where an inversion did not meet its tolerance."""
    if not report["converged"]:
        session.warn(f"{source}: did not converge, so the best code was kept; try more steps or another grid")
