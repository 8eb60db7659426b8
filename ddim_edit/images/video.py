"""Videos through PyAV, which only this module knows, and loads late; the extra `video` brings it."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np
from PIL import Image

from ddim_edit.errors import ImageError
from ddim_edit.images.recipe import as_comment

FORMATS: Mapping[bytes, str] = {
    b"ftypiso": "mp4",
    b"ftypmp4": "mp4",
    b"ftypavc": "mp4",
    b"ftypM4V": "mp4",
    b"ftypqt": "mp4",
    b"\x1a\x45\xdf\xa3": "matroska",
}
"""Containers by how their files begin, four bytes of length left out; HEIC and AVIF begin otherwise."""

_SRGB = {"color_range": 1, "colorspace": 1, "color_primaries": 1, "color_trc": 13}
"""Limited range, BT.709 matrix and primaries, sRGB's transfer: numbers of ITU-T H.273."""


@dataclass(frozen=True)
class Video:
    """A way to write videos: a codec and what it is told; 4:2:0, since not every player takes more.

    Attributes:
        codec: FFmpeg's name of it.
        options: of the codec.
        container: options of the container.
    """

    codec: str
    options: Mapping[str, str]
    container: Mapping[str, str]

    def __call__(
        self, images: list[Image.Image], path: Path, text: str | None, fps: float, loop: bool
    ) -> tuple[str, ...]:
        """Write the frames, of even sides, the recipe's text as comment; `loop` means nothing here."""
        arrays, notes = _even([np.asarray(image) for image in images])
        av = _av()
        # Without the flags the encoders write their versions, so that equal frames would not make equal files.
        with av.open(str(path), "w", options={"fflags": "+bitexact", **self.container}) as container:
            if text is not None:
                container.metadata["comment"] = as_comment(text)
            stream = container.add_stream(self.codec, Fraction(fps).limit_denominator(1001), dict(self.options))
            stream.height, stream.width = arrays[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
            for name, number in _SRGB.items():
                setattr(stream.codec_context, name, number)
            for array in arrays:
                frame = av.VideoFrame.from_ndarray(array, format="rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="itu709")))
            container.mux(stream.encode())
        return notes


MP4 = Video("libx264", {"crf": "10", "preset": "slow"}, {"movflags": "+faststart"})
WEBM = Video("libvpx-vp9", {"crf": "12", "b": "0"}, {})


def container_of(start: bytes) -> str | None:
    """FFmpeg's name of the video container that a file beginning so is, or None."""
    return next((name for magic, name in FORMATS.items() if magic in (start[4 : 4 + len(magic)], start[:4])), None)


def comment_in(file: BinaryIO, container: str) -> str:
    """The comment of a video, empty without one; nothing but its container is read.

    Raises:
        ImageError: no video is in it, or PyAV is not installed.
    """
    # The container is named, since FFmpeg knows formats that are lists of other files to open.
    with _av().open(file, format=container) as video:
        if not video.streams.video:
            raise ImageError("a video", "a container without one", "fetch or save it again")
        entries: dict[str, str] = {key.lower(): value for key, value in video.metadata.items()}
        return entries.get("comment", "")


def _even(frames: list[np.ndarray]) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Frames [H, W, 3] of even sides, as 4:2:0 has to have them, and what was done for that."""
    height, width, _ = frames[0].shape
    if not height % 2 and not width % 2:
        return frames, ()
    sides = (0, height % 2), (0, width % 2), (0, 0)
    note = f"padded from {width}x{height} to {width + width % 2}x{height + height % 2} with edge pixels, for the video"
    return [np.pad(frame, sides, mode="edge") for frame in frames], (note,)


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        given = "an installation without it"
        raise ImageError("PyAV for videos", given, "install `ddim-edit[video]`, or use .webp") from error
    return av
