"""Write images and animations, each with the recipe that made it; whole files or none."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.images.formats import find_animation_format, find_still_format
from ddim_edit.images.pixels import to_image
from ddim_edit.images.recipe import recipe_to_text
from ddim_edit.io.atomic import atomic

FASTEST = 50
"""Frames per second above which viewers of GIF fall back to 10."""


def write(path: str | PathLike[str], pixels: Tensor, recipe: Mapping[str, Any] | None = None) -> None:
    """Write an image as .png, .webp (both lossless) or .jpg, with its recipe inside.

    Args:
        path: the file to write or to replace; missing folders are created.
        pixels: uint8 [3, H, W].
        recipe: what `read_recipe` will return, of JSON types.

    Raises:
        ImageError: another suffix, a file that cannot be written, or an image or recipe too large for the format. No
            partial file is left behind.
        ArgumentError: other tensors.

    Examples:
        >>> import tempfile, torch
        >>> from ddim_edit.images import read_recipe, write
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(f"{folder}/grey.png", torch.full((3, 64, 64), 128, dtype=torch.uint8), {"kind": "grey"})
        ...     read_recipe(f"{folder}/grey.png")
        {'kind': 'grey'}
    """
    path = Path(path)
    still = find_still_format(path)
    image = to_image(pixels)
    with replacing(path) as temporary:
        still.save(image, temporary, recipe_to_text(recipe))


def write_animation(
    path: str | PathLike[str],
    frames: Tensor,
    fps: float | None = None,
    recipe: Mapping[str, Any] | None = None,
    loop: bool = True,
) -> tuple[str, ...]:
    """Write an animation with its recipe inside; only .webp keeps every pixel.

    .webp is lossless, .gif has 256 colours per frame, .mp4 (H.264) and .webm (VP9) are videos of high quality with
    colours at half the resolution, which need the extra `video`.

    Args:
        path: the file to write or to replace; missing folders are created.
        frames: uint8 [N, 3, H, W].
        fps: frames per second, above 0 and at most 50; None is 12, but at least two seconds in all. Frames end on ticks
            of the format, 1 ms or in a GIF 10 ms, at most half a tick from their time.
        recipe: what `read_recipe` will return, of JSON types.
        loop: whether to repeat without end. Players of videos decide that themselves.

    Returns:
        What had to be done to the frames, in words; usually nothing.

    Raises:
        ImageError: as `write`.
        MissingExtraError: a video without PyAV.
        ArgumentError: another `fps`, no frames, or other tensors.
    """
    path = Path(path)
    animation = find_animation_format(path)
    if fps is None:
        fps = min(12, len(frames) / 2)
    if not 0 < fps <= FASTEST:
        raise ArgumentError(f"fps must be above 0 and at most {FASTEST}, not {fps:g}.")
    if frames.ndim != 4 or not len(frames):
        raise ArgumentError(f"frames must have shape [N, 3, H, W], not {list(frames.shape)}. Stack them.")
    images = [to_image(frame) for frame in frames]
    with replacing(path) as temporary:
        return animation.save(images, temporary, recipe_to_text(recipe), fps, loop)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at the end; raise ImageError for what cannot be written."""
    try:
        with atomic(path) as temporary:
            yield temporary
    except (OSError, ValueError) as error:  # Pillow raises ValueError for sizes and EXIF blocks that do not fit
        reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        raise ImageError(f"{path}: cannot write: {reason}. Choose another place or format.") from error
