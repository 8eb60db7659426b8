"""Photographs in full: their own pixels and colours, in which changes of a frame are put, and their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image

from ddim_edit.errors import ArgumentError
from ddim_edit.images.arrays import image_from_array
from ddim_edit.images.colour import from_srgb, to_srgb, usable_profile
from ddim_edit.images.colour_tags import find_encodings
from ddim_edit.images.compositing import NOISE, FrameChange, RegionChange, enlarge_change, face_mask, region_mask
from ddim_edit.images.opening import (
    DECODING,
    TURNS,
    decoding_cost,
    identify,
    read_orientation,
    reporting_bad_files,
)
from ddim_edit.images.photograph_files import find_photograph_format
from ddim_edit.images.pixels import from_image
from ddim_edit.images.recipe import KEYWORD, recipe_to_text
from ddim_edit.images.sources import UNNAMED, ImageSource, copy_image, open_source, require_pixels
from ddim_edit.images.writing import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.images.reading import InputImage

KEPT_MODES = ("L", "LA", "RGB", "RGBA", "I;16")
"""Modes whose pixels are changed as they are."""
GREY_MODES = ("1", "L", "LA", "La", "I;16")
SIMPLER_MODES = {"1": "L", "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}
"""What other modes are converted to without a loss."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, as Pillow converts."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph in full size, upright, in its own colours.

    Attributes:
        image: its pixels.
        profile: its colour profile, if it has one.
        exif: its EXIF block without orientation and thumbnail, if it has one.
        texts: text chunks of a PNG file.
        notes: what is not kept of its file, in words.

    Examples:
        >>> from importlib import resources
        >>> from ddim_edit.images import Photograph, read
        >>> file = resources.files("ddim_edit.assets") / "images" / "astronaut.png"
        >>> photograph, frame = Photograph.open(str(file)), read(str(file), 64)
        >>> same = photograph.paste(frame, frame.tensor)
        >>> same.image.size, same.to_pil().tobytes() == photograph.to_pil().tobytes()
        ((512, 512), True)
    """

    image: Image.Image
    profile: bytes | None = None
    exif: Image.Exif | None = None
    texts: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, source: ImageSource) -> Photograph:
        """Open an image of any form that `read` takes; of an animation in a file, the first frame.

        Raises:
            ImageError: a file that cannot be read as an image.
            ArgumentError: an array that cannot be an image.
        """
        if isinstance(source, np.ndarray):
            source = image_from_array(source)
        if isinstance(source, Image.Image):
            # As it is, and not as `read` sees it: in its own colours.
            with reporting_bad_files(UNNAMED):
                require_pixels(source)
                with DECODING.reserve(decoding_cost(source)):
                    return _decode(copy_image(source))
        with open_source(source) as opened:
            image = identify(opened.file)
            with DECODING.reserve(decoding_cost(image)):
                return _decode(image)

    def paste(self, frame: InputImage, edited: Tensor, noise: float = NOISE) -> Photograph:
        """Return the photograph with the change of a frame.

        Detail is added inside a smooth mask: an ellipse for an aligned face, for other frames all of it, which fades
        along sides inside the photograph. A change of light goes beyond. All other pixels keep every bit.

        Args:
            frame: the part of this photograph that was edited, as `read` returns it.
            edited: what became of it, [3, H, W] in [-1, 1], of the frame's size. Where an edit leaves the frame as it
                is, so is the photograph.
            noise: levels of 255 below which a change is taken for noise.

        Raises:
            ArgumentError: a frame of an image of another size, or another shape than the frame's.
        """
        whole = (frame.preprocessing["original_width"], frame.preprocessing["original_height"])
        if whole != self.image.size:
            raise ArgumentError(
                f"The frame is of an image of {whole[0]}x{whole[1]} pixels, and the photograph has "
                f"{self.image.size[0]}x{self.image.size[1]}. Take a frame of this photograph."
            )
        if edited.shape != frame.pixels.shape:
            raise ArgumentError(
                f"The edited frame must have shape {list(frame.pixels.shape)}, not {list(edited.shape)}."
            )
        size = (edited.shape[1], edited.shape[2])
        mask = face_mask(size) if frame.face is not None else region_mask(size, frame.alignment, self.image.size)
        change = FrameChange.between(frame.tensor, edited, mask, noise)
        if not change.is_lit and not change.detail.any():
            return self
        region = enlarge_change(change, frame.alignment, self.image.size)
        return self if region is None else replace(self, image=self._changed(region))

    def preview(self, longest: int, box: tuple[int, int, int, int] | None = None) -> Tensor:
        """Return the photograph in sRGB, uint8 [3, h, w], reduced to at most `longest` pixels a side.

        Args:
            longest: pixels of the longer side, at most.
            box: the part to show: left, top, right and bottom, inside the photograph; all of it if left out.

        Examples:
            >>> from PIL import Image
            >>> list(Photograph(Image.new("RGB", (400, 300))).preview(100).shape)
            [3, 75, 100]
        """
        left, top, right, bottom = box or (0, 0, *self.image.size)
        scale = min(1.0, longest / max(right - left, bottom - top))
        size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        if self.image.mode == "I;16":  # which Pillow cannot resize well
            levels = np.asarray(self.image)[top:bottom, left:right] / np.float32(257)
            part = Image.fromarray(np.rint(levels).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
        else:
            # Reducing by whole pixels first is as good and much faster for a photograph of many megapixels.
            part = self.image.resize(size, Image.Resampling.LANCZOS, (left, top, right, bottom), reducing_gap=2.0)
        return from_image(to_srgb(part, [], [] if self.profile is None else [self.profile]))

    def to_pil(self) -> Image.Image:
        """Return a copy as a Pillow image, with its colour profile in `info`."""
        image = self.image.copy()
        image.info = {} if self.profile is None else {"icc_profile": self.profile}
        return image

    def save(
        self, path: str | PathLike[str], recipe: Mapping[str, Any] | None = None, metadata: bool = True
    ) -> tuple[str, ...]:
        """Write the photograph: .png and .webp keep every pixel, .jpg and .heic are of high quality.

        Args:
            path: the file to write or to replace; missing folders are created.
            recipe: what `read_recipe` will return, of JSON types.
            metadata: whether to keep EXIF and text chunks; the colour profile is always kept.

        Returns:
            What could not be kept, in words.

        Raises:
            ImageError: another suffix, or a file that cannot be written; no partial file is left behind.
            MissingExtraError: .heic without its plugin.
        """
        path = Path(path)
        form = find_photograph_format(path)
        notes: list[str] = []
        image = self.image
        if image.mode not in form.modes:
            lost = {"I;16": "16 bits reduced to 8", "LA": "transparency", "RGBA": "transparency"}
            notes.append(f"{form.name} cannot keep {lost.get(image.mode, image.mode)}")
            image = _simplify(image, form.modes)
        exif = self.exif if metadata else None
        with replacing(path) as temporary:
            form.save(image, temporary, recipe_to_text(recipe), self.profile, exif, self.texts if metadata else None)
        return tuple(notes)

    def _changed(self, change: RegionChange) -> Image.Image:
        """Return the pixels with a region changed, in their own colours."""
        left, top, right, bottom = change.box
        own = np.asarray(self.image)[top:bottom, left:right]
        is_grey = self.image.mode in ("L", "LA", "I;16")
        levels = own[..., None] if own.ndim == 2 else own
        colours = levels[..., : 1 if is_grey else 3]
        scale = 257 if self.image.mode == "I;16" else 1
        if is_grey:
            changed = _mean_grey(change.apply(np.repeat(colours / np.float32(scale), 3, axis=2))) * scale
        else:
            changed = self._change_colours(change, colours)
        top_level = 255 * scale
        new = np.array(levels)
        new[..., : colours.shape[2]] = np.rint(changed).clip(0, top_level).astype(own.dtype)
        whole = np.array(self.image)
        whole[top:bottom, left:right] = new.reshape(own.shape)
        return Image.fromarray(whole)

    def _change_colours(self, change: RegionChange, colours: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return changed colours [h, w, 3], which are in the photograph's own space, as the change is not."""
        part = Image.fromarray(np.ascontiguousarray(colours))
        encodings = [] if self.profile is None else [self.profile]
        shown = to_srgb(part, [], encodings)
        if np.array_equal(np.asarray(shown), colours):
            return change.apply(colours.astype(np.float32))
        # What the change makes of the colours as they are shown is taken back to the own space, and of that the
        # difference: the conversion alone, there and back, would move pixels that do not change.
        after = change.apply(np.asarray(shown, dtype=np.float32))
        there, back = Image.fromarray(np.rint(after).clip(0, 255).astype(np.uint8)), shown
        own_after, own_before = (np.asarray(from_srgb(each, encodings), dtype=np.float32) for each in (there, back))
        changed: np.ndarray[Any, Any] = colours + own_after - own_before
        return changed


def _mean_grey(colours: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    grey: np.ndarray[Any, Any] = (colours * np.array(LUMA, dtype=np.float32)).sum(axis=2, keepdims=True)
    return grey


def _decode(image: Image.Image) -> Photograph:
    notes: list[str] = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"only the first of {frames} frames is kept")
    # Pillow has no such mode: it is only in what its decoder is told.
    if image.mode in ("RGB", "RGBA") and ";16" in str(getattr(image, "tile", "")):
        notes.append("16 bits per colour are reduced to 8")
    encodings = list(find_encodings(image, notes))  # before a TIFF is loaded, which closes it
    image.load()
    turn = TURNS.get(read_orientation(image))
    # Also of colours that other tags than a profile tell of, which do not stay with the pixels.
    profile = usable_profile(encodings, is_grey=image.mode in GREY_MODES)
    has_transparency = "transparency" in image.info
    exif = _kept_exif(image)
    texts = {name: str(text) for name, text in getattr(image, "text", {}).items() if name != KEYWORD}
    if image.mode in SIMPLER_MODES or (image.mode in ("L", "RGB") and has_transparency):
        simpler = SIMPLER_MODES.get(image.mode, image.mode)
        if has_transparency:
            simpler = "LA" if simpler == "L" else "RGBA"
        pixels = image.convert(simpler)
    elif image.mode.startswith("I;16"):
        pixels = Image.fromarray(np.asarray(image).astype(np.uint16))
    elif image.mode not in KEPT_MODES:
        found: list[str] = []
        pixels = to_srgb(image, found, encodings)
        notes += found
        profile = None
    else:
        pixels = image.copy()  # not one of a file, which would stay open
    if turn is not None:
        pixels = pixels.transpose(turn)
    pixels.info = {}
    return Photograph(pixels, profile, exif, texts or None, tuple(notes))


def _kept_exif(image: Image.Image) -> Image.Exif | None:
    """Return the EXIF block without what is no longer true: the orientation, and the recipe of an earlier output."""
    try:
        exif = image.getexif()
        exif.pop(ExifTags.Base.Orientation, None)
        if exif.get(ExifTags.Base.Software) == KEYWORD:
            for tag in (ExifTags.Base.Software, ExifTags.Base.ImageDescription):
                exif.pop(tag, None)
        return exif if len(exif) else None
    except Exception:  # a damaged EXIF block must not cost the image
        return None


def _simplify(image: Image.Image, modes: tuple[str, ...]) -> Image.Image:
    """Return an image in a mode that a format knows, laid over white where it cannot be transparent."""
    if image.mode == "I;16":
        image = Image.fromarray(np.rint(np.asarray(image) / np.float32(257)).astype(np.uint8))
    if image.mode in ("LA", "RGBA") and image.mode not in modes:
        if image.mode == "LA" and "RGBA" in modes:
            return image.convert("RGBA")
        solid = image.mode.removesuffix("A")
        image = Image.composite(image.convert(solid), Image.new(solid, image.size, "white"), image.getchannel("A"))
    return image if image.mode in modes else image.convert("RGB")
