"""One model at work for the page: it opens photos, edits them, interpolates between images and samples new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.workload import Workload
from ddim_edit.directions import Direction, directions_in, packaged_directions
from ddim_edit.editor import Editor
from ddim_edit.images import (
    Crop,
    Face,
    InputImage,
    Photograph,
    can_find_faces,
    default_crop,
    detect_faces,
    read,
    to_uint8,
)
from ddim_edit.latents.interpolation import plan_path
from ddim_edit.latents.latent import Latent, Latents
from ddim_edit.metrics.reconstruction import Reconstruction
from ddim_edit.ui.crop_choice import CENTRE, CropChoice
from ddim_edit.ui.model_queue import ModelQueue, ProgressCallback, ignore_progress

CONFIG = InversionConfig()
KEPT = 8
"""Parts of one photo whose latents are kept."""


@dataclass(frozen=True)
class EditSettings:
    """How to edit a photo.

    Args:
        level: of the directions.
        strengths: in standard deviations by direction, as `directions_by_level` names them; rounded to what a command
            line shows.
        keep: directions whose scores stay; one that is moved itself is not kept.
    """

    level: str = ""
    strengths: Mapping[str, float] = field(default_factory=dict)
    keep: Sequence[str] = ()

    @property
    def moved(self) -> dict[str, float]:
        """The strengths that are not 0."""
        rounded = {name: round(float(strength), 3) for name, strength in self.strengths.items()}
        return {name: strength for name, strength in rounded.items() if strength}

    @property
    def kept(self) -> list[str]:
        """The directions that are kept."""
        return [name for name in self.keep if name not in self.moved]


@dataclass(frozen=True, eq=False)
class LevelInversion:
    """The latents of a photo at the level of an edit, and what a round trip through them loses of it."""

    latents: Latents
    residual: Tensor


@dataclass(frozen=True, eq=False)
class Photo:
    """The part of a photo that was opened: as the model sees it, through x_T and back.

    Attributes:
        source: the photo.
        image: what the model sees of it.
        crop: that part.
        reconstruction: of the image, through x_T.
        inversions: its latents at the levels of edits, as far as they were needed.
    """

    source: "SourcePhoto"
    image: InputImage
    crop: Crop
    reconstruction: Reconstruction
    inversions: dict[InversionConfig, LevelInversion] = field(default_factory=dict)

    @property
    def scores(self) -> Mapping[str, Any]:
        """Scores of the round trip through x_T."""
        return self.reconstruction.scores[0]


@dataclass(frozen=True, eq=False)
class SourcePhoto:
    """A photo as it was uploaded.

    Attributes:
        file: where it lies.
        photograph: all of its pixels.
        faces: in it, the largest first; empty where the model is none of faces, or OpenCV is not installed.
        opened: the parts that were opened.
    """

    file: Path
    photograph: Photograph
    faces: Sequence[Face] = ()
    opened: dict[Crop, Photo] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(Height, width) in pixels."""
        width, height = self.photograph.image.size
        return height, width


class CroppedPhoto(NamedTuple):
    """A photo to interpolate from, and the part of it that the model sees."""

    source: SourcePhoto
    crop: Crop


class EditedPixels(NamedTuple):
    """What became of a photo.

    Attributes:
        pixels: the part that the model sees, uint8 [3, H, W].
        photograph: the whole photo; None where that part is all of it.
    """

    pixels: Tensor
    photograph: Photograph | None


@dataclass(frozen=True, eq=False)
class InterpolatedFrames:
    """Images uint8 [N, 3, H, W] interpolated between latents."""

    images: Tensor
    latents: Latents
    frames: int
    loop: bool

    @property
    def one_way(self) -> Tensor:
        """The images without the way back of a loop."""
        return self.images[: (len(self.latents) - 1) * (self.frames - 1) + 1]


@dataclass(frozen=True, eq=False)
class CombinedImage:
    """An image uint8 [3, H, W] that was combined of others, and its latent."""

    pixels: Tensor
    latent: Latent


class Session:
    """Does for the page what commands do, with the same images, and keeps latents in between.

    Args:
        editor: with `queue` as its `on_evaluation`.
        directions: as `directions_by_level` finds them; empty where a model has none.
        queue: shares the model among tabs.
    """

    def __init__(self, editor: Editor, directions: Mapping[str, Mapping[str, Direction]], queue: ModelQueue) -> None:
        self.editor = editor
        self.directions = directions
        self._queue = queue
        # Of the last mixture alone: after a change of its options the same images come again.
        self._inverted: dict[tuple[CroppedPhoto, ...], Latents] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(Height, width) of the model's images."""
        return self.editor.model.size

    @cached_property
    def default_crop(self) -> Crop:
        """The crop of commands that are told nothing of it."""
        return default_crop(self.editor.model.face_template)

    def load(self, file: Path) -> SourcePhoto:
        """Read a photo and find its faces; ImageError as `images.read`."""
        looks_for_faces = self.editor.model.face_template is not None and can_find_faces()
        photograph = Photograph.open(file)
        return SourcePhoto(file, photograph, detect_faces(file) if looks_for_faces else ())

    def usual_choice(self, source: SourcePhoto) -> CropChoice:
        """Return the choice that is the default of commands: the largest face, or the centre.

        Images of the model's own size stay as they are.
        """
        has_face = bool(source.faces) and source.shape != self.size
        return CropChoice.of_face(1) if has_face else CropChoice(CENTRE)

    def crop(self, source: SourcePhoto, choice: CropChoice) -> Crop:
        """Return what a choice keeps of a photo: the default of commands wherever that is the same."""
        if not choice.kind or choice.kind == self.usual_choice(source).kind:
            return self.default_crop
        return choice.crop(source.shape, self.size, self.editor.model.face_template)

    def open(
        self, source: SourcePhoto, choice: CropChoice | None = None, on_progress: ProgressCallback = ignore_progress
    ) -> Photo:
        """Invert a part of a photo and decode it again, the first time; ImageError for a crop that does not fit."""
        crop = self.crop(source, choice or CropChoice())
        if crop not in source.opened:
            image = read(source.file, self.size, crop)
            with self._queue.job(2 * CONFIG.steps, on_progress):
                source.opened[crop] = Photo(source, image, crop, self.editor.reconstruct([image], CONFIG))
            if len(source.opened) > KEPT:
                del source.opened[next(iter(source.opened))]
        return source.opened[crop]

    def edit(
        self, photo: Photo, settings: EditSettings, on_progress: ProgressCallback = ignore_progress
    ) -> EditedPixels:
        """Return the edited photo, as `Editor.edit` and `Photograph.paste` make it; the photo itself if nothing moves.

        Raises:
            DirectionMismatchError: directions of another model; ArgumentError: ones that leave no freedom.
        """
        whole = photo.source.photograph if photo.image.is_reduced else None
        if not settings.moved:
            return EditedPixels(photo.image.pixels, whole)
        directions = self.directions[settings.level]
        first = next(directions[name] for name in settings.moved)
        config = first.config
        schedule = self.editor.model.schedule
        workload = config.decoding_workload(schedule, detail=1.0) + Workload.exactly(first.evaluations)
        # Inverting and decoding once, to see what is lost, is done only the first time at a level.
        if config not in photo.inversions:
            workload += replace(config, check=True).inversion_workload(schedule)
        with self._queue.job(workload.expected, on_progress):
            if config not in photo.inversions:
                made = self.editor.reconstruct([photo.image], config)
                photo.inversions[config] = LevelInversion(made.latents, made.originals - made.decoded)
            inversion = photo.inversions[config]
            strengths = {directions[name]: strength for name, strength in settings.moved.items()}
            keep = [directions[name] for name in settings.kept]
            edited = self.editor.edit(inversion.latents, strengths, keep=keep) + inversion.residual
        return EditedPixels(to_uint8(edited[0]), whole and whole.paste(photo.image, edited[0]))

    def interpolate(
        self,
        photos: Sequence[CroppedPhoto],
        frames: int,
        loop: bool,
        on_progress: ProgressCallback = ignore_progress,
    ) -> InterpolatedFrames:
        """Interpolate from each image to the next, and back to the first in a loop.

        Raises:
            ArgumentError: fewer than two images or frames; ImageError for a crop that does not fit.
        """
        points = set(plan_path(len(photos), frames, loop))
        between = sum(0 < point.w < 1 for point in points)
        missing = self._read_missing(photos)
        schedule = self.editor.model.schedule
        workload = len(missing) * CONFIG.inversion_workload(schedule)
        workload += (len(points) - between) * CONFIG.decoding_workload(schedule)
        workload += between * CONFIG.decoding_workload(schedule, detail=0.0)
        with self._queue.job(workload.expected, on_progress):
            latents = self._invert(photos, missing)
            path = self.editor.interpolate(latents, frames, loop=loop)
            # On the way back between two images every latent comes again.
            different = list(dict.fromkeys(path))
            decoded = dict(zip(different, to_uint8(self.editor.decode(different)), strict=True))
        return InterpolatedFrames(torch.stack([decoded[latent] for latent in path]), latents, frames, loop)

    def combine(
        self,
        photos: Sequence[CroppedPhoto],
        weights: Sequence[float],
        on_progress: ProgressCallback = ignore_progress,
    ) -> CombinedImage:
        """Combine images with weights.

        Raises:
            ArgumentError: weights that are all 0, or latents that cancel; ImageError for a crop that does not fit.
        """
        missing = self._read_missing(photos)
        schedule = self.editor.model.schedule
        workload = len(missing) * CONFIG.inversion_workload(schedule) + CONFIG.decoding_workload(schedule, detail=0.0)
        with self._queue.job(workload.expected, on_progress):
            latent = self.editor.combine(self._invert(photos, missing), weights)
            return CombinedImage(to_uint8(self.editor.decode(latent)), latent)

    def _read_missing(self, photos: Sequence[CroppedPhoto]) -> dict[CroppedPhoto, InputImage]:
        """Return the images of photos whose latents are not those of the last mixture."""
        if tuple(photos) in self._inverted:
            return {}
        return {photo: read(photo.source.file, self.size, photo.crop) for photo in dict.fromkeys(photos)}

    def _invert(self, photos: Sequence[CroppedPhoto], missing: Mapping[CroppedPhoto, InputImage]) -> Latents:
        """Return the latents of photos, and keep them; the caller holds the queue."""
        key = tuple(photos)
        if missing:
            found = dict(zip(missing, self.editor.invert(list(missing.values()), CONFIG), strict=True))
            self._inverted = {key: Latents(found[photo] for photo in photos)}
        return self._inverted[key]

    def sample(self, count: int, seed: int, on_progress: ProgressCallback = ignore_progress) -> Tensor:
        """Return new images of the seeds from this one on, uint8 [count, 3, H, W]."""
        with self._queue.job(CONFIG.steps * count, on_progress):
            return to_uint8(self.editor.sample(count, seed, CONFIG))


def directions_by_level(model: str, folder: Path | None = None) -> dict[str, dict[str, Direction]]:
    """Return the directions packaged for a model, or those in a folder, by level and by name on a command line.

    Raises:
        DirectionError: a folder without directions, or a file that cannot be read.
    """
    files = packaged_directions(model) if folder is None else directions_in(folder)
    levels: dict[str, dict[str, Direction]] = {}
    for name, file in files.items():
        direction = Direction.load(file)
        levels.setdefault(direction.level, {})[name if folder is None else str(file.resolve())] = direction
    return levels
