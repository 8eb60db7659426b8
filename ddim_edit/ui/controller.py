"""The logic of the page: files and texts to show after each action of the user; independent of widgets."""

import json
import secrets
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.images import (
    ANIMATION_FORMATS,
    STILL_FORMATS,
    CentreSquare,
    Crop,
    display_factor,
    draw_choice,
    labelled,
    photograph_suffix,
    read,
    sheet,
    short_label,
    upscale,
    write,
    write_animation,
)
from ddim_edit.io.digest import digest_file
from ddim_edit.latents.image_recipes import (
    CombinationRecipe,
    EditRecipe,
    InterpolationRecipe,
    SampleRecipe,
    SampleSheetRecipe,
    command_line,
    crop_text,
)
from ddim_edit.latents.interpolation import plan_path
from ddim_edit.ui.crop_choice import BOX, CENTRE, FIT, CropChoice
from ddim_edit.ui.inversion_summary import draw_patches, summarize_inversion
from ddim_edit.ui.model_queue import ProgressCallback, ignore_progress
from ddim_edit.ui.records import (
    CombinedFile,
    EditedPhoto,
    InterpolationFiles,
    LoadedPhoto,
    OpenedPhoto,
    SampledImages,
    SampleSource,
    SavedFiles,
    UploadedImage,
)
from ddim_edit.ui.session import CONFIG, CroppedPhoto, EditedPixels, EditSettings, Photo, Session, SourcePhoto

VIEW = 720
"""Pixels of the longer side of the view on which a part of a photo is chosen."""
SHOWN = 512
"""Pixels an image of the model's size is shown at, at least: the next whole multiple of its size."""
SHOWN_PHOTO = 1600
"""Pixels of the longer side of a photo before and after, at most."""
MARGIN = 0.15
"""What a close-up shows around the part that the model sees, in shares of its side."""
THUMBNAIL = 192
MOST_SAMPLES = 100
MOST_IMAGES = 4
"""Images that can be interpolated between."""
SEEDS = 2**32
SHUFFLED_SEEDS = 1_000_000
"""Random first seeds are below this, so that they can be read and remembered."""
GOOD_SEEDS = {"faces64": 9}
"""First of a dozen seeds in a row whose images are good, by model."""
SAMPLES = "faces"
"""Folder that the command line of sampled images writes to."""
REMEMBERED = 6
"""Photos that a page which is loaded again finds."""


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
        self._remembered: dict[str, LoadedPhoto] = {}

    def load(self, upload: UploadedImage) -> LoadedPhoto:
        """Read a photo and find its faces; ImageError as `images.read`."""
        loaded = LoadedPhoto(self.session.load(upload.path), upload, secrets.token_urlsafe(16))
        self._remembered[loaded.token] = loaded
        if len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return loaded

    def recall(self, token: str) -> LoadedPhoto | None:
        """Return the photo of a token, if this page still has it."""
        return self._remembered.get(token)

    def crop_choices(self, loaded: LoadedPhoto) -> list[tuple[str, str]]:
        """Return the parts of a photo that can be chosen: what they are called, and the `kind` of each choice."""
        count_of_faces = len(loaded.source.faces)
        choices = []
        for number in range(1, count_of_faces + 1):
            name = "Face" if count_of_faces == 1 else f"Face {number}{', the largest' if number == 1 else ''}"
            choices.append((name, CropChoice.of_face(number).kind))
        return [*choices, ("Centre square", CENTRE), ("Whole photo", FIT), ("Own box", BOX)]

    def show_choice(self, loaded: LoadedPhoto, choice: CropChoice) -> Path:
        """Return a view of a photo with its faces and the part that the model sees."""
        source = loaded.source
        corners = self._corners(source, choice)
        preview = source.photograph.preview(VIEW)
        scale = preview.shape[2] / source.shape[1]
        return self._write("view.jpg", draw_choice(preview, scale, corners, source.faces))

    def choose_at(self, loaded: LoadedPhoto, choice: CropChoice, x: float, y: float) -> CropChoice:
        """Return the choice after a click on the view, in its pixels: the face there, or a box around the place."""
        source = loaded.source
        scale = min(1.0, VIEW / max(source.shape))
        x, y = x / scale, y / scale
        if choice.kind == BOX:
            return choice.centred(source.shape, self.session.size, x, y)
        for number, face in enumerate(source.faces, 1):
            left, top, width, height = face.box
            if left <= x <= left + width and top <= y <= top + height:
                return CropChoice.of_face(number)
        return choice

    def start_box(self, loaded: LoadedPhoto, before: CropChoice) -> CropChoice:
        """Return a box around the part that was chosen before."""
        source = loaded.source
        return CropChoice().around(source.shape, self.session.size, self._corners(source, before))

    def open(
        self,
        loaded: LoadedPhoto,
        choice: CropChoice | None = None,
        on_progress: ProgressCallback = ignore_progress,
    ) -> OpenedPhoto:
        """Invert a part of a photo and decode it again; ImageError for a crop that does not fit."""
        photo = self.session.open(loaded.source, choice, on_progress)
        latent = self._new_path(f"{Path(loaded.upload.name).stem}.latent.safetensors")
        latent.parent.mkdir(parents=True)
        photo.reconstruction.latents[0].save(latent)
        model = self.session.editor.model
        score = photo.scores.get("atypicality")
        problems = [photo.image.caution or ""]
        if model.typicality is not None and (found := model.typicality.describe(score, model.name)):
            problems.append(f"This image {found}")
        notes = [*photo.image.notes, *photo.source.photograph.notes]
        summary = summarize_inversion(photo.scores, notes, [problem for problem in problems if problem])
        if (photo.scores["xt_deviation"] or 0) > 1:
            summary += f"\n\n{draw_patches(photo.reconstruction.latents[0].x)}"
        return OpenedPhoto(photo, loaded.upload, summary, latent)

    def edit(
        self, opened: OpenedPhoto, settings: EditSettings, on_progress: ProgressCallback = ignore_progress
    ) -> EditedPhoto:
        """Edit a photo; errors as `Session.edit`."""
        photo = opened.photo
        edited = self.session.edit(photo, settings, on_progress)
        commands, names = self._sources([opened.upload])
        if not settings.moved:
            return EditedPhoto(edited, settings, None, "\n".join(commands))
        frames = None if edited.photograph is None else (photo.image.preprocessing,)
        model = self.session.editor.model.name
        recipe = EditRecipe(settings.moved, tuple(settings.kept), False, (1.0,), model, photo.image.source, frames)
        options = [*self._format_options(opened, edited), *self._flags]
        crop = self._named_crop(photo)
        commands.append(command_line(recipe, names, "edited", crop=crop, options=options))
        return EditedPhoto(edited, settings, recipe, "\n".join(commands))

    def compare(self, opened: OpenedPhoto, edit: EditedPhoto, close_up: bool = False) -> tuple[Path, Path]:
        """Return what to show of a photo before and after an edit.

        Args:
            opened: the photo.
            edit: what became of it.
            close_up: show the part that the model sees, with its surroundings, and not the whole photo.
        """
        before, after = opened.photo.source.photograph, edit.edited.photograph
        if after is None:
            factor = display_factor(edit.edited.pixels.shape[-1], SHOWN)
            shown = [upscale(pixels, factor) for pixels in (opened.photo.image.pixels, edit.edited.pixels)]
            suffix = ".png"
        else:
            box = _close_up(opened.photo) if close_up else None
            shown = [photograph.preview(SHOWN_PHOTO, box) for photograph in (before, after)]
            suffix = ".jpg"
        return self._write(f"before{suffix}", shown[0]), self._write(f"after{suffix}", shown[1])

    def save(self, opened: OpenedPhoto, edit: EditedPhoto) -> SavedFiles:
        """Write the files of an edit; where nothing is moved, the photo is the very file that was uploaded."""
        if edit.recipe is None:
            return SavedFiles(opened.upload.path, None)
        stem = Path(opened.upload.name).stem
        suffix = photograph_suffix(opened.upload.name)
        record = edit.recipe.to_json()
        if edit.edited.photograph is not None:
            image = self._new_path(f"{stem}-edited{suffix}")
            edit.edited.photograph.save(image, record)
        else:
            image = self._write(
                f"{stem}-edited{suffix if suffix in STILL_FORMATS else '.png'}", edit.edited.pixels, record
            )
        recipe = image.with_suffix(".json")
        recipe.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return SavedFiles(image, recipe)

    def animation_choices(self) -> list[tuple[str, str]]:
        """Return the formats of animations that can be written here: their names and suffixes."""
        return [(each.name, suffix) for suffix, each in ANIMATION_FORMATS.items() if each.installed]

    def interpolate(
        self,
        photos: Sequence[tuple[LoadedPhoto, CropChoice]],
        frames: int,
        loop: bool,
        suffix: str,
        on_progress: ProgressCallback = ignore_progress,
    ) -> InterpolationFiles:
        """Interpolate between two to four images; the suffix is of an animation, such as .webp.

        Raises:
            ArgumentError: too few or too many images or frames; ImageError for a crop that does not fit.
        """
        cropped = self._cropped(photos)
        made = self.session.interpolate(cropped, frames, loop, on_progress)
        factor = display_factor(made.images.shape[-1])
        still = upscale(made.one_way, factor)
        ends = tuple(latent.recipe for latent in made.latents)
        strip_recipe = InterpolationRecipe("slerp", frames, False, ends)
        animation_recipe = InterpolationRecipe("slerp", frames, loop, ends)
        names = [
            short_label(Path(loaded.upload.name).stem, f"image {number}")
            for number, (loaded, _) in enumerate(photos, 1)
        ]
        labels = [point.label(names) for point in plan_path(len(photos), frames)]
        strip = self._write("between.png", labelled([still], labels), strip_recipe.to_json())
        animation = strip.with_suffix(suffix)
        write_animation(animation, upscale(made.images, factor), recipe=animation_recipe.to_json())
        commands, names = self._named_inputs(photos, cropped)
        options = self._flags
        commands.append(command_line(strip_recipe, names, strip.name, options=options))
        commands.append(command_line(animation_recipe, names, animation.name, options=options))
        return InterpolationFiles(strip, animation, "\n".join(commands))

    def combine(
        self,
        photos: Sequence[tuple[LoadedPhoto, CropChoice]],
        weights: Sequence[float],
        on_progress: ProgressCallback = ignore_progress,
    ) -> CombinedFile:
        """Combine two to four images with weights.

        Raises:
            ArgumentError: too few or too many images, or weights that are all 0; ImageError for a crop that does not
                fit.
        """
        cropped = self._cropped(photos)
        # As a command line shows them, so that it makes the same image.
        weights = [round(float(weight), 3) for weight in weights]
        made = self.session.combine(cropped, weights, on_progress)
        factor = display_factor(made.pixels.shape[-1])
        image = self._write("combined.png", upscale(made.pixels, factor), made.latent.recipe.to_json())
        commands, names = self._named_inputs(photos, cropped)
        recipe = CombinationRecipe(tuple(weights))
        options = ["--upscale", str(factor), *self._flags] if factor > 1 else self._flags
        commands.append(command_line(recipe, names, image.name, options=options))
        return CombinedFile(image, "\n".join(commands))

    def _cropped(self, photos: Sequence[tuple[LoadedPhoto, CropChoice]]) -> list[CroppedPhoto]:
        """Return the chosen parts of photos; ArgumentError for too few or too many."""
        if not 2 <= len(photos) <= MOST_IMAGES:
            raise ArgumentError(f"Choose 2 to {MOST_IMAGES} images, not {len(photos)}.")
        return [CroppedPhoto(loaded.source, self.session.crop(loaded.source, choice)) for loaded, choice in photos]

    def _named_inputs(
        self, photos: Sequence[tuple[LoadedPhoto, CropChoice]], cropped: Sequence[CroppedPhoto]
    ) -> tuple[list[str], list[str]]:
        """Return the commands that make those of the photos that were sampled here, and all photos as inputs."""
        commands, names = self._sources([loaded.upload for loaded, _ in photos])
        for place, photo in enumerate(cropped):
            if photo.crop != self.session.default_crop:
                names[place] += f"@{crop_text(photo.crop)}"
        return commands, names

    @property
    def first_seed(self) -> int:
        """The seed to begin with."""
        return GOOD_SEEDS.get(self.session.editor.model.name, 0)

    def shuffle_seed(self) -> int:
        """Return a random first seed."""
        return secrets.randbelow(SHUFFLED_SEEDS)

    def sample(self, number: int, seed: int, on_progress: ProgressCallback = ignore_progress) -> SampledImages:
        """Sample new images from the seeds from this one on; ArgumentError for a seed or number outside its range."""
        if not 1 <= number <= MOST_SAMPLES:
            raise ArgumentError(f"Choose 1 to {MOST_SAMPLES} images, not {number}.")
        if not 0 <= seed <= SEEDS - number:
            raise ArgumentError(f"The seed must be from 0 to {SEEDS - number}, not {seed}. Choose another one.")
        images = self.session.sample(number, seed, on_progress)
        model = self.session.editor.model.name
        seeds = range(seed, seed + number)
        config: dict[str, Any] = {"solver": CONFIG.solver, "grid": CONFIG.grid, "steps": CONFIG.steps, "condition": {}}
        all_seeds = SampleSheetRecipe(model, tuple(seeds), 0.0, False, config)
        command = command_line(all_seeds, [], SAMPLES, options=self._flags)
        small = upscale(images, display_factor(images.shape[-1], THUMBNAIL))
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

    def _corners(self, source: SourcePhoto, choice: CropChoice) -> Sequence[tuple[float, float]]:
        """Return the corners of the part that the model sees, in pixels of a photo."""
        image = read(source.file, self.session.size, self.session.crop(source, choice))
        height, width = self.session.size
        return image.alignment.corners(width, height)

    def _named_crop(self, photo: Photo) -> Crop | None:
        """Return the crop that a command line for an edit must name; None where it makes the same choice by itself."""
        if photo.image.face_missing:
            return CentreSquare()  # commands refuse to edit an image without a face, unless a crop is named
        return None if photo.crop == self.session.default_crop else photo.crop

    def _format_options(self, opened: OpenedPhoto, edited: EditedPixels) -> list[str]:
        has_own_format = edited.photograph is not None or photograph_suffix(opened.upload.name) in STILL_FORMATS
        return [] if has_own_format else ["--format", "png"]

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


def _close_up(photo: Photo) -> tuple[int, int, int, int]:
    """Return the part of a photo around what the model sees: left, top, right and bottom."""
    height, width = photo.image.pixels.shape[-2:]
    corners = photo.image.alignment.corners(width, height)
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    margin = MARGIN * max(max(xs) - min(xs), max(ys) - min(ys))
    photo_height, photo_width = photo.source.shape
    left, top = max(0, int(min(xs) - margin)), max(0, int(min(ys) - margin))
    right, bottom = min(photo_width, int(max(xs) + margin) + 1), min(photo_height, int(max(ys) + margin) + 1)
    return left, top, right, bottom
