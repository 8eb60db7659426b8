"""One model at work for the page: it opens photos, edits them, interpolates between images and samples new ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.directions import Direction, directions_in, packaged_directions
from ddim_edit.editor import Editor
from ddim_edit.images import CentreSquare, Crop, InputImage, read, read_all, to_uint8
from ddim_edit.latents.interpolation import plan_path
from ddim_edit.latents.latent import Latents
from ddim_edit.metrics.reconstruction import Reconstruction

ProgressCallback = Callable[[float], object]
"""Called with how much of a long call is done, from 0 to 1."""
CONFIG = InversionConfig()


def ignore_progress(share: float) -> None:
    """Do nothing."""


class ProgressCounter:
    """Turns network evaluations into progress, for one callback at a time."""

    def __init__(self) -> None:
        self._callback: ProgressCallback = ignore_progress
        self._expected = 1
        self._done = 0

    def __call__(self, images: int) -> None:
        """Count an evaluation of the network on this many images."""
        self._done += images
        self._callback(min(self._done / self._expected, 1.0))

    @contextmanager
    def expect(self, evaluations: int, callback: ProgressCallback) -> Iterator[None]:
        """Report the share of the expected evaluations, at most 1, to a callback."""
        self._callback = callback
        self._expected = max(evaluations, 1)
        self._done = 0
        try:
            yield
        finally:
            self._callback = ignore_progress


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
    """A photo that was opened: as the model sees it, through x_T and back, and its latents at the levels of edits."""

    image: InputImage
    crop: Crop
    reconstruction: Reconstruction
    inversions: dict[InversionConfig, LevelInversion] = field(default_factory=dict)

    @property
    def scores(self) -> Mapping[str, Any]:
        """Scores of the round trip through x_T."""
        return self.reconstruction.scores[0]


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


class Session:
    """Does for the page what commands do, with the same images, and keeps latents in between.

    Args:
        editor: with `progress` as its `on_evaluation`.
        directions: as `directions_by_level` finds them; empty where a model has none.
        progress: counts the evaluations.
    """

    def __init__(
        self, editor: Editor, directions: Mapping[str, Mapping[str, Direction]], progress: ProgressCounter
    ) -> None:
        self.editor = editor
        self.directions = directions
        self._progress = progress
        # Of the last interpolation alone: after a change of its options the same images come again.
        self._inverted: dict[tuple[Path, ...], Latents] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(Height, width) of the model's images."""
        return self.editor.model.size

    def open(self, file: Path, crop: Crop | None = None, on_progress: ProgressCallback = ignore_progress) -> Photo:
        """Invert a photo and decode it again; ImageError as `images.read`."""
        crop = crop or CentreSquare()
        image = read(file, self.size, crop)
        with self._progress.expect(2 * CONFIG.steps, on_progress):
            return Photo(image, crop, self.editor.reconstruct([image], CONFIG))

    def edit(self, photo: Photo, settings: EditSettings, on_progress: ProgressCallback = ignore_progress) -> Tensor:
        """Return the edited photo, uint8 [3, H, W], as `Editor.edit` makes it; the photo itself if nothing is moved.

        Raises:
            DirectionMismatchError: directions of another model; ArgumentError: ones that leave no freedom.
        """
        if not settings.moved:
            return photo.image.pixels
        directions = self.directions[settings.level]
        config = next(directions[name].config for name in settings.moved)
        steps = len(directions[next(iter(settings.moved))].recipe.times) - 1
        # Inverting and decoding once, to see what is lost, is done only the first time at a level.
        runs = 1 if config in photo.inversions else 3
        with self._progress.expect(runs * steps, on_progress):
            if config not in photo.inversions:
                made = self.editor.reconstruct([photo.image], config)
                photo.inversions[config] = LevelInversion(made.latents, made.originals - made.decoded)
            inversion = photo.inversions[config]
            strengths = {directions[name]: strength for name, strength in settings.moved.items()}
            keep = [directions[name] for name in settings.kept]
            edited = self.editor.edit(inversion.latents, strengths, keep=keep)
        return to_uint8(edited + inversion.residual)[0]

    def interpolate(
        self, files: Sequence[Path], frames: int, loop: bool, on_progress: ProgressCallback = ignore_progress
    ) -> InterpolatedFrames:
        """Interpolate from each image to the next, and back to the first in a loop.

        Raises:
            ArgumentError: fewer than two images or frames; ImageError as `images.read`.
        """
        key = tuple(files)
        inversions = 0 if key in self._inverted else len(set(files))
        decodings = len(set(plan_path(len(files), frames, loop)))
        with self._progress.expect(CONFIG.steps * (inversions + decodings), on_progress):
            if inversions:
                images = {file: image for file, image in read_all(dict.fromkeys(key), self.size) if image is not None}
                found = dict(zip(images, self.editor.invert(list(images.values()), CONFIG), strict=True))
                self._inverted = {key: Latents(found[file] for file in key)}
            latents = self._inverted[key]
            path = self.editor.interpolate(latents, frames, loop=loop)
            # On the way back between two images every latent comes again.
            different = list(dict.fromkeys(path))
            decoded = dict(zip(different, to_uint8(self.editor.decode(different)), strict=True))
        return InterpolatedFrames(torch.stack([decoded[latent] for latent in path]), latents, frames, loop)

    def sample(self, count: int, seed: int, on_progress: ProgressCallback = ignore_progress) -> Tensor:
        """Return new images of the seeds from this one on, uint8 [count, 3, H, W]."""
        with self._progress.expect(CONFIG.steps * count, on_progress):
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
