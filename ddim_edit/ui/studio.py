"""One model at work for a page: it opens photographs, edits them, walks between them and draws new ones."""

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

Tell = Callable[[float], object]
"""Told how much of a long call is done, from 0 to 1."""
METHOD = InversionConfig()


def silent(share: float) -> None:
    """Tells nobody."""


class Ticks:
    """Counts evaluations of the network for whoever listens; one listener at a time."""

    def __init__(self) -> None:
        self._tell: Tell = silent
        self._expected, self._done = 1, 0

    def __call__(self, pictures: int) -> None:
        """That many pictures more went through the network."""
        self._done += pictures
        self._tell(min(self._done / self._expected, 1.0))

    @contextmanager
    def towards(self, expected: int, tell: Tell) -> Iterator[None]:
        """Tell the share of so many evaluations; more of them than expected stay at 1."""
        self._tell, self._expected, self._done = tell, max(expected, 1), 0
        try:
            yield
        finally:
            self._tell = silent


@dataclass(frozen=True)
class Change:
    """What to do to a photograph: strengths in standard deviations by direction, as `levels_of` calls them.

    A direction that is moved itself is not kept. Strengths are rounded to what a command line shows.
    """

    level: str = ""
    strengths: Mapping[str, float] = field(default_factory=dict)
    keep: Sequence[str] = ()

    @property
    def moved(self) -> dict[str, float]:
        """The strengths that are not 0."""
        return {name: round(float(s), 3) for name, s in self.strengths.items() if round(float(s), 3)}

    @property
    def kept(self) -> list[str]:
        """What stays fixed."""
        return [name for name in self.keep if name not in self.moved]


@dataclass(frozen=True, eq=False)
class Anchor:
    """The codes of a photograph at the level of an edit, and what a round trip through them loses of it."""

    latents: Latents
    lost: Tensor


@dataclass(frozen=True, eq=False)
class Subject:
    """A photograph that was opened: as the model sees it, through x_T and back, and its codes at levels of edits."""

    picture: InputImage
    crop: Crop
    trip: Reconstruction
    anchors: dict[InversionConfig, Anchor] = field(default_factory=dict)

    @property
    def scores(self) -> Mapping[str, Any]:
        """Of the round trip through x_T."""
        return self.trip.scores[0]


class Session:
    """Does for a page what the command line does in one run a time, with the same pictures; keeps codes meanwhile.

    Args:
        editor: with `ticks` as its `on_evaluation`.
        levels: the directions at hand, as `levels_of` finds them; empty where a model has none.
        ticks: counts the evaluations.
    """

    def __init__(self, editor: Editor, levels: Mapping[str, Mapping[str, Direction]], ticks: Ticks) -> None:
        self.editor, self.levels, self._ticks = editor, levels, ticks
        self._codes: dict[tuple[Path, ...], Latents] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(Height, width) of the model's pictures."""
        return self.editor.model.size

    def open(self, file: Path, crop: Crop | None = None, tell: Tell = silent) -> Subject:
        """A photograph through x_T and back; ImageError as `images.read`."""
        crop = crop or CentreSquare()
        picture = read(file, self.size, crop)
        with self._ticks.towards(2 * METHOD.steps, tell):
            return Subject(picture, crop, self.editor.reconstruct([picture], METHOD))

    def edit(self, subject: Subject, change: Change, tell: Tell = silent) -> Tensor:
        """The changed picture, uint8 [3, H, W], as `Editor.edit` makes it; the very picture where nothing is moved.

        Raises:
            DirectionMismatchError: directions of another model; ArgumentError: ones that leave no freedom.
        """
        if not change.moved:
            return subject.picture.pixels
        here = self.levels[change.level]
        home = next(here[name] for name in change.moved)
        walks = 1 if home.config in subject.anchors else 3
        with self._ticks.towards(walks * (len(home.recipe.times) - 1), tell):
            anchor = self._anchored(subject, home.config)
            strengths = {here[name]: strength for name, strength in change.moved.items()}
            made = self.editor.edit(anchor.latents, strengths, keep=[here[name] for name in change.kept])
        return to_uint8(made + anchor.lost)[0]

    def walk(self, paths: Sequence[Path], frames: int, loop: bool, tell: Tell = silent) -> "Walk":
        """The way from each picture to the next, and back to the first in a loop.

        Raises:
            ArgumentError: fewer than two pictures or frames; ImageError as `images.read`.
        """
        key, coming = tuple(paths), len(set(plan_path(len(paths), frames, loop)))
        fresh = 0 if key in self._codes else len(set(paths))
        with self._ticks.towards(METHOD.steps * (fresh + coming), tell):
            if fresh:
                self._codes = {key: self._inverted(key)}
            codes = self._codes[key]
            stops = self.editor.interpolate(codes, frames, loop=loop)
            # On the way back between two pictures every code comes again.
            different = list(dict.fromkeys(stops))
            made = dict(zip(different, to_uint8(self.editor.decode(different)), strict=True))
        return Walk(torch.stack([made[stop] for stop in stops]), codes, frames, loop)

    def draw(self, count: int, seed: int, tell: Tell = silent) -> Tensor:
        """New pictures of the seeds from this one on, uint8 [count, 3, H, W]."""
        with self._ticks.towards(METHOD.steps * count, tell):
            return to_uint8(self.editor.sample(count, seed, METHOD))

    def _anchored(self, subject: Subject, method: InversionConfig) -> Anchor:
        if method not in subject.anchors:
            trip = self.editor.reconstruct([subject.picture], method)
            subject.anchors[method] = Anchor(trip.latents, trip.originals - trip.decoded)
        return subject.anchors[method]

    def _inverted(self, paths: tuple[Path, ...]) -> Latents:
        different = {file: image for file, image in read_all(dict.fromkeys(paths), self.size) if image is not None}
        codes = dict(zip(different, self.editor.invert(list(different.values()), METHOD), strict=True))
        return Latents(codes[file] for file in paths)


@dataclass(frozen=True, eq=False)
class Walk:
    """Pictures uint8 [N, 3, H, W] on the way between codes."""

    pictures: Tensor
    codes: Latents
    frames: int
    loop: bool

    @property
    def one_way(self) -> Tensor:
        """Without the way back."""
        return self.pictures[: (len(self.codes) - 1) * (self.frames - 1) + 1]


def levels_of(model: str, folder: Path | None = None) -> dict[str, dict[str, Direction]]:
    """The directions packaged for a model, or those in a folder, by level and by what a command line calls them.

    Raises:
        DirectionError: a folder without directions, or a file that cannot be read.
    """
    found = packaged_directions(model) if folder is None else directions_in(folder)
    levels: dict[str, dict[str, Direction]] = {}
    for name, file in found.items():
        direction = Direction.load(file)
        levels.setdefault(direction.level, {})[name if folder is None else str(file.resolve())] = direction
    return levels
