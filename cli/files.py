"""Input files, and the names of what is written for them. A file that fails ends only itself."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from ddim_edit.errors import ArgumentError

from .crops import CropOptions, CropText, split_crop
from .session import Session
from .streams import STANDARD

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import Latent, NoiseSchedule, Workload
    from ddim_edit.images import Crop, InputImage

    from .session import FindWorkload

Item = TypeVar("Item")
LATENT = ".latent.safetensors"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl")
TENSOR_SUFFIXES = (".safetensors", ".npy", ".npz", ".latent", ".pt", ".pth", ".ckpt", ".bin")
READ_AHEAD = 8
"""Photographs whose faces are read before they are needed."""
KNOWN_SUFFIXES = (*IMAGE_SUFFIXES, *TENSOR_SUFFIXES, ".mp4", ".webm", ".csv", ".json", ".md", ".txt", ".pdf", ".svg")
"""Suffixes that nobody gives a folder. An output that ends in one is meant to be a file."""


class InputFile(NamedTuple):
    """An input file.

    Attributes:
        path: of the file.
        name: what its outputs are called: its name without suffix, below a folder that was named.
        crop: the crop of this input, if it has one of its own.
        photo: the photograph that its result is put in, if that is another file.
    """

    path: Path
    name: str
    crop: CropText | None = None
    photo: Path | None = None


class Job(NamedTuple):
    """An input file, the file that its result goes to, and the rest of its `InputFile`."""

    source: Path
    target: Path
    crop: CropText | None = None
    photo: Path | None = None

    def to_json(self) -> dict[str, str]:
        """Return both as --json prints them."""
        return {"input": str(self.source), "output": str(self.target)}


class Destination(NamedTuple):
    """Where results go.

    Attributes:
        folder: the folder of the results.
        ending: of their names before the suffix, as in "-edited".
        suffix: of their names; None is that of the photograph, as far as such files can be written.
        overwrite: whether they may replace files.
        file: the one result that there is to be, in place of a folder.
    """

    folder: Path
    ending: str
    suffix: str | None
    overwrite: bool
    file: Path | None = None

    def target(self, name: str, photo: Path | None = None) -> Path:
        """Return the file of a result with this name, whose photograph may decide on its suffix."""
        if self.file is not None:
            return self.file
        suffix = self.suffix
        if suffix is None:
            from ddim_edit.images import photograph_suffix

            suffix = photograph_suffix(photo or "")
        return self.folder / f"{name}{self.ending}{suffix}"

    def require_room(self, count: int) -> None:
        """Refuse more than one result for one file.

        Raises:
            UsageError: there are more.
        """
        if self.file is not None and count > 1:
            where = "standard output" if self.file.stem == "stdout" else str(self.file)
            raise click.UsageError(f"There are {count:,} results, and {where} has room for one. Name an output folder.")


def open_destination(
    session: Session,
    output: Path,
    suffix: str | None,
    overwrite: bool,
    ending: str = "",
    files: Iterable[str] | None = None,
) -> Destination:
    """Return where an --output leads: to standard output, a file, or a folder.

    Args:
        session: of the command.
        output: "-", a file whose name ends in one of `files`, or a folder.
        suffix: of the files in a folder, and of standard output; None is that of each photograph, and PNG there.
        overwrite: whether results may replace files.
        ending: what names in a folder have before their suffix, so that no other command gives the same.
        files: suffixes that the command can write; by default those of still images, of which --format is one.

    Raises:
        UsageError: the name of a file that the command cannot write, or one that contradicts --format or --json.
    """
    if output == STANDARD:
        return Destination(output, "", suffix, True, open_standard_output(session, suffix or ".png"))
    is_image = files is None
    if files is None:
        from ddim_edit.images import still_suffixes

        files = still_suffixes()
    name = output.name.lower()
    if output.is_dir() or not name.endswith((*files, *KNOWN_SUFFIXES)):
        require_folder(output)
        return Destination(output, ending, suffix, overwrite)
    if not name.endswith(tuple(files)):
        raise click.UsageError(f"{output}: this command writes {join_or(files)}. Change the suffix, or name a folder.")
    if not output.suffix:  # ".png" is a hidden file without one
        raise click.UsageError(f"{output}: there is no name before the suffix. Name a file, or a folder.")
    source = click.get_current_context().get_parameter_source("format")
    if is_image and source is ParameterSource.COMMANDLINE and suffix is not None and not name.endswith(suffix):
        raise click.UsageError(f"{output} is not of --format {suffix.removeprefix('.')}. Leave one of them out.")
    return Destination(output.parent, "", suffix, overwrite, output)


def open_standard_output(session: Session, suffix: str) -> Path:
    """Return the file that is copied to standard output once it is written, and keep all else from there.

    Raises:
        UsageError: --json writes there too.
    """
    if session.as_json:
        raise click.UsageError("--json and -o - both write to standard output. Leave one of them out.")
    session.to_stdout = True
    return session.streams.target(suffix)


def require_folder(output: Path) -> None:
    """Refuse an output that is a file, or meant to be one, where a command makes a folder.

    Raises:
        UsageError: it is.
    """
    if output.exists() and not output.is_dir():
        raise click.UsageError(f"{output} is a file, and the output is a folder here. Name another one.")
    if output == STANDARD or (output.name.lower().endswith(KNOWN_SUFFIXES) and not output.is_dir()):
        raise click.UsageError(f"{output} is not a folder, and this command writes several files. Name a folder.")


def join_or(words: Iterable[str]) -> str:
    """Return words as "a, b or c"."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def resolve_all(paths: Iterable[Path]) -> frozenset[Path]:
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


def find_images(session: Session, paths: Sequence[Path], crop: CropOptions | None = None) -> list[InputFile]:
    """Return the image files that arguments name, with those in folders; notes say what in folders is passed over.

    Args:
        session: of the command.
        paths: its arguments; one may end in @ and a crop.
        crop: its options, which may have a crop for each argument.
    """
    from ddim_edit.images import find

    crops = (crop or CropOptions()).for_inputs(len(paths))
    files: list[InputFile] = []
    for argument, crop_of_argument in zip(paths, crops, strict=True):
        path, own = split_crop(argument)
        own = own or crop_of_argument
        with session.continue_on_error(path):
            if path == STANDARD:
                files.append(InputFile(session.streams.read(), "stdin", own))
            else:
                found = find([path], session.recursive, session.note_skipped)
                files += [InputFile(file, _name_below(file, path), own) for file in found]
    return files


def find_latents(session: Session, paths: Sequence[Path]) -> list[InputFile]:
    """Return the latent files that arguments name, with those in folders."""
    from ddim_edit.images import list_folder

    files: list[InputFile] = []
    for path in paths:
        with session.continue_on_error(path):
            if path == STANDARD:
                files.append(InputFile(session.streams.read(), "stdin"))
                continue
            if not path.is_dir():
                files.append(InputFile(path, stem(path)))
                continue
            listing = list_folder(path, session.recursive, lambda name: name.endswith(LATENT))
            if not listing.files:
                instead = f", but {listing.skipped}" if listing.skipped else ""
                raise ArgumentError(
                    f"{path}: there are no *{LATENT} files here{instead}. Write some with `ddim-edit invert`."
                )
            if listing.skipped:
                session.note_skipped(path, listing.skipped)
            files += [InputFile(file, _name_below(file, path)) for file in listing.files]
    return files


def _name_below(file: Path, argument: Path) -> str:
    """Return the name of a file without suffix, with the folders that lead to it from the one that was named."""
    folder = "." if file == argument else os.path.relpath(file.parent, argument)
    return stem(file) if folder == "." else f"{folder}/{stem(file)}"


def plan_jobs(session: Session, files: Sequence[InputFile], destination: Destination) -> list[Job]:
    """Return a job for every file; files that may not be replaced fail.

    Equal names of different folders keep these folders; others are numbered.

    Raises:
        UsageError: several files for a destination that is one file.
    """
    destination.require_room(len(files))
    jobs: list[Job] = []
    inputs = resolve_all(path for file in files for path in (file.path, file.photo) if path is not None)
    taken: set[str] = set()
    for file, name in zip(files, output_names(files), strict=True):
        target = destination.target(unused_name(name, taken), file.photo or file.path)
        with session.continue_on_error(file.path):
            jobs.append(Job(file.path, claim(target, inputs, destination.overwrite), file.crop, file.photo))
    return jobs


def output_names(files: Sequence[InputFile]) -> list[str]:
    """Return the name of each file's output: those that come from several folders with these folders before them."""
    places: dict[str, set[Path]] = {}
    folders: list[Path] = []
    for file in files:
        folders.append(Path(os.path.abspath(file.path.parent)))  # noqa: PTH100 - pathlib would keep ".."
        places.setdefault(file.name, set()).add(folders[-1])
    ambiguous = [folder for places_of_one in places.values() if len(places_of_one) > 1 for folder in places_of_one]
    root = Path(os.path.commonpath(ambiguous)) if ambiguous else Path()
    names: list[str] = []
    for file, folder in zip(files, folders, strict=True):
        if len(places[file.name]) == 1:
            names.append(file.name)
        else:
            names.append(str(folder.relative_to(root) / Path(file.name).name))
    return names


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
    jobs: Sequence[Job],
    crop: CropOptions,
    workload: "FindWorkload",
    codec_passes: int,
    face_required: bool = False,
) -> Iterator[list[tuple[Job, "InputImage"]]]:
    """Yield the images of jobs batch by batch, as `read_batches`; notes say what was done to them."""
    crops = [crop.make(session, job.crop, face_required) for job in jobs]
    return read_batches(session, jobs, [job.source for job in jobs], crops, workload, codec_passes)


def read_job_faces(
    session: Session,
    jobs: Sequence[Job],
    crop: CropOptions,
    workload: "FindWorkload",
    codec_passes: int,
    face_required: bool = False,
) -> "Iterator[list[tuple[Job, list[InputImage]]]]":
    """Yield the faces of the images of jobs batch by batch: one of each image, or all under --face all.

    An image without a face fails under --face all, and if one is required also without, unless a crop was asked for.
    """
    if not crop.all_faces:
        for batch in read_jobs(session, jobs, crop, workload, codec_passes, face_required):
            yield [(job, [image]) for job, image in batch]
        return
    from ddim_edit.images import read_faces
    from ddim_edit.io.prefetch import prefetch_map

    template = crop.require_template(session)
    size = session.editor.model.size

    def read() -> "Iterator[tuple[Job, list[InputImage] | None]]":
        for job, found in prefetch_map(lambda job: read_faces(job.source, size, template), jobs, READ_AHEAD):
            faces = None
            with session.continue_on_error(job.source):
                faces = found()
                session.note(f"{job.source.name}: {len(faces)} {'faces' if len(faces) > 1 else 'face'}")
            yield job, faces

    count = len(jobs)  # of faces there are at least as many
    for all_faces in session.batches(read(), count, lambda schedule: count * workload(schedule), codec_passes):
        readable = [(job, faces) for job, faces in all_faces if faces is not None]
        if readable:
            yield readable


def run_on_faces(
    run: "Callable[[list[InputImage]], Iterable[Tensor]]", batch: "Sequence[tuple[Job, list[InputImage]]]"
) -> "Iterator[list[Tensor]]":
    """Run on the faces of all images of a batch together, and yield the results image by image."""
    results = iter(run([face for _, faces in batch for face in faces]))
    for _, faces in batch:
        yield [next(results) for _ in faces]


def read_files(
    session: Session, files: Sequence[InputFile], crop: CropOptions, workload: "FindWorkload", codec_passes: int
) -> Iterator[list[tuple[Path, "InputImage"]]]:
    """Yield files and their images batch by batch, as `read_batches`; notes say what was done to them."""
    paths = [file.path for file in files]
    crops = [crop.make(session, file.crop) for file in files]
    return read_batches(session, paths, paths, crops, workload, codec_passes)


def read_batches(
    session: Session,
    items: Sequence[Item],
    files: Sequence[Path],
    crops: "Sequence[Crop]",
    workload: "FindWorkload",
    codec_passes: int,
) -> "Iterator[list[tuple[Item, InputImage]]]":
    """Yield batches of items, each with the image of its file; files that cannot be read fail.

    Args:
        session: of the command.
        items: the items.
        files: the image file of each.
        crops: what to keep of each image.
        workload: returns the evaluations that one image takes, for the schedule of the model.
        codec_passes: how many times an autoencoder encodes or decodes for each.
    """
    pairs = zip(items, read_images(session, files, crops), strict=True)
    count = len(files)
    for batch in session.batches(pairs, count, lambda schedule: count * workload(schedule), codec_passes):
        readable = [(item, image) for item, (_, image) in batch if image is not None]
        if readable:
            yield readable


def read_images(
    session: Session, files: Sequence[Path], crops: "Crop | Sequence[Crop]", with_notes: bool = True
) -> "Iterator[tuple[Path, InputImage | None]]":
    """Yield each file with its image, or None where it cannot be read; print why, and what was done to images.

    Args:
        session: of the command.
        files: image files.
        crops: one for all files, or one for each.
        with_notes: whether to print what was done to images.
    """
    from ddim_edit.images import read_all

    if not files:
        return
    editor = session.editor
    # While one batch goes through the network, the next is read.
    for file, image in read_all(files, editor.model.size, crops, session.fail, editor.batch_size):
        if image is not None:
            name = Path(str(session.streams.name_of(file))).name
            if with_notes and image.notes:
                session.note(f"{name}: {', '.join(image.notes)}")
            if image.caution:
                session.warn(f"{name}: {image.caution}")
        yield file, image


def workload_of(latents: "Iterable[Latent]") -> "FindWorkload":
    """Return what finds the evaluations that decoding latents takes."""

    def find(schedule: "NoiseSchedule") -> "Workload":
        from ddim_edit.config import workload_of_recipes

        return workload_of_recipes([latent.recipe for latent in latents], schedule)

    return find


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
