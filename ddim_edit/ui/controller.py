"""The logic of the page: files and texts to show after each action of the user; independent of widgets."""

import json
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.images import Similarity, enlarge, sheet, write, write_animation
from ddim_edit.io.digest import digest_file
from ddim_edit.latents.image_recipes import (
    EditRecipe,
    InterpolationRecipe,
    SampleRecipe,
    SampleSheetRecipe,
    command_line,
)
from ddim_edit.ui.crop_choice import CropChoice, preview, preview_scale, read_shape
from ddim_edit.ui.inversion_summary import summarize_inversion
from ddim_edit.ui.session import CONFIG, EditSettings, Photo, ProgressCallback, Session, ignore_progress

SHOWN = 512
"""Pixels an image on the page is at least wide, or the next whole multiple of its size."""
THUMBNAIL = 192
MOST_IMAGES = 4
"""Images that can be interpolated between."""
SEEDS = 2**32
FPS = 12
SCALE = 4
"""Frames per second and size of a pixel in the strips and animations of the page."""
SAMPLES = "faces"
"""Folder that the command line of sampled images writes to."""


class UploadedImage(NamedTuple):
    """An image file as it was uploaded, and the name it has on the user's machine."""

    path: Path
    name: str


class OpenedPhoto(NamedTuple):
    """A photo that was opened: a summary of its inversion, how to show it, and its latent to save."""

    photo: Photo
    upload: UploadedImage
    summary: str
    before: Path
    latent: Path


class EditedPhoto(NamedTuple):
    """A photo after an edit: how to show it, its files to save, and the command line that makes it."""

    after: Path
    image: Path
    recipe: Path
    command: str


class InterpolationFiles(NamedTuple):
    """A strip, an animation, and the command lines that make them."""

    strip: Path
    animation: Path
    command: str


class SampledImages(NamedTuple):
    """New images: thumbnails, files, all on a sheet, and the command line that makes the files."""

    thumbnails: list[Path]
    files: list[Path]
    sheet: Path
    command: str


class SampleSource(NamedTuple):
    """The command line that makes a sampled image, and the file that it writes."""

    command: str
    file: str


class PageController:
    """Turns what a user uploads and chooses into what the page shows.

    Args:
        session: does the work.
        folder: where files for the page are written; the caller removes it.
        flags: options that a command line needs to work with the same model.
    """

    def __init__(self, session: Session, folder: Path, flags: Sequence[str] = ()) -> None:
        self.session = session
        self._flags = list(flags)
        # A folder of its own for each file, as downloads are called after the file.
        self._folders = (folder / str(number) for number in count())
        # Sampled images may come back as uploads; then their command line comes first.
        self._samples: dict[str, SampleSource] = {}

    def show_crop(self, upload: UploadedImage, crop: CropChoice) -> Path:
        """Return a view of the whole photo with the part that the model will see; ImageError as `images.read`."""
        return self._write("view.png", preview(upload.path, read_shape(upload.path), crop, self.session.size))

    def centre_crop(self, upload: UploadedImage, crop: CropChoice, x: float, y: float) -> CropChoice:
        """Return the crop with its middle at (x, y) of the view, in pixels."""
        shape = read_shape(upload.path)
        scale = preview_scale(shape)
        return crop.centred(shape, self.session.size, x / scale, y / scale)

    def open(
        self,
        upload: UploadedImage,
        crop: CropChoice | None = None,
        on_progress: ProgressCallback = ignore_progress,
    ) -> OpenedPhoto:
        """Invert a photo and decode it again; ImageError as `images.read`."""
        region = (crop or CropChoice()).crop(read_shape(upload.path), self.session.size)
        photo = self.session.open(upload.path, region, on_progress)
        latent = self._new_path(f"{Path(upload.name).stem}.latent.safetensors")
        latent.parent.mkdir(parents=True)
        photo.reconstruction.latents[0].save(latent)
        before = self._write("before.png", _enlarge_to(photo.image.pixels, SHOWN))
        model = self.session.editor.model
        score = photo.scores.get("atypicality")
        problem = None if model.typicality is None else model.typicality.describe(score, model.name)
        summary = summarize_inversion(photo.scores, photo.image.notes, problem)
        return OpenedPhoto(photo, upload, summary, before, latent)

    def edit(
        self, opened: OpenedPhoto, settings: EditSettings, on_progress: ProgressCallback = ignore_progress
    ) -> EditedPhoto:
        """Edit a photo; errors as `Session.edit`."""
        pixels = self.session.edit(opened.photo, settings, on_progress)
        # A command line must name some direction, also where nothing is moved.
        first = list(self.session.directions.get(settings.level, ()))[:1]
        strengths = settings.moved or dict.fromkeys(first, 0.0)
        model = self.session.editor.model.name
        source = opened.photo.image.source
        edit = EditRecipe(strengths, tuple(settings.kept), False, (1.0,), model, source)
        image = self._write(f"{Path(opened.upload.name).stem}-edited.png", pixels, edit.to_json())
        recipe = image.with_suffix(".json")
        recipe.write_text(json.dumps(edit.to_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        after = self._write("after.png", _enlarge_to(pixels, SHOWN))
        commands, names = self._sources([opened.upload])
        if strengths:
            # Of images of the model's size nothing is cropped, and of others the command would write the whole photo.
            is_cropped = opened.photo.image.alignment != Similarity()
            crop = opened.photo.crop if is_cropped else None
            options = [*(["--output-size", "model"] if is_cropped else []), *self._flags]
            commands.append(command_line(edit, names, "edited", crop=crop, options=options))
        return EditedPhoto(after, image, recipe, "\n".join(commands))

    def interpolate(
        self,
        uploads: Sequence[UploadedImage],
        frames: int,
        loop: bool,
        suffix: str,
        on_progress: ProgressCallback = ignore_progress,
    ) -> InterpolationFiles:
        """Interpolate between two to four images; the suffix of the animation is .webp or .gif.

        Raises:
            ArgumentError: too few or too many images; ImageError as `images.read`.
        """
        if not 2 <= len(uploads) <= MOST_IMAGES:
            raise ArgumentError(f"Choose 2 to {MOST_IMAGES} images, not {len(uploads)}, from the left.")
        made = self.session.interpolate([upload.path for upload in uploads], frames, loop, on_progress)
        still = enlarge(made.one_way, SCALE)
        ends = tuple(latent.recipe for latent in made.latents)
        strip_recipe = InterpolationRecipe("slerp", frames, False, ends)
        animation_recipe = InterpolationRecipe("slerp", frames, loop, ends)
        strip = self._write("between.png", sheet([still], gap=still.shape[-1] // 32), strip_recipe.to_json())
        animation = strip.with_suffix(suffix)
        write_animation(animation, enlarge(made.images, SCALE), FPS, animation_recipe.to_json())
        commands, names = self._sources(uploads)
        commands.append(command_line(strip_recipe, names, strip.name, scale=SCALE, options=self._flags))
        commands.append(
            command_line(animation_recipe, names, animation.name, scale=SCALE, fps=FPS, options=self._flags)
        )
        return InterpolationFiles(strip, animation, "\n".join(commands))

    def sample(self, number: int, seed: int, on_progress: ProgressCallback = ignore_progress) -> SampledImages:
        """Sample new images from the seeds from this one on; ArgumentError for a seed outside its range."""
        if not 0 <= seed <= SEEDS - number:
            raise ArgumentError(f"The seed must be from 0 to {SEEDS - number}, not {seed}. Choose another one.")
        images = self.session.sample(number, seed, on_progress)
        model = self.session.editor.model.name
        seeds = range(seed, seed + number)
        config: dict[str, Any] = {"solver": CONFIG.solver, "grid": CONFIG.grid, "steps": CONFIG.steps, "condition": {}}
        all_seeds = SampleSheetRecipe(model, tuple(seeds), 0.0, False, config)
        command = command_line(all_seeds, [], SAMPLES, options=self._flags)
        small = enlarge(images, _factor(images.shape[-1], THUMBNAIL))
        folder = next(self._folders)
        files, thumbnails = [], []
        for own_seed, image, thumbnail in zip(seeds, images, small, strict=True):
            file = folder / f"seed-{own_seed:04}.png"
            write(file, image, SampleRecipe(model, own_seed, 0.0, False, config).to_json())
            self._samples[digest_file(file)] = SampleSource(command, f"{SAMPLES}/{file.name}")
            files.append(file)
            thumbnails.append(self._write(file.name, thumbnail))
        rows = [small[start : start + 6] for start in range(0, number, 6)]
        return SampledImages(thumbnails, files, self._write("faces.png", sheet(rows, gap=8)), command)

    def _sources(self, uploads: Sequence[UploadedImage]) -> tuple[list[str], list[str]]:
        """Return the commands that make those of the images that were sampled here, and the names of all files."""
        commands: dict[str, None] = {}
        names = []
        for upload in uploads:
            source = self._samples.get(digest_file(upload.path))
            if source is not None:
                commands[source.command] = None  # each once, in order
            names.append(upload.name if source is None else source.file)
        return list(commands), names

    def _new_path(self, name: str) -> Path:
        return next(self._folders) / name

    def _write(self, name: str, pixels: Tensor, recipe: Mapping[str, Any] | None = None) -> Path:
        path = self._new_path(name)
        write(path, pixels, recipe)
        return path


def _enlarge_to(pixels: Tensor, width: int) -> Tensor:
    return enlarge(pixels, _factor(pixels.shape[-1], width))


def _factor(width: int, wanted: int) -> int:
    return max(1, -(-wanted // width))
