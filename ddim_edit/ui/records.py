"""What the page has of photos and results: records that the controller makes and the tabs show."""

from pathlib import Path
from typing import NamedTuple

from ddim_edit.latents.image_recipes import EditRecipe
from ddim_edit.ui.session import EditedPixels, EditSettings, Photo, SourcePhoto


class UploadedImage(NamedTuple):
    """An image file as it was uploaded, and the name it has on the user's machine."""

    path: Path
    name: str


class LoadedPhoto(NamedTuple):
    """A photo that was uploaded, not opened yet.

    Attributes:
        source: its pixels and faces.
        upload: its file.
        token: by which it is found again; it cannot be guessed.
    """

    source: SourcePhoto
    upload: UploadedImage
    token: str


class OpenedPhoto(NamedTuple):
    """A photo that was opened: a summary of its inversion, and its latent to save."""

    photo: Photo
    upload: UploadedImage
    summary: str
    latent: Path


class EditedPhoto(NamedTuple):
    """A photo after an edit.

    Attributes:
        edited: what became of it.
        settings: the edit.
        recipe: of the result; None where nothing is moved.
        command: the command line that makes it; empty where nothing is moved.
    """

    edited: EditedPixels
    settings: EditSettings
    recipe: EditRecipe | None
    command: str


class SavedFiles(NamedTuple):
    """The files of an edit: the photo, and its recipe where there is one."""

    image: Path
    recipe: Path | None


class InterpolationFiles(NamedTuple):
    """A strip, an animation, and the command lines that make them."""

    strip: Path
    animation: Path
    command: str


class CombinedFile(NamedTuple):
    """The image that others were combined to, and the command line that makes it."""

    image: Path
    command: str


class SampledImages(NamedTuple):
    """New images: thumbnails, files, all on a sheet, and the command line that makes the files."""

    thumbnails: list[Path]
    files: list[Path]
    sheet: Path
    command: str


class SampleSource(NamedTuple):
    """The command line that makes a sampled image, and the file that it writes."""

    command: str
    file: str
