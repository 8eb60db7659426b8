"""What the page shows after each thing that its user does, as paths and texts; knows no widget."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.images import enlarge, sheet, write, write_animation
from ddim_edit.latents.image_recipes import (
    EditRecipe,
    InterpolationRecipe,
    SampleRecipe,
    SampleSheetRecipe,
    command_line,
)
from ddim_edit.ui.framing import Framing, scale_of, shape_of, view
from ddim_edit.ui.studio import METHOD, Change, Session, Subject, Tell, silent
from ddim_edit.ui.verdict import verdict

SHOWN = 512
"""Pixels a picture on the page is at least wide, or the next whole multiple of its size."""
SMALL = 192
MOST = 4
"""Pictures that a walk visits."""
SEEDS = 2**32
FPS, SCALE = 12, 4
"""Frames per second and size of a pixel in the strips and animations of the page."""
DRAWN = "faces"
"""Folder that the command line of sampled images writes to."""


class Given(NamedTuple):
    """A picture file as it was handed in, and the name it has where it came from."""

    path: Path
    name: str


class Opened(NamedTuple):
    """A photograph after it was opened: what to say of it, how to show it, and its code for keeps."""

    subject: Subject
    given: Given
    verdict: str
    before: Path
    latent: Path


class Edited(NamedTuple):
    """A photograph after a change: how to show it, its files, and the command line that makes it."""

    after: Path
    picture: Path
    recipe: Path
    command: str


class Walked(NamedTuple):
    """A way between pictures: a strip, an animation, and the command lines that make them."""

    strip: Path
    animation: Path
    command: str


class Drawn(NamedTuple):
    """New faces: each to be shown, each as a file, all on a sheet, and the command line that makes the files."""

    shown: list[Path]
    files: list[Path]
    sheet: Path
    command: str


class Origin(NamedTuple):
    """The command line that makes a picture file, and where it puts it."""

    command: str
    name: str


class PageController:
    """Turns what a user hands in into what the page shows; remembers of it only how sampled pictures came to be.

    Args:
        studio: does the work.
        folder: where files for the page are written, which whoever made it clears away.
        flags: options that a command line needs to work with the same model.
    """

    def __init__(self, studio: Session, folder: Path, flags: Sequence[str] = ()) -> None:
        self.studio, self._flags = studio, list(flags)
        self._folders: Callable[[], Path] = (folder / str(number) for number in count()).__next__
        self._origins: dict[str, Origin] = {}

    def frame(self, given: Given, framing: Framing) -> Path:
        """A view of the whole photograph with the region that the model will see; ImageError as `images.read`."""
        return self._kept("view.png", view(given.path, shape_of(given.path), framing, self.studio.size))

    def pointed(self, given: Given, framing: Framing, x: float, y: float) -> Framing:
        """The framing with its middle at (x, y) of the view, in pixels."""
        shape = shape_of(given.path)
        return framing.centred(shape, self.studio.size, x / scale_of(shape), y / scale_of(shape))

    def open(self, given: Given, framing: Framing | None = None, tell: Tell = silent) -> Opened:
        """A photograph through x_T and back; ImageError as `images.read`."""
        framing = framing or Framing()
        crop = framing.crop(shape_of(given.path), self.studio.size)
        subject = self.studio.open(given.path, crop, tell)
        latent = self._folders() / f"{Path(given.name).stem}.latent.safetensors"
        latent.parent.mkdir(parents=True)
        subject.trip.latents[0].save(latent)
        before = self._kept("before.png", self._large(subject.picture.pixels))
        return Opened(subject, given, verdict(subject.scores, subject.picture.notes), before, latent)

    def edit(self, opened: Opened, change: Change, tell: Tell = silent) -> Edited:
        """The photograph changed; errors as `Session.edit`. Nothing moved is the very photograph."""
        pixels = self.studio.edit(opened.subject, change, tell)
        strengths = change.moved or self._zero(change.level)
        model, source = self.studio.editor.model.name, opened.subject.picture.source
        made = EditRecipe(strengths, tuple(change.kept), False, (1.0,), model, source)
        told = made.to_json()
        picture = self._kept(f"{Path(opened.given.name).stem}-edited.png", pixels, told)
        recipe = picture.with_suffix(".json")
        recipe.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        after = self._kept("after.png", self._large(pixels))
        lines = self._made_before([opened.given])
        if strengths:
            names, crop = self._names([opened.given]), opened.subject.crop
            lines.append(command_line(made, names, "edited", crop=crop, options=self._flags))
        return Edited(after, picture, recipe, "\n".join(lines))

    def walk(self, given: Sequence[Given], frames: int, loop: bool, suffix: str, tell: Tell = silent) -> Walked:
        """The way between two to four pictures; the suffix of the animation is .webp or .gif.

        Raises:
            ArgumentError: too few or too many pictures; ImageError as `images.read`.
        """
        if not 2 <= len(given) <= MOST:
            raise ArgumentError(f"2 to {MOST} pictures", str(len(given)), "fill the places from the left")
        made = self.studio.walk([each.path for each in given], frames, loop, tell)
        still = enlarge(made.one_way, SCALE)
        ends = tuple(code.recipe for code in made.codes)
        strip = InterpolationRecipe("slerp", frames, False, ends)
        animation = InterpolationRecipe("slerp", frames, loop, ends)
        shown = self._kept("between.png", sheet([still], gap=still.shape[-1] // 32), strip.to_json())
        moving = shown.with_suffix(suffix)
        write_animation(moving, enlarge(made.pictures, SCALE), FPS, animation.to_json())
        names, flags = self._names(given), self._flags
        lines = [
            *self._made_before(given),
            command_line(strip, names, shown.name, scale=SCALE, options=flags),
            command_line(animation, names, moving.name, scale=SCALE, fps=FPS, options=flags),
        ]
        return Walked(shown, moving, "\n".join(lines))

    def draw(self, number: int, seed: int, tell: Tell = silent) -> Drawn:
        """New faces from the seeds from this one on; ArgumentError for a seed that is none."""
        if not 0 <= seed <= SEEDS - number:
            raise ArgumentError(f"a seed from 0 to {SEEDS - number}", str(seed), "choose another one")
        pictures = self.studio.draw(number, seed, tell)
        model, seeds = self.studio.editor.model.name, range(seed, seed + number)
        config: dict[str, Any] = {"solver": METHOD.solver, "grid": METHOD.grid, "steps": METHOD.steps, "condition": {}}
        all_of_them = SampleSheetRecipe(model, tuple(seeds), 0.0, False, config)
        line = command_line(all_of_them, [], DRAWN, options=self._flags)
        folder = self._folders()
        files = [folder / f"seed-{own:04}.png" for own in seeds]
        for own, file, picture in zip(seeds, files, pictures, strict=True):
            write(file, picture, SampleRecipe(model, own, 0.0, False, config).to_json())
            self._origins[_digest(file)] = Origin(line, f"{DRAWN}/{file.name}")
        small = enlarge(pictures, _factor(pictures.shape[-1], SMALL))
        shown = [self._kept(file.name, picture) for file, picture in zip(files, small, strict=True)]
        rows = [small[start : start + 6] for start in range(0, number, 6)]
        return Drawn(shown, files, self._kept("faces.png", sheet(rows, gap=8)), line)

    def _large(self, pixels: Tensor) -> Tensor:
        return enlarge(pixels, _factor(pixels.shape[-1], SHOWN))

    def _kept(self, name: str, pixels: Tensor, recipe: Mapping[str, Any] | None = None) -> Path:
        path = self._folders() / name
        write(path, pixels, recipe)
        return path

    def _zero(self, level: str) -> dict[str, float]:
        """What a command line must say that moves nothing."""
        return dict.fromkeys(list(self.studio.levels.get(level, ()))[:1], 0.0)

    def _made_before(self, given: Sequence[Given]) -> list[str]:
        """The command lines that make those of the pictures that were drawn here, each once."""
        origins = (self._origins.get(_digest(each.path)) for each in given)
        return list(dict.fromkeys(origin.command for origin in origins if origin))

    def _names(self, given: Sequence[Given]) -> list[str]:
        origins = [self._origins.get(_digest(each.path)) for each in given]
        return [origin.name if origin else each.name for origin, each in zip(origins, given, strict=True)]


def _factor(width: int, wanted: int) -> int:
    return max(1, -(-wanted // width))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
