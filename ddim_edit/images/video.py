"""Write videos, and read their comments, through PyAV, which the extra `video` installs."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ddim_edit.errors import ImageError
from ddim_edit.images.recipe import text_to_comment
from ddim_edit.io.extras import import_extra

if TYPE_CHECKING:
    from PIL import Image

MP4_BRANDS = (b"iso", b"mp4", b"avc", b"M4V", b"qt")
"""How the brands of MP4 and QuickTime videos begin. HEIC and AVIF images are such containers too, of other brands."""

# Limited range, matrix and primaries of BT.709, transfer of sRGB: numbers of ITU-T H.273. Players guess without them.
_COLOUR_TAGS = {"color_range": 1, "colorspace": 1, "color_primaries": 1, "color_trc": 13}


@dataclass(frozen=True)
class VideoCodec:
    """A codec and its settings; colours are 4:2:0, since not every player takes more.

    Attributes:
        codec: FFmpeg's name of it.
        options: of the codec.
        container: options of the container.
    """

    codec: str
    options: Mapping[str, str]
    container: Mapping[str, str]

    def save(
        self, frames: "list[Image.Image]", path: Path, text: str | None, fps: float, loop: bool
    ) -> tuple[str, ...]:
        """Write frames with the text of a recipe as comment; players decide whether to loop.

        Returns:
            A note if the frames had to be padded.

        Raises:
            MissingExtraError: PyAV is not installed.
        """
        import numpy as np

        av = import_extra("av", "video", "Writing videos")
        arrays = [np.asarray(frame) for frame in frames]
        height, width, _ = arrays[0].shape
        odd_rows, odd_columns = height % 2, width % 2
        notes: tuple[str, ...] = ()
        if odd_rows or odd_columns:  # 4:2:0 has one colour for every 2x2 pixels
            padding = ((0, odd_rows), (0, odd_columns), (0, 0))
            arrays = [np.pad(array, padding, mode="edge") for array in arrays]
            padded = f"{width + odd_columns}x{height + odd_rows}"
            notes = (f"padded from {width}x{height} to {padded} with edge pixels, for the video",)
        # Without the bitexact flags the encoders write their versions, and equal frames would not make equal files.
        with av.open(str(path), "w", options={"fflags": "+bitexact", **self.container}) as container:
            if text is not None:
                container.metadata["comment"] = text_to_comment(text)
            stream = container.add_stream(self.codec, Fraction(fps).limit_denominator(1001), options=dict(self.options))
            stream.height, stream.width = arrays[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
            for name, number in _COLOUR_TAGS.items():
                setattr(stream.codec_context, name, number)
            for array in arrays:
                frame = av.VideoFrame.from_ndarray(array, format="rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="itu709")))
            container.mux(stream.encode())
        return notes


def find_container(head: bytes) -> str | None:
    """Return FFmpeg's name of the video container that begins with these bytes, at least 11, or None."""
    if head.startswith(b"\x1a\x45\xdf\xa3"):  # the EBML header of WebM and Matroska
        return "matroska"
    if head[4:8] == b"ftyp" and head[8:].startswith(MP4_BRANDS):  # four bytes of length come first
        return "mp4"
    return None


def read_comment(file: BinaryIO, container: str) -> str:
    """Return the comment of a video, empty without one; no frame is decoded.

    Raises:
        ImageError: the container holds no video.
        MissingExtraError: PyAV is not installed.
    """
    av = import_extra("av", "video", "Reading the recipe of a video")
    # The container is named, since FFmpeg also knows formats that are lists of other files to open.
    with av.open(file, format=container) as video:
        if not video.streams.video:
            raise ImageError("there is no video in it. Download or save it again.")
        entries: dict[str, str] = {key.lower(): value for key, value in video.metadata.items()}
        return entries.get("comment", "")
