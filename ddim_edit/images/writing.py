"""Pictures into files, each with the recipe it was made by; whole files or none."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TypeVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ddim_edit.errors import ImageError
from ddim_edit.images.pixels import to_image
from ddim_edit.images.recipe import KEY, Recipe, as_exif, as_text
from ddim_edit.io.atomic import atomic

Writer = TypeVar("Writer")


def write(path: str | PathLike[str], pixels: Tensor, recipe: Recipe | None = None) -> None:
    """Write one picture as .png, .webp (both without loss) or .jpg, with its recipe inside.

    Args:
        path: the file to write or to replace; missing folders are made.
        pixels: uint8 [3, H, W].
        recipe: what `read_recipe` will return; anything JSON can say.

    Errors: ImageError for another suffix, for a place that cannot be written, and for a picture or recipe the
    format has no room for; no half-written file is left behind. ArgumentError for other tensors.
    """
    path = Path(path)
    save = writer_of(path, _STILLS)
    image = to_image(pixels)
    with placed(path) as temporary:
        save(image, temporary, as_text(recipe))


def writer_of(path: Path, known: Mapping[str, Writer]) -> Writer:
    """What is known to write files of that name's suffix; ImageError for another one."""
    writer = known.get(path.suffix.lower())
    if writer is None:
        raise ImageError(f"a file name in {' or '.join(known)}", path.name, "give it one of these suffixes")
    return writer


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path`, or is removed; ImageError for what cannot be written."""
    try:
        with atomic(path) as temporary:
            yield temporary
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        given = f"{path} ({reason})"
        raise ImageError("a picture that can be written", given, "choose another place or format") from error


def _save_png(image: Image.Image, path: Path, text: str | None) -> None:
    chunks = PngInfo()
    if text is not None:
        chunks.add_text(KEY, text)
    image.save(path, "PNG", pnginfo=chunks)


def _save_jpeg(image: Image.Image, path: Path, text: str | None) -> None:
    image.save(path, "JPEG", quality=95, subsampling=0, exif=as_exif(text))


def _save_webp(image: Image.Image, path: Path, text: str | None) -> None:
    image.save(path, "WEBP", lossless=True, exif=as_exif(text))


_STILLS: Mapping[str, Callable[[Image.Image, Path, str | None], None]] = {
    ".png": _save_png,
    ".webp": _save_webp,
    ".jpg": _save_jpeg,
    ".jpeg": _save_jpeg,
}
