"""Pictures and animations into files, each with the recipe it was made by; whole files or none."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TypeVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.files import atomic
from ddim_edit.images.pixels import to_image
from ddim_edit.images.recipe import KEY, Recipe, as_comment, as_exif, as_text

FASTEST = 50
"""Frames per second above which viewers of GIF fall back to 10."""

Writer = TypeVar("Writer")


def write(path: str | PathLike[str], pixels: Tensor, recipe: Recipe | None = None) -> None:
    """Writes one picture as .png, .webp (both without loss) or .jpg, with its recipe inside.

    Args:
        path: the file to write or to replace; missing folders are made.
        pixels: uint8 [3, H, W].
        recipe: what `read_recipe` will return; anything JSON can say.

    Errors: ImageError for another suffix, for a place that cannot be written, and for a picture or recipe the
    format has no room for; no half-written file is left behind. ArgumentError for other tensors.
    """
    path = Path(path)
    save = _writer(path, _STILLS)
    image = to_image(pixels)
    with _placed(path) as temporary:
        save(image, temporary, as_text(recipe))


def write_animation(
    path: str | PathLike[str], frames: Tensor, fps: float, recipe: Recipe | None = None, loop: bool = True
) -> None:
    """Writes an animation as .webp (without loss) or .gif (256 colours a frame), with its recipe inside.

    Args:
        path: the file to write or to replace; missing folders are made.
        frames: uint8 [N, 3, H, W].
        fps: frames per second, at most 50. Each frame ends on a tick of its format (1 ms, or 10 ms in a GIF),
            at most half a tick from its time.
        recipe: what `read_recipe` will return; anything JSON can say.
        loop: for ever, or once.

    Errors: as `write`; ArgumentError also for another fps and for no frames.
    """
    path = Path(path)
    save = _writer(path, _ANIMATIONS)
    if not 0 < fps <= FASTEST:
        wanted = f"more than 0 and at most {FASTEST} frames per second"
        raise ArgumentError(wanted, f"{fps:g}", "choose another rate")
    if frames.ndim != 4 or not len(frames):
        raise ArgumentError("frames of shape [N, 3, H, W]", f"shape {list(frames.shape)}", "stack them")
    images = [to_image(frame) for frame in frames]
    with _placed(path) as temporary:
        save(images, temporary, as_text(recipe), fps, loop)


def _writer(path: Path, known: Mapping[str, Writer]) -> Writer:
    writer = known.get(path.suffix.lower())
    if writer is None:
        raise ImageError(f"a file name in {' or '.join(known)}", path.name, "give it one of these suffixes")
    return writer


@contextmanager
def _placed(path: Path) -> Iterator[Path]:
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


def _animate_webp(images: list[Image.Image], path: Path, text: str | None, fps: float, loop: bool) -> None:
    images[0].save(
        path,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=_durations(len(images), fps, tick=1),
        loop=0 if loop else 1,
        lossless=True,
        exif=as_exif(text),
    )


def _animate_gif(images: list[Image.Image], path: Path, text: str | None, fps: float, loop: bool) -> None:
    frames = [_with_palette(image) for image in images]
    frames[0].save(
        path,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=_durations(len(images), fps, tick=10),
        comment=as_comment(text),
        **({"loop": 0} if loop else {}),
    )


def _with_palette(image: Image.Image) -> Image.Image:
    # No dithering: on enlarged faces it shows as specks, doubles the file and raises the mean error.
    return image.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)


def _durations(count: int, fps: float, tick: int) -> list[int]:
    """Milliseconds for each frame, so that every frame ends within half a tick of its time."""
    ends = [round(1000 / tick * frame / fps) for frame in range(count + 1)]
    return [tick * (end - start) for start, end in pairwise(ends)]


_STILLS: Mapping[str, Callable[[Image.Image, Path, str | None], None]] = {
    ".png": _save_png,
    ".webp": _save_webp,
    ".jpg": _save_jpeg,
    ".jpeg": _save_jpeg,
}
_ANIMATIONS: Mapping[str, Callable[[list[Image.Image], Path, str | None, float, bool], None]] = {
    ".webp": _animate_webp,
    ".gif": _animate_gif,
}
