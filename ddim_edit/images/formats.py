"""The formats that images and animations are written in, each an entry with its suffixes, help and writer.

A new format needs an entry here and nothing else: `write` and `write_animation` find it by its suffix, and the command
line builds its help from it. Neither torch nor Pillow is imported before a file is written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_edit.errors import ImageError
from ddim_edit.images.gif import index_frames
from ddim_edit.images.recipe import KEYWORD, text_to_comment, text_to_exif
from ddim_edit.images.video import VideoCodec
from ddim_edit.io.extras import import_extra, is_installed

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class StillFormat:
    """A format of single images.

    Attributes:
        name: as people know it.
        suffixes: of its files, in lower case, the usual one first.
        help: one line on what it keeps.
        lossless: whether every pixel comes back unchanged.
        save: writes an RGB image to a path, with the text of its recipe or None.
    """

    name: str
    suffixes: tuple[str, ...]
    help: str
    lossless: bool
    save: "Callable[[Image.Image, Path, str | None], object]"


@dataclass(frozen=True)
class AnimationFormat:
    """A format of animations.

    Attributes:
        name: as people know it.
        suffixes: of its files, in lower case, the usual one first.
        help: one line on what it keeps.
        lossless: whether every pixel of every frame comes back unchanged.
        save: writes RGB frames of one size to a path, with the text of a recipe or None, frames per second and whether
            to loop; returns in words what had to be done to the frames.
        is_video: whether browsers show it by a video player instead of as an image.
        package: a package that it needs and that `extra` of ddim-edit installs.
        extra: see `package`.
    """

    name: str
    suffixes: tuple[str, ...]
    help: str
    lossless: bool
    save: "Callable[[list[Image.Image], Path, str | None, float, bool], tuple[str, ...]]"
    is_video: bool = False
    package: str | None = None
    extra: str | None = None

    @property
    def installed(self) -> bool:
        """Whether the package that it needs is there; it is not imported."""
        return self.package is None or is_installed(self.package)


def _save_png(image: "Image.Image", path: Path, text: str | None) -> None:
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    if text is not None:
        chunks.add_text(KEYWORD, text)
    image.save(path, "PNG", pnginfo=chunks)


def _save_webp(image: "Image.Image", path: Path, text: str | None) -> None:
    image.save(path, "WEBP", lossless=True, exif=text_to_exif(text))


def _save_jpeg(image: "Image.Image", path: Path, text: str | None) -> None:
    # Without subsampling: at 64 pixels a side, colours at half the resolution bleed visibly.
    image.save(path, "JPEG", quality=95, subsampling=0, exif=text_to_exif(text))


def _save_animated_webp(
    frames: "list[Image.Image]", path: Path, text: str | None, fps: float, loop: bool
) -> tuple[str, ...]:
    frames[0].save(
        path,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=_frame_durations(len(frames), fps, tick=1),
        loop=0 if loop else 1,
        lossless=True,
        exif=text_to_exif(text),
    )
    return ()


def _save_gif(frames: "list[Image.Image]", path: Path, text: str | None, fps: float, loop: bool) -> tuple[str, ...]:
    indexed = list(index_frames(frames))
    # A GIF without a loop count plays once.
    repeat = {"loop": 0} if loop else {}
    indexed[0].save(
        path,
        "GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=_frame_durations(len(frames), fps, tick=10),
        comment=text_to_comment(text).encode(),
        disposal=1,  # every frame stays below the next one, whose transparent pixels show it
        **repeat,
    )
    return ()


def _frame_durations(count: int, fps: float, tick: int) -> list[int]:
    """Return milliseconds for each frame, multiples of `tick`; every frame ends within half a tick of its time.

    Examples:
        >>> _frame_durations(3, fps=30, tick=10)
        [30, 40, 30]
    """
    # The ends are rounded, not the durations, whose errors would add up.
    ends = [round(1000 / tick * frame / fps) for frame in range(count + 1)]
    return [tick * (end - start) for start, end in pairwise(ends)]


_STILL_FORMATS = (
    StillFormat("PNG", (".png",), "lossless", True, _save_png),
    StillFormat("WebP", (".webp",), "lossless, and smaller than PNG", True, _save_webp),
    StillFormat("JPEG", (".jpg", ".jpeg"), "lossy, quality 95; recipes of up to 64 KB", False, _save_jpeg),
)

_ANIMATION_FORMATS = (
    AnimationFormat("WebP", (".webp",), "lossless", True, _save_animated_webp),
    AnimationFormat("GIF", (".gif",), "256 colours per frame, without flicker", False, _save_gif),
    AnimationFormat(
        "MP4",
        (".mp4",),
        "H.264 video, colours at half the resolution",
        False,
        VideoCodec("libx264", {"crf": "10", "preset": "slow"}, {"movflags": "+faststart"}).save,
        is_video=True,
        package="av",
        extra="video",
    ),
    AnimationFormat(
        "WebM",
        (".webm",),
        "VP9 video, colours at half the resolution",
        False,
        VideoCodec("libvpx-vp9", {"crf": "12", "b": "0"}, {}).save,
        is_video=True,
        package="av",
        extra="video",
    ),
)

STILL_FORMATS: Mapping[str, StillFormat] = {suffix: each for each in _STILL_FORMATS for suffix in each.suffixes}
"""Formats of single images by suffix."""

ANIMATION_FORMATS: Mapping[str, AnimationFormat] = {
    suffix: each for each in _ANIMATION_FORMATS for suffix in each.suffixes
}
"""Formats of animations by suffix."""


def still_suffixes() -> tuple[str, ...]:
    """Return the suffixes that `write` accepts.

    Examples:
        >>> still_suffixes()
        ('.png', '.webp', '.jpg', '.jpeg')
    """
    return tuple(STILL_FORMATS)


def animation_suffixes() -> tuple[str, ...]:
    """Return the suffixes that `write_animation` accepts.

    Examples:
        >>> animation_suffixes()
        ('.webp', '.gif', '.mp4', '.webm')
    """
    return tuple(ANIMATION_FORMATS)


def find_still_format(path: str | PathLike[str]) -> StillFormat:
    """Return the format in which `write` will write a file of that name.

    Raises:
        ImageError: no format has that suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in STILL_FORMATS:
        raise ImageError(f"{path}: images are written as {_join_or(still_suffixes())}. Change the suffix.")
    return STILL_FORMATS[suffix]


def find_animation_format(path: str | PathLike[str]) -> AnimationFormat:
    """Return the format in which `write_animation` will write a file of that name.

    Raises:
        ImageError: no format has that suffix.
        MissingExtraError: the format needs a package that is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in ANIMATION_FORMATS:
        raise ImageError(f"{path}: animations are written as {_join_or(animation_suffixes())}. Change the suffix.")
    found = ANIMATION_FORMATS[suffix]
    if found.package and found.extra:
        import_extra(found.package, found.extra, f"Writing {suffix} files")
    return found


def _join_or(suffixes: tuple[str, ...]) -> str:
    return f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
