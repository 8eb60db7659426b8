"""Read images into what a network takes, whatever form they have: files, their bytes, Pillow images and arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.images.alignment import Similarity, warp
from ddim_edit.images.crop import AutoCrop, Box, CentreSquare, Crop, FaceCrop, Fit, PlacedCrop, apply_crop
from ddim_edit.images.face_templates import FaceTemplate
from ddim_edit.images.faces import Face, find_faces, refine_face
from ddim_edit.images.opening import DECODING, decoding_cost, identify, load_upright
from ddim_edit.images.pixels import from_image, to_float
from ddim_edit.images.recipe import SVG_HEAD, recipe_from_comment, recipe_from_image, recipe_from_svg
from ddim_edit.images.sources import ImageSource, OpenedSource, open_source
from ddim_edit.images.video import find_container, read_comment
from ddim_edit.io import schema

if TYPE_CHECKING:
    from torch import Tensor

OVERSAMPLING = 4
"""How many pixels of a shrunk image there are at least, along each side, for one of the network."""
FACES_SEEN_AT = 1280
"""Longest side, in pixels, down to which a large image is shrunk before its faces are looked for and measured."""
DRAFT_ABOVE = 4_000_000
"""Pixels above which a JPEG file is shrunk while it is decoded, if its face is large enough then."""
UNMOVED = Similarity()
FAR_TOO_SMALL = 8
"""Enlargement above which an image is warned of: fewer than one in 64 of its pixels would be its own."""


@dataclass(frozen=True, eq=False)
class InputImage:
    """An image as a network takes it, and where it came from; the file itself is not kept.

    Attributes:
        pixels: uint8 [3, H, W], upright and in sRGB.
        name: the file's name without its suffix; None for an image in memory that was given none.
        source: SHA-256 of the file's bytes, in hexadecimal; of a Pillow image or an array, of its upright sRGB pixels.
        notes: what had to be done to the file's image, in words and in order.
        preprocessing: crop and original size, for a recipe.
        enlargement: how many times the kept part was enlarged, below 1 where it was reduced.
        alignment: the map from the upright image, in full, into the network's frame.
        face: the face that the frame was aligned to, in pixels of the upright image; None without one.
        face_missing: whether a face was looked for in vain, so that the centre square was taken.
    """

    pixels: Tensor
    name: str | None
    source: str
    notes: tuple[str, ...]
    preprocessing: dict[str, Any]
    enlargement: float = 1.0
    alignment: Similarity = UNMOVED
    face: Face | None = None
    face_missing: bool = False

    def __repr__(self) -> str:
        height, width = self.pixels.shape[-2:]
        done = f": {', '.join(self.notes)}" if self.notes else ""
        return f"InputImage({self.name or 'unnamed'}, {width}x{height}{done})"

    def _repr_png_(self) -> bytes:
        from ddim_edit.images.image_tensor import to_png

        return to_png(self.tensor)

    @property
    def is_reduced(self) -> bool:
        """Whether the image is larger than the network's, so that a result belongs in it by `Photograph.paste`."""
        width, height = self.preprocessing["original_width"], self.preprocessing["original_height"]
        return bool(width > self.pixels.shape[2] or height > self.pixels.shape[1])

    @property
    def caution(self) -> str | None:
        """What to warn of: a face that was not found, or pixels of which next to nothing is the image's own."""
        texts = []
        if self.face_missing:
            texts.append("no face was found, so the centre square is used.")
        if self.enlargement > FAR_TOO_SMALL:
            width, height = self.preprocessing["original_width"], self.preprocessing["original_height"]
            part = "an image" if self.face is None else "the face in an image"
            texts.append(
                f"{part} of {width}x{height} pixels was enlarged {self.enlargement:.3g} times for a model of "
                f"{self.pixels.shape[-1]}x{self.pixels.shape[-2]}, so that most of it is made up. Use a larger one."
            )
        return " ".join(texts) or None

    @property
    def tensor(self) -> Tensor:
        """The pixels as float32 [3, H, W] in [-1, 1]."""
        return to_float(self.pixels)


def read(
    source: ImageSource, size: int | tuple[int, int], crop: Crop | None = None, name: str | None = None
) -> InputImage:
    """Read an image for a network of input `size`; of an animation in a file, the first frame.

    Depth is reduced to 8 bit, transparency laid over white, colours converted to sRGB, the image turned upright by its
    EXIF tag, cropped, and resized with an antialiased Lanczos filter. An image that needs none of this keeps every bit.
    Images of more than 25 million pixels are first shrunk by a whole factor, to four times the size that is needed.

    Args:
        source: the path or the bytes of a PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, AVIF or JPEG 2000 file of up to 178
            million pixels, or such a file open in binary mode, which is read from its beginning; with the extras `heic`
            and `jxl` also HEIC and JPEG XL. Or a Pillow image of any mode, whose EXIF orientation and colour profile
            count as those of a file do. Or an sRGB array [H, W] or [H, W, C], uint8 or floats in [0, 1], with 1, 3 or 4
            channels: grey, RGB, or RGB with alpha.
        size: (height, width) in pixels, or the side of a square.
        crop: the part of the image to keep, by default the centre square.
        name: what to call an image in memory.

    Raises:
        ImageError: a file that cannot be read as an image, that the crop does not fit in, or that has no such face.
        MissingExtraError: a crop to a face, and OpenCV is not installed.
        ArgumentError: a size below 1, or an array that cannot be an image.

    Examples:
        >>> from importlib import resources
        >>> from ddim_edit.images import read
        >>> image = read(str(resources.files("ddim_edit.assets") / "images" / "astronaut.png"), 64)
        >>> list(image.pixels.shape), image.notes
        ([3, 64, 64], ('resized from 512x512 to 64x64',))
    """
    target = _width_and_height(size)
    crop = crop or CentreSquare()
    with open_source(source, name) as opened:
        if isinstance(crop, FaceCrop | AutoCrop):
            framed = _frame_chosen_face(opened.file, crop, target)
        else:
            framed = _frame_region(opened.file, crop, target)
        return framed.to_input(opened, opened.digest())


def read_faces(source: ImageSource, size: int | tuple[int, int], template: FaceTemplate) -> list[InputImage]:
    """Read all faces of an image, each aligned as by a `FaceCrop`, the largest first.

    Args:
        source: as for `read`.
        size: (height, width) in pixels, or the side of a square.
        template: where the model expects the landmarks.

    Raises:
        ImageError: a file that cannot be read as an image, or that has no face.
        MissingExtraError: OpenCV is not installed.
        ArgumentError: a size below 1.
    """
    target = _width_and_height(size)
    with open_source(source) as opened:
        look = _look_for_faces(opened.file)
        FaceCrop(template).index(look.faces)  # refuses an image without any
        framed = [_frame_face(opened.file, look, index, template, target) for index in range(len(look.faces))]
        digest = opened.digest()
        return [each.to_input(opened, digest) for each in framed]


def read_recorded(source: ImageSource, size: int | tuple[int, int], preprocessing: Mapping[str, Any]) -> InputImage:
    """Read an image cropped as the recipe of a latent records it, without looking for faces again.

    Args:
        source: as for `read`.
        size: (height, width) in pixels, or the side of a square.
        preprocessing: that of an `InputImage`, or of the origin of a latent.

    Raises:
        ImageError: a file that cannot be read as an image, or a record that does not fit it.
        ArgumentError: a size below 1, or a record that cannot be of a crop.
    """
    target = _width_and_height(size)
    recorded = _parse_preprocessing(preprocessing)
    with open_source(source) as opened:
        if isinstance(recorded, PlacedCrop):
            framed = _frame_region(opened.file, recorded, target)
            found = framed.preprocessing
            _require_recorded_size((found["original_width"], found["original_height"]), preprocessing)
        else:
            factor = max(1, math.floor(1 / recorded.scale / OVERSAMPLING))
            image, full, notes = _load_shrunk(opened.file, factor)
            _require_recorded_size(full, preprocessing)
            frame = warp(image, recorded.of_part(0, 0, image.width / full[0]), target)
            points = tuple((x, y) for x, y in preprocessing["landmarks"])
            face = Face((0.0, 0.0, float(full[0]), float(full[1])), points, preprocessing["score"])
            framed = _FramedImage(frame, notes, dict(preprocessing), recorded, recorded.scale, face)
        return framed.to_input(opened, opened.digest())


def detect_faces(source: ImageSource) -> list[Face]:
    """Return the faces in an image, in pixels of the upright image, the largest first.

    Args:
        source: as for `read`. An image that is turned by more than about 40 degrees without an EXIF tag has no faces.

    Raises:
        ImageError: a file that cannot be read as an image.
        MissingExtraError: OpenCV is not installed.

    Examples:
        >>> from importlib import resources
        >>> from ddim_edit.images import detect_faces
        >>> (face,) = detect_faces(str(resources.files("ddim_edit.assets") / "images" / "astronaut.png"))
        >>> len(face.landmarks), face.score > 0.8
        (5, True)
    """
    with open_source(source) as opened:
        look = _look_for_faces(opened.file)
        return [look.refine(index) for index in range(len(look.faces))]


_TRANSFORM = {
    "transform": schema.list_of(schema.number, 4),
    "landmarks": schema.list_of(schema.list_of(schema.number, 2), 5),
    "score": schema.number,
}
_BOX = dict.fromkeys(("x", "y", "size"), schema.integer)


def _parse_preprocessing(record: Mapping[str, Any]) -> PlacedCrop | Similarity:
    """Return the crop or the transform in a record, which may come from a file of another one.

    Raises:
        ArgumentError: there is none.
    """
    found = record.get("crop")
    crop: dict[str, Any] = found if isinstance(found, dict) else {}
    kind = crop.get("kind")
    if kind == "centre square":
        return CentreSquare()
    if kind == "fit":
        return Fit()
    if kind == "box" and schema.find_problem(crop, _BOX) is None:
        return Box(crop["x"], crop["y"], crop["size"])
    if kind == "face" and schema.find_problem(record, _TRANSFORM) is None:
        transform = Similarity.from_list(record["transform"])
        if 1e-6 < transform.scale < 1e6:
            return transform
    raise ArgumentError("The recipe does not say which part of its image was used. Invert the image again.")


def _require_recorded_size(full: tuple[int, int], preprocessing: Mapping[str, Any]) -> None:
    if full != (preprocessing.get("original_width"), preprocessing.get("original_height")):
        raise ImageError("the image has another size than the one in the recipe. Choose the right file.")


def _width_and_height(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ArgumentError(f"The size of an image must be at least 1x1 pixels, not {width}x{height}.")
    return width, height


class _FramedImage(NamedTuple):
    """What became of an image: the network's frame of it, and what there is to say of it, as in `InputImage`."""

    frame: Image.Image
    notes: list[str]
    preprocessing: dict[str, Any]
    alignment: Similarity
    enlargement: float
    face: Face | None = None
    face_missing: bool = False

    def to_input(self, opened: OpenedSource, digest: str) -> InputImage:
        return InputImage(
            pixels=from_image(self.frame),
            name=opened.name,
            source=digest,
            notes=(*opened.notes, *self.notes),
            preprocessing=self.preprocessing,
            enlargement=self.enlargement,
            alignment=self.alignment,
            face=self.face,
            face_missing=self.face_missing,
        )


def _frame_region(file: BufferedReader, crop: PlacedCrop, target: tuple[int, int]) -> _FramedImage:
    def spare(width: int, height: int) -> int:
        """Return by how much the image can be shrunk and still be several times as large as it is needed."""
        (left, top, right, bottom), inner = crop.place(width, height, target)
        return max(1, min((right - left) // inner[0], (bottom - top) // inner[1]) // OVERSAMPLING)

    notes: list[str] = []
    image = identify(file)
    with DECODING.reserve(decoding_cost(image)):
        upright, full = load_upright(image, spare, notes)
        return _frame_placed(upright, full, crop, target, notes)


def _frame_placed(
    upright: Image.Image, full: tuple[int, int], crop: PlacedCrop, target: tuple[int, int], notes: list[str]
) -> _FramedImage:
    frame = apply_crop(upright, full, crop, target, notes)
    place = crop.place(*full, target)
    (left, top, right, bottom), inner = place
    enlargement = max(inner[0] / (right - left), inner[1] / (bottom - top))
    preprocessing = {"crop": crop.as_dict(), **_full_size(full)}
    return _FramedImage(frame, notes, preprocessing, place.alignment(target), enlargement)


def _full_size(full: tuple[int, int]) -> dict[str, int]:
    return {"original_height": full[1], "original_width": full[0]}


class _FaceLook(NamedTuple):
    """The faces of an image at a first look.

    Attributes:
        image: as it was decoded, which may be smaller than in full.
        full: width and height in full.
        notes: what was done to it.
        seen: the image in which faces were looked for, which may be smaller still.
        faces: its faces, in pixels of that.
    """

    image: Image.Image
    full: tuple[int, int]
    notes: list[str]
    seen: Image.Image
    faces: list[Face]

    def refine(self, index: int) -> Face:
        """Return a face with its landmarks measured again, in pixels of the image in full."""
        across, down = self.full[0] / self.seen.width, self.full[1] / self.seen.height
        return refine_face(self.seen, self.faces[index]).scaled(across, down)


def _load_shrunk(file: BufferedReader, factor: int | None = None) -> tuple[Image.Image, tuple[int, int], list[str]]:
    """Return the image in a file, large ones shrunk by a factor, or as far as faces are seen, with its full size."""
    file.seek(0)
    notes: list[str] = []
    image = identify(file)
    with DECODING.reserve(decoding_cost(image)):
        upright, full = load_upright(
            image, lambda width, height: factor or max(1, max(width, height) // FACES_SEEN_AT), notes, DRAFT_ABOVE
        )
    return upright, full, notes


def _look_for_faces(file: BufferedReader) -> _FaceLook:
    return _find_faces_in(*_load_shrunk(file))


def _find_faces_in(image: Image.Image, full: tuple[int, int], notes: list[str]) -> _FaceLook:
    factor = max(image.size) // FACES_SEEN_AT
    seen = image.reduce(factor) if factor > 1 else image
    return _FaceLook(image, full, notes, seen, find_faces(seen))


def _frame_chosen_face(file: BufferedReader, crop: FaceCrop | AutoCrop, target: tuple[int, int]) -> _FramedImage:
    if isinstance(crop, FaceCrop):
        look = _look_for_faces(file)
        return _frame_face(file, look, crop.index(look.faces), crop.template, target)
    image, full, notes = _load_shrunk(file)
    if full == target:
        return _frame_placed(image, full, CentreSquare(), target, notes)
    look = _find_faces_in(image, full, notes)
    if look.faces or crop.face_required or crop.which != "largest":
        return _frame_face(file, look, crop.face.index(look.faces), crop.template, target)
    return _frame_region(file, CentreSquare(), target)._replace(face_missing=True)


def _frame_face(
    file: BufferedReader, look: _FaceLook, index: int, template: FaceTemplate, target: tuple[int, int]
) -> _FramedImage:
    face = look.refine(index)
    alignment = template.align(face.landmarks, target)
    image, full, notes = look.image, look.full, look.notes
    factor = max(1, math.floor(1 / alignment.scale / OVERSAMPLING))
    if full[0] > factor * image.width:  # shrunk too far for a small face
        image, _, notes = _load_shrunk(file, factor)
    frame = warp(image, alignment.of_part(0, 0, image.width / full[0]), target)
    preprocessing = {
        "crop": {"kind": "face", "template": template.name},
        "landmarks": [list(point) for point in face.landmarks],
        "score": face.score,
        "transform": alignment.to_list(),
        **_full_size(full),
    }
    which = f"face {index + 1} of {len(look.faces)}" if len(look.faces) > 1 else "face"
    side = round(target[0] / alignment.scale)
    note = f"{which} aligned, turned by {alignment.degrees:.0f} degrees, {side} to {target[0]} pixels wide"
    return _FramedImage(frame, [*notes, note], preprocessing, alignment, alignment.scale, face)


def read_recipe(path: str | PathLike[str]) -> dict[str, Any] | None:
    """Return the recipe that `write`, `write_animation` or a plot left in a file, or None if it holds none.

    Raises:
        ImageError: a file that is neither an image nor a video.
        MissingExtraError: a video without PyAV.
    """
    with open_source(path) as opened:
        file = opened.file
        container = find_container(file.peek(12))
        if container:
            return recipe_from_comment(read_comment(file, container))
        head = file.peek(SVG_HEAD)[:SVG_HEAD]
        return recipe_from_svg(head) if b"<svg" in head else recipe_from_image(identify(file))
