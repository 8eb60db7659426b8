"""Animations into files: moving pictures for browsers and slides, and videos."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from os import PathLike
from pathlib import Path

from PIL import Image
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.images.pixels import to_image
from ddim_edit.images.recipe import Recipe, as_comment, as_exif, as_text
from ddim_edit.images.video import MP4, WEBM
from ddim_edit.images.writing import placed, writer_of

FASTEST = 50
"""Frames per second above which viewers of GIF fall back to 10."""

SETTLED = 0.01
"""A palette is done when fewer of a frame's pixels than this change their colour; to go on costs more than it gains."""


def write_animation(
    path: str | PathLike[str], frames: Tensor, fps: float, recipe: Recipe | None = None, loop: bool = True
) -> tuple[str, ...]:
    """Write an animation with its recipe inside; only .webp keeps every pixel.

    .webp is without loss, .gif has 256 colours a frame, .mp4 (H.264) and .webm (VP9) are videos of high quality whose
    colours are halved in resolution; they need the extra `video`.

    Args:
        path: the file to write or to replace; missing folders are made.
        frames: uint8 [N, 3, H, W].
        fps: frames per second, at most 50. Each frame ends on a tick of its format (1 ms, or 10 ms in a GIF),
            at most half a tick from its time.
        recipe: what `read_recipe` will return; anything JSON can say.
        loop: for ever, or once; of a video its player decides, and this means nothing.

    Returns:
        In words, what had to be done to the frames; nothing for most.

    Raises:
        ImageError: as `write`, and for a video without PyAV.
        ArgumentError: another fps, no frames, or other tensors.
    """
    path = Path(path)
    save = writer_of(path, _WRITERS)
    if not 0 < fps <= FASTEST:
        wanted = f"more than 0 and at most {FASTEST} frames per second"
        raise ArgumentError(wanted, f"{fps:g}", "choose another rate")
    if frames.ndim != 4 or not len(frames):
        raise ArgumentError("frames of shape [N, 3, H, W]", f"shape {list(frames.shape)}", "stack them")
    images = [to_image(frame) for frame in frames]
    with placed(path) as temporary:
        return save(images, temporary, as_text(recipe), fps, loop)


def _webp(images: list[Image.Image], path: Path, text: str | None, fps: float, loop: bool) -> tuple[str, ...]:
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
    return ()


def _gif(images: list[Image.Image], path: Path, text: str | None, fps: float, loop: bool) -> tuple[str, ...]:
    frames = [_with_palette(image) for image in images]
    frames[0].save(
        path,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=_durations(len(images), fps, tick=10),
        comment=as_comment(text).encode(),
        **({"loop": 0} if loop else {}),
    )
    return ()


def _with_palette(image: Image.Image) -> Image.Image:
    # On faces, PSNR and largest error: this 41.3 dB and 11 levels; median cut 41.2 and 20; the octree, in no time,
    # 36.7 and 13; one median cut for all frames 36.9 and 23. It takes a fiftieth of the time of decoding a frame.
    # No dithering: on enlarged faces it shows as specks, doubles the file and raises the mean error.
    moving = max(1, round(SETTLED * image.width * image.height))
    return image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=moving, dither=Image.Dither.NONE)


def _durations(count: int, fps: float, tick: int) -> list[int]:
    """Milliseconds for each frame, so that every frame ends within half a tick of its time."""
    ends = [round(1000 / tick * frame / fps) for frame in range(count + 1)]
    return [tick * (end - start) for start, end in pairwise(ends)]


_Save = Callable[[list[Image.Image], Path, str | None, float, bool], tuple[str, ...]]
_WRITERS: Mapping[str, _Save] = {".webp": _webp, ".gif": _gif, ".mp4": MP4, ".webm": WEBM}
