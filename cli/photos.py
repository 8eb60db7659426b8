"""The photographs that latents were made from: `decode` puts what becomes of them in there."""

from pathlib import Path
from typing import TYPE_CHECKING

from ddim_edit.errors import ArgumentError

from .files import stem
from .session import Session

if TYPE_CHECKING:
    from ddim_edit import Latent
    from ddim_edit.images import InputImage


def find_photo(latent: Path, photo: Path | None) -> Path | None:
    """Return the photograph that belongs to a latent file, by name; None where there is none.

    Args:
        latent: a file, beside which a photograph of its name is looked for.
        photo: the photograph, or the folder to look in instead.
    """
    from ddim_edit.images import readable_suffixes

    if photo is not None and not photo.is_dir():
        return photo
    folder = photo or latent.parent
    for suffix in sorted(readable_suffixes()):
        for file in (folder / f"{stem(latent)}{suffix}", folder / f"{stem(latent)}{suffix.upper()}"):
            if file.is_file():
                return file
    return None


def find_stored_photo(name: str, photo: Path | None) -> Path | None:
    """Return the photograph of a latent of a store; None where there is none.

    Args:
        name: of the latent's image in the store.
        photo: the photograph, or the folder of the images that the store was made from.
    """
    if photo is None or not photo.is_dir():
        return photo
    return photo / name if (photo / name).is_file() else None


def read_frame(
    session: Session, name: str, photo: Path | None, latent: "Latent", required: bool
) -> "InputImage | None":
    """Return the part of its photograph that a latent was made from; None, with a note, where there is none.

    Args:
        session: of the command.
        name: of the latent, for the note.
        photo: the photograph that was found.
        latent: the latent.
        required: whether it is an error that there is none.

    Raises:
        ArgumentError: there is none, and it is required.
        ImageError: the photograph cannot be read.
    """
    from ddim_edit.images import read_recorded
    from ddim_edit.latents.provenance import find_inversion

    origin = find_inversion(latent.recipe.origin)
    height, width = session.editor.model.size
    if origin is None or origin.preprocessing is None:
        if required:
            raise ArgumentError("this latent was not made from one photograph. Decode it with --output-size model.")
        return None
    size = origin.preprocessing.get("original_width", 0), origin.preprocessing.get("original_height", 0)
    if not required and size[0] <= width and size[1] <= height:
        return None
    problem = "its photograph was not found"
    if photo is not None:
        frame = read_recorded(photo, (height, width), origin.preprocessing)
        if frame.source == origin.source:
            return frame
        problem = f"{photo} is not the photograph that it was made from"
    if required:
        raise ArgumentError(f"{problem}. Name it with --photo, or use --output-size model.")
    session.note(f"{name}: {problem}, so the image has the model's size; --photo names it")
    return None
