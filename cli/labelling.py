"""Labelled pictures: the options that say which picture has which label, shared by `fit` and `probe`."""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .files import read_images
from .options import Command, make_method, stack
from .session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_edit.directions.labels import LabelledImages
    from ddim_edit.images import InputImage
    from ddim_edit.latents.cache import LatentArray


@dataclass(frozen=True)
class Labels:
    """Where the labels of a command come from: a CSV beside a folder of pictures, or two folders."""

    images: Path | None
    csv: Path | None
    column: str | None
    positive: str | None
    negative: str | None
    with_: Path | None
    without: Path | None

    def check(self) -> None:
        """Insist on one of the two ways, named in full."""
        table, folders = (self.images, self.csv, self.column), (self.with_, self.without)
        if not (all(table) and not any(folders)) and not (
            all(folders) and not any((*table, self.positive, self.negative))
        ):
            raise click.UsageError("Name --images, --labels and --column, or else --with and --without.")

    def codes(
        self, session: Session, level: str, walk: Mapping[str, Any], crop: Any, cache: Path | None
    ) -> "tuple[LatentArray, NDArray[Any]]":
        """The codes of the pictures that can be read, inverted now, and their labels."""
        pictures, values = readable(session, self.read(), crop)
        (codes,) = read_codes(session, pictures, [level], walk, cache)
        return codes, values

    def read(self) -> "LabelledImages":
        """The files and their labels."""
        from ddim_edit.directions import labels

        if self.with_ and self.without:
            return labels.from_folders(self.with_, self.without)
        assert self.csv is not None
        assert self.column is not None
        assert self.images is not None
        return labels.read_csv(self.csv, self.column, self.images, self.positive, self.negative)


@dataclass(frozen=True)
class StoredLabels:
    """A CSV beside a store of latents, which need no picture and no walk any more."""

    latents: Path
    csv: Path
    column: str
    positive: str | None
    negative: str | None

    def codes(
        self, session: Session, level: str, walk: Mapping[str, Any], crop: Any, cache: Path | None
    ) -> "tuple[LatentArray, NDArray[Any]]":
        """The codes of the store's pictures that have a label; says how many labels have no latent."""
        from ddim_edit import LatentStore
        from ddim_edit.directions import labels, stored_latents

        named = labels.read_names(self.csv, self.column, self.positive, self.negative)
        codes, values = stored_latents(LatentStore(self.latents), named)
        if missing := len(named) - len(values):
            session.warn(f"{missing} of {len(named)} labelled pictures have no latent in {self.latents.name}")
        return codes, values


_WALKING = (
    *("images", "with_", "without", "level", "cache", "steps", "solver", "grid", "crop", "fit"),
    *("prompt", "negative_prompt", "label", "guidance_scale"),
)


def with_labels_or_store(command: Command) -> Command:
    """As `with_labels`, but they may be those of a store, named by --latents."""
    of_pictures = with_labels(command)

    @functools.wraps(of_pictures)
    def wrapped(*args: Any, latents: Path | None, **rest: Any) -> Any:
        if latents is None:
            return of_pictures(*args, **rest)
        if odd := _given(_WALKING):
            raise click.UsageError(f"{odd[0]} does not go with --latents, whose codes are made already.")
        csv, column = rest.pop("csv"), rest.pop("column")
        if not csv or not column:
            raise click.UsageError("Name --labels and --column with --latents.")
        for name in ("images", "with_", "without"):
            del rest[name]
        labels = StoredLabels(latents, csv, column, rest.pop("positive"), rest.pop("negative"))
        return command(*args, labels=labels, **rest)

    store = click.Path(file_okay=False, path_type=Path)
    return stack(
        wrapped,
        click.option("--latents", type=store, metavar="STORE", help="Store of their codes, in place of --images."),
    )


def _given(names: Collection[str]) -> list[str]:
    """Which of these parameters stand on the command line, as they are written there."""
    context = click.get_current_context()
    typed = [each for each in context.command.params if each.name in names]
    return [each.opts[0] for each in typed if context.get_parameter_source(each.name) is ParameterSource.COMMANDLINE]


def with_labels(command: Command) -> Command:
    """Hand the command its `labels`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **rest: Any) -> Any:
        names = ("images", "csv", "column", "positive", "negative", "with_", "without")
        labels = Labels(**{name: rest.pop(name) for name in names})
        labels.check()
        return command(*args, labels=labels, **rest)

    folder = click.Path(file_okay=False, path_type=Path)
    return stack(
        wrapped,
        click.option("--images", type=folder, metavar="DIR", help="Folder of the pictures that the CSV names."),
        click.option(
            "--labels", "csv", type=click.Path(dir_okay=False, path_type=Path), metavar="CSV", help="file,<columns>."
        ),
        click.option("--column", help="The column with the labels."),
        click.option(
            "--positive", metavar="CONDITION", help="What counts as the attribute: '>=55', '18..32', '<3' or a value."
        ),
        click.option("--negative", metavar="CONDITION", help="What counts as its absence. [all else]"),
        click.option("--with", "with_", type=folder, metavar="DIR", help="Folder of pictures with the attribute."),
        click.option("--without", type=folder, metavar="DIR", help="Folder of pictures without it."),
        click.option("--cache", type=folder, metavar="DIR", help="Folder that keeps codes for the next run."),
    )


def readable(session: Session, labelled: "LabelledImages", crop: Any) -> "tuple[list[InputImage], NDArray[Any]]":
    """The pictures that can be read, with their labels; what cannot be is named and left out."""
    pictures: list[InputImage] = []
    kept: list[int] = []
    for index, (_, picture) in enumerate(read_images(session, labelled.files, crop, with_notes=False)):
        if picture is not None:
            pictures.append(picture)
            kept.append(index)
    return pictures, labelled.labels[kept]


def read_codes(
    session: Session,
    pictures: "Sequence[InputImage]",
    levels: Sequence[str],
    walk: Mapping[str, Any],
    cache: Path | None,
) -> "list[LatentArray]":
    """Their codes at several levels, with a bar of evaluations where somebody looks."""
    from ddim_edit.latents.cache import LatentCache

    kept = None if cache is None else LatentCache(cache)
    with session.watching():
        return session.editor.latents_at(pictures, levels, make_method(walk), cache=kept)
