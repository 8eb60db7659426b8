"""Labelled images for `fit` and `probe`: the options that say which image has which label, and how they are read."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from .command import Option, OptionGroup
from .crops import CropOptions
from .files import read_images
from .options import FILE, FOLDER, make_config
from .session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_edit import LatentArray, NoiseSchedule, Workload
    from ddim_edit.directions.labels import LabelledImages
    from ddim_edit.images import InputImage

SHOWN = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class LabelOptions:
    """Where labels come from: a CSV beside a folder of images or a store of latents, or two folders.

    Attributes:
        images: folder of the images that the CSV names.
        csv, column: the CSV, and its column with the labels.
        positive, negative: conditions on the column.
        group: the column of groups that no split divides, or "folder".
        with_, without: folders of images with and without the attribute.
        cache: folder that keeps latents.
        latents: store of the latents, in place of `images`.
    """

    images: Path | None
    csv: Path | None
    column: str | None
    positive: str | None
    negative: str | None
    group: str | None
    with_: Path | None
    without: Path | None
    cache: Path | None
    latents: Path | None = None

    def require_complete(self) -> None:
        """Refuse anything but one of the ways, named in full.

        Raises:
            UsageError: it is not.
        """
        if self.latents:
            if not self.csv or not self.column:
                raise click.UsageError("Name --labels and --column with --latents.")
            return
        table = (self.images, self.csv, self.column)
        folders = (self.with_, self.without)
        by_table = all(table) and not any(folders)
        by_folders = all(folders) and not any((*table, self.positive, self.negative))
        if not by_table and not by_folders:
            raise click.UsageError("Name --images, --labels and --column, or else --with and --without.")

    def read(self) -> "LabelledImages":
        """Return the image files and their labels."""
        from ddim_edit.directions import labels

        if self.with_ and self.without:
            return labels.from_folders(self.with_, self.without, self.group)
        assert self.csv is not None
        assert self.column is not None
        assert self.images is not None
        return labels.read_csv(self.csv, self.column, self.images, self.positive, self.negative, self.group)

    def read_for(self, names: "Iterable[str]") -> "LabelledImages":
        """Return labels of images that are inverted already, by the names of these."""
        from ddim_edit.directions import labels

        assert self.csv is not None
        assert self.column is not None
        return labels.read_names(self.csv, self.column, self.positive, self.negative, self.group, names)


class ImagesWithLabels(NamedTuple):
    """Images that could be read, each content once, with their labels [n] and, if asked for, their groups."""

    images: "list[InputImage]"
    labels: "NDArray[Any]"
    groups: "list[Hashable] | None"


def label_group(store: bool) -> OptionGroup:
    """Return the options of labelled images, which become the command's `labels`.

    Args:
        store: whether the latents of a store will do in place of images.
    """
    condition = "a value, '>=55', '<3' or '18..32'"
    options = [
        Option("--images", type=FOLDER, metavar="DIR", help="Folder of the images that the CSV names."),
        Option(
            "--labels",
            argument="csv",
            type=FILE,
            metavar="CSV",
            help="Table with a column of files and columns of labels: CSV, or the text file of CelebA.",
        ),
        Option("--column", metavar="NAME", help="Column with the labels."),
        Option("--positive", metavar="CONDITION", help=f"Labels that count as the attribute: {condition}."),
        Option(
            "--negative", metavar="CONDITION", help="Labels that count as its absence, alike. [default: all others]"
        ),
        Option(
            "--group",
            metavar="COLUMN",
            help="Column of groups that no split divides, such as the person in an image; 'folder' for a folder each.",
        ),
        Option("--with", argument="with_", type=FOLDER, metavar="DIR", help="Folder of images with the attribute."),
        Option("--without", type=FOLDER, metavar="DIR", help="Folder of images without it."),
        Option("--cache", type=FOLDER, metavar="DIR", help="Folder that keeps latents for the next run."),
    ]
    if store:
        options.append(
            Option("--latents", type=FOLDER, metavar="STORE", help="Store of the latents, in place of --images.")
        )
    return OptionGroup("Labelled images", options, "labels", LabelOptions)


def refuse_typed(names: Sequence[str], reason: str) -> None:
    """Refuse options of the running command that were typed.

    Args:
        names: click's names of the options.
        reason: continues the sentence after the option.
    """
    context = click.get_current_context()
    for each in context.command.params:
        if each.name in names and context.get_parameter_source(each.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{each.opts[-1]} {reason}")


def tell(session: Session, labelled: "LabelledImages") -> None:
    """Print how many images have which label, what was left out, and what to look at."""
    for text in labelled.warnings:
        session.warn(text)
    for text in labelled.notes:
        session.note(text)


class Copies:
    """Finds the copies of one image among labelled ones, and tells of them.

    Args:
        names: of the images.
        labels: of the images.
    """

    def __init__(self, names: Sequence[str], labels: Sequence[float]) -> None:
        self._names = names
        self._labels = labels
        self._first_of: dict[str, int] = {}
        self._found: list[str] = []

    def has(self, index: int, digest: str) -> bool:
        """Return whether an image before this one has the same digest.

        Raises:
            ArgumentError: one with another label has.
        """
        from ddim_edit.errors import ArgumentError

        first = self._first_of.setdefault(digest, index)
        if first == index:
            return False
        one, other = self._labels[first], self._labels[index]
        if one != other:
            raise ArgumentError(
                f"{self._names[first]} and {self._names[index]} are the same image, but one has the label {one:g} and "
                f"the other {other:g}. Correct one, or leave both out."
            )
        self._found.append(f"{Path(self._names[index]).name} of {Path(self._names[first]).name}")
        return True

    def warn(self, session: Session) -> None:
        """Warn of the copies that were found."""
        found = self._found
        if found:
            shown = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
            session.warn(f"{len(found)} of {len(self._names)} images are copies of others and count once: {shown}")


def read_labelled(session: Session, labels: LabelOptions, crop: CropOptions) -> ImagesWithLabels:
    """Return the images that can be read; the others fail, and copies of one image count once.

    Raises:
        ArgumentError: copies of one image with different labels.
    """
    labelled = labels.read()
    tell(session, labelled)
    folders = Counter(file.parent for file in labelled.files)
    if labels.group is None and len(folders) > 2 and len(folders) < len(labelled):
        session.warn(
            f"the {len(labelled)} images lie in {len(folders)} folders; if each is of one person or scene, validate "
            "with --group folder, as the AUC is too high otherwise"
        )
    images: list[InputImage] = []
    kept: list[int] = []
    copies = Copies([str(file) for file in labelled.files], labelled.labels.tolist())
    for index, (_, image) in enumerate(read_images(session, labelled.files, crop.make(session), with_notes=False)):
        if image is None:
            continue
        if not copies.has(index, hashlib.sha256(image.pixels.numpy().tobytes()).hexdigest()):
            images.append(image)
            kept.append(index)
    copies.warn(session)
    groups = [labelled.groups[index] for index in kept] if labelled.groups else None
    return ImagesWithLabels(images, labelled.labels[kept], groups)


def invert_to_levels(
    session: Session,
    images: "Sequence[InputImage]",
    levels: Sequence[str],
    config: Mapping[str, Any],
    cache: Path | None,
) -> "list[LatentArray]":
    """Return the latents of images at several levels."""
    from ddim_edit import LatentCache
    from ddim_edit.latents.spaces import parse_level

    inversion_config = make_config(config)

    def workload(schedule: "NoiseSchedule") -> "Workload":
        stops = []
        for level in levels:
            parsed = parse_level(level, schedule.T)
            # Bottlenecks of one time are seen on the way; an inversion ends at the last of all levels.
            stops.append(parsed.stop(schedule.T) if parsed.t is None else parsed.t)
        return len(images) * replace(inversion_config, level=max(stops)).inversion_workload(schedule)

    with session.counting_evaluations(len(images), workload, 1):
        return session.editor.latents_at(
            images, levels, inversion_config, cache=None if cache is None else LatentCache(cache)
        )
