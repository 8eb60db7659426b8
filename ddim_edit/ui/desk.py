"""What the page shows after each thing that its user does, as paths and texts; knows no widget."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ddim_edit.directions import SUFFIX
from ddim_edit.errors import ArgumentError
from ddim_edit.images import enlarge, sheet, write, write_animation
from ddim_edit.ui import commandline
from ddim_edit.ui.commandline import FPS, SCALE
from ddim_edit.ui.framing import Framing, scale_of, shape_of, view
from ddim_edit.ui.studio import METHOD, Change, Session, Subject, Tell, Walk, silent
from ddim_edit.ui.verdict import verdict

SHOWN = 512
"""Pixels a picture on the page is at least wide, or the next whole multiple of its size."""
SMALL = 192
MOST = 4
"""Pictures that a walk visits."""
SEEDS = 2**32


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
        told = self._edit_recipe(opened, change)
        picture = self._kept(f"{Path(opened.given.name).stem}-edited.png", pixels, told)
        recipe = picture.with_suffix(".json")
        recipe.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        after = self._kept("after.png", self._large(pixels))
        return Edited(after, picture, recipe, self._edit_command(opened, change))

    def walk(self, given: Sequence[Given], frames: int, loop: bool, suffix: str, tell: Tell = silent) -> Walked:
        """The way between two to four pictures; the suffix of the animation is .webp or .gif.

        Raises:
            ArgumentError: too few or too many pictures; ImageError as `images.read`.
        """
        if not 2 <= len(given) <= MOST:
            raise ArgumentError(f"2 to {MOST} pictures", str(len(given)), "fill the places from the left")
        made = self.studio.walk([each.path for each in given], frames, loop, tell)
        still = enlarge(made.one_way, SCALE)
        shown = self._kept("between.png", sheet([still], gap=still.shape[-1] // 32), _walk_recipe(made, loop=False))
        moving = shown.with_suffix(suffix)
        write_animation(moving, enlarge(made.pictures, SCALE), FPS, _walk_recipe(made, loop))
        lines = [self._walk_command(given, name, frames, loop) for name in ("between.png", moving.name)]
        return Walked(shown, moving, "\n".join([*self._made_before(given), *lines]))

    def draw(self, number: int, seed: int, tell: Tell = silent) -> Drawn:
        """New faces from the seeds from this one on; ArgumentError for a seed that is none."""
        if not 0 <= seed <= SEEDS - number:
            raise ArgumentError(f"a seed from 0 to {SEEDS - number}", str(seed), "choose another one")
        pictures, line = self.studio.draw(number, seed, tell), commandline.sample_line(number, seed, self._flags)
        folder = self._folders()
        files = [folder / f"seed-{own:04}.png" for own in range(seed, seed + number)]
        for own, (file, picture) in enumerate(zip(files, pictures, strict=True), start=seed):
            write(file, picture, self._sample_recipe(own))
            self._origins[_digest(file)] = Origin(line, f"{commandline.DRAWN}/{file.name}")
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

    def _edit_recipe(self, opened: Opened, change: Change) -> dict[str, Any]:
        return {
            "kind": "edit",
            "set": {_plain(name): s for name, s in (change.moved or self._zero(change.level)).items()},
            "keep": [_plain(name) for name in change.kept],
            "conditional": False,
            "factors": [1.0],
            "model": self.studio.editor.model.name,
            "source": opened.subject.picture.source,
        }

    def _edit_command(self, opened: Opened, change: Change) -> str:
        strengths = change.moved or self._zero(change.level)
        (name,), crop = self._names([opened.given]), opened.subject.crop
        line = commandline.edit_line(name, strengths, change.kept, crop, self._flags) if strengths else ""
        return "\n".join([*self._made_before([opened.given]), *filter(None, [line])])

    def _walk_command(self, given: Sequence[Given], target: str, frames: int, loop: bool) -> str:
        return commandline.walk_line(self._names(given), target, frames, loop, self._flags)

    def _sample_recipe(self, seed: int) -> dict[str, Any]:
        walk: dict[str, Any] = {"solver": METHOD.solver, "grid": METHOD.grid, "steps": METHOD.steps, "condition": {}}
        own = {"seed": seed, "eta": 0.0, "posterior_mean": False}
        return {"kind": "sample", "model": self.studio.editor.model.name, **walk, **own}

    def _made_before(self, given: Sequence[Given]) -> list[str]:
        """The command lines that make those of the pictures that were drawn here, each once."""
        origins = (self._origins.get(_digest(each.path)) for each in given)
        return list(dict.fromkeys(origin.command for origin in origins if origin))

    def _names(self, given: Sequence[Given]) -> list[str]:
        origins = [self._origins.get(_digest(each.path)) for each in given]
        return [origin.name if origin else each.name for origin, each in zip(origins, given, strict=True)]


def _plain(name: str) -> str:
    """What recipes call a direction, be it named or its file: no place of this machine."""
    return Path(name).name.removesuffix(SUFFIX)


def _walk_recipe(walk: Walk, loop: bool) -> dict[str, Any]:
    ends = [code.recipe.to_json() for code in walk.codes]
    return {"kind": "slerp", "frames": walk.frames, "loop": loop, "ends": ends}


def _factor(width: int, wanted: int) -> int:
    return max(1, -(-wanted // width))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
