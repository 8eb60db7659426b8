"""The editor: a model with its hands on pictures. Every method is a few lines; the mathematics is below."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim_edit.batching import BatchRunner
from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.grids import Grid
from ddim_edit.diffusion.noise import SeededNoise
from ddim_edit.diffusion.solvers.base import SamplingOnlySolver, Solver
from ddim_edit.diffusion.solvers.steps import AncestralStep, no_noise
from ddim_edit.directions import Direction, Edit, find_direction, make_edit
from ddim_edit.errors import ArgumentError, LatentMismatchError
from ddim_edit.images import CentreSquare, Crop
from ddim_edit.images.prepare import Images
from ddim_edit.latents.cache import Cache, LatentArray
from ddim_edit.latents.interpolation import plan_path
from ddim_edit.latents.latent import Latent, Latents, interpolate, require_compatible
from ddim_edit.latents.provenance import NoiseOrigin, TranslationOrigin
from ddim_edit.metrics.reconstruction import Reconstruction, score_batch
from ddim_edit.metrics.registry import ImageScorer
from ddim_edit.models.loading import load_model
from ddim_edit.models.model import Model

DEFAULT, CENTRE = InversionConfig(), CentreSquare()
Named = str | Path | Direction
Editable = Images | Latent | Latents
Strengths = Mapping[str, float] | Mapping[Path, float] | Mapping[Direction, float] | Mapping[Named, float]
"""How far to move along each direction, in standard deviations of its training projections."""


class Editor:
    """Inverts, decodes, interpolates, edits and samples pictures with one model; does not train.

    Args:
        model: what to walk with.
        batch_size: how many pictures go through the network at once, changes no result beyond 1e-5; None is what
            suits the device. Where memory runs out it is halved.
        on_evaluation: called after every network evaluation with the number of pictures it was for.
    """

    def __init__(
        self, model: Model, batch_size: int | None = None, on_evaluation: Callable[[int], object] | None = None
    ) -> None:
        self.model = model
        self._walker = BatchRunner(model, batch_size, on_evaluation)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        size: int | tuple[int, int] | None = None,
        offline: bool = False,
        compiled: bool = False,
        **options: Any,
    ) -> "Editor":
        """An editor on a packaged model, a folder, a checkpoint file or a hub id; see `load_model` and `Editor`."""
        return cls(load_model(name_or_path, device, dtype, size, offline, compiled), **options)

    def invert(self, images: Images, method: InversionConfig = DEFAULT, crop: Crop = CENTRE) -> Latents:
        """The codes of pictures; each knows its recipe and reports how well it was found.

        Args:
            images: files, folders, `InputImage`s, or a tensor [B, 3, H, W] in [-1, 1] of the model's size.
            method: solver, grid, steps and so on.
            crop: what to keep of a file whose shape is not the model's.

        Raises:
            ImageError: a file that cannot be used.
            ArgumentError: a tensor of another size, or a method that does not exist.
        """
        return Latents(chain.from_iterable(latents for _, latents in self._walker.invert_batches(images, method, crop)))

    def reconstruct(self, images: Images, method: InversionConfig = DEFAULT, crop: Crop = CENTRE) -> Reconstruction:
        """Pictures through their codes and back, measured; arguments and errors as `invert`."""
        trips = list(self._walker.invert_batches(images, replace(method, check=True), crop))
        if not trips:
            raise ArgumentError("at least one picture", "none", "hand in a file, a folder or a tensor")
        measured = chain.from_iterable(score_batch(trip, self._scorer) for trip, _ in trips)
        latents = Latents(chain.from_iterable(latents for _, latents in trips))
        return Reconstruction(
            originals=torch.cat([trip.originals for trip, _ in trips]),
            pictures=torch.cat([trip.decoded for trip, _ in trips if trip.decoded is not None]),
            latents=latents,
            scores=tuple({**latent.report, **score} for latent, score in zip(latents, measured, strict=True)),
        )

    def decode(self, latents: Sequence[Latent], force: bool = False) -> Tensor:
        """The pictures of codes, float64 [B, 3, H, W], by their own recipes; not clamped to [-1, 1].

        Args:
            latents: from `invert`, `noise`, `interpolate` or files; `Latent.under` gives them another prompt or class.
            force: decode even what belongs to another model.

        Raises:
            LatentMismatchError: a latent of another model or weights, without `force`, or of another shape.
            LatentError: one that is not finite.
            ArgumentError: no latents.
        """
        if not latents:
            raise ArgumentError("at least one latent", "none", "invert a picture first")
        for latent in latents:
            self.require_own(latent, force)
        return self._walker.decode(latents)

    def noise(self, seeds: Sequence[int], method: InversionConfig = DEFAULT) -> Latents:
        """Fresh codes, one standard normal x_T per seed, that decode all the way down to t = 0."""
        grid = self._down_to_clean(method)
        recipe = self._walker.recipe(method, grid)
        x = SeededNoise(seeds).draw(self.model.shape)
        return Latents(
            Latent(row, grid.times[-1], replace(recipe, origin=NoiseOrigin(seed)))
            for row, seed in zip(x, seeds, strict=True)
        )

    def sample(
        self, n: int, seed: int = 0, method: InversionConfig = DEFAULT, eta: float = 0.0, posterior_mean: bool = False
    ) -> Tensor:
        """New pictures from the seeds seed, seed + 1, ...: float64 [n, 3, H, W], not clamped.

        Args:
            n: how many, at least 1.
            seed: of the first; a picture depends on its own seed alone.
            method: grid, steps and, for eta = 0, solver.
            eta: 0 walks the ODE; up to 1 is the family from DDIM to DDPM.
            posterior_mean: DDPM (eta = 1) with its noise left out; it looks bad, and is here to be seen.

        Raises:
            ArgumentError: n below 1 or eta outside [0, 1].
        """
        if n < 1 or not 0 <= eta <= 1:
            raise ArgumentError("n of at least 1, eta from 0 to 1", f"n {n}, eta {eta:g}", "correct that")
        seeds = range(seed, seed + n)
        if not eta and not posterior_mean:
            return self.decode(self.noise(seeds, method))

        def solver(noise: SeededNoise) -> Solver:
            return SamplingOnlySolver(AncestralStep(1.0, no_noise) if posterior_mean else AncestralStep(eta, noise))

        return self._walker.sample(seeds, method, self._down_to_clean(method), solver)

    def interpolate(
        self, latents: Sequence[Latent], frames: int = 9, method: str = "slerp", loop: bool = False
    ) -> Latents:
        """Codes on a path through codes, ends included; decode them to see it.

        Args:
            latents: at least two, of one model, solver and grid.
            frames: from each to the next, with both.
            method: one of `INTERPOLATIONS`.
            loop: whether the path returns to its beginning.

        Raises:
            LatentMismatchError: latents of different walks.
            ArgumentError: too few latents or frames, or an unknown method.
        """
        require_compatible(latents)
        stops = plan_path(len(latents), frames, loop)
        made = {stop: interpolate(latents[stop.start], latents[stop.end], method, stop.w) for stop in stops}
        return Latents(made[stop] for stop in stops)

    def sheet(self, corners: Sequence[Latent], rows: int = 7, columns: int = 7, method: str = "slerp") -> list[Latents]:
        """Codes between four corners (top left, top right, bottom left, bottom right), one `Latents` a row.

        Errors as `interpolate`; ArgumentError also for another number of corners.
        """
        if len(corners) != 4:
            raise ArgumentError("4 latents for a sheet", str(len(corners)), "give one for each corner")
        left, right = (self.interpolate([corners[i], corners[i + 2]], rows, method) for i in (0, 1))
        return [self.interpolate(ends, columns, method) for ends in zip(left, right, strict=True)]

    def latents_at(
        self,
        images: Images,
        levels: Sequence[str | float],
        method: InversionConfig = DEFAULT,
        crop: Crop = CENTRE,
        cache: Cache | None = None,
    ) -> list[LatentArray]:
        """The codes of many pictures at several levels, for fitting and probing; not to be decoded one by one.

        Args:
            images: as for `invert`.
            levels: times or texts, as `parse_level` reads them: 400, "0.4T", "xT", "h", "h:0.2T".
            method: how to invert, by a solver with one state; one walk serves all levels.
            crop: as for `invert`.
            cache: keeps latents between calls, for example a `LatentCache`.

        Raises:
            ArgumentError: no levels, an unknown one, or a solver with two states; ImageError: as `invert`.
            ModelError: bottlenecks of a network that shows none.
        """
        if not levels:
            raise ArgumentError("at least one level", "none", "0.4T is a good start")
        return self._walker.latents_at(images, levels, method, crop, {} if cache is None else cache)

    def edit(
        self,
        images: Editable,
        strengths: Strengths,
        level: str | float | None = None,
        preserve: Sequence[Named] = (),
        conditional: bool = False,
        crop: Crop = CENTRE,
    ) -> Tensor:
        """Pictures with attributes moved, float64 [B, 3, H, W], not clamped; may move what goes along with them too.

        Pictures are inverted to the level of the directions, moved by strength x sd on their own shell, and decoded;
        what the round trip alone loses is given back, so that strength 0 returns the picture.

        Args:
            images: as for `invert`, or a `Latent` or `Latents` that stand at the directions' level.
            strengths: standard deviations to move, by name of a packaged direction, file, or `Direction`.
            level: where to edit, if you want to be sure: it must be the directions' own.
            preserve: directions whose scores stay as they are.
            conditional: move along each direction only as far as it is orthogonal to the others.
            crop: as for `invert`.

        Raises:
            DirectionError: no such direction; DirectionMismatchError: one of another level, grid or model.
            ArgumentError: directions of several spaces, or inside each other's span.

        White (2016); conditional: Shen, Gu, Tang, Zhou (2020); in h-space: Kwon, Jeong, Uh (2023).
        """
        return self.edits(images, [strengths], level, preserve, conditional, crop)[:, 0]

    def edits(
        self,
        images: Editable,
        settings: Sequence[Strengths],
        level: str | float | None = None,
        preserve: Sequence[Named] = (),
        conditional: bool = False,
        crop: Crop = CENTRE,
    ) -> Tensor:
        """One row of edits per picture from a single inversion: float64 [B, K, 3, H, W] for K settings; as `edit`."""
        keep = [self.direction(name) for name in preserve]
        named = {name: self.direction(name) for name in dict.fromkeys(chain.from_iterable(settings))}
        found = [{named[name]: s for name, s in strengths.items()} for strengths in settings]
        if not found:
            raise ArgumentError("at least one setting", "none", "name a direction and a strength")
        edits = [make_edit(strengths, keep, conditional) for strengths in found]
        home = next(iter(found[0]))
        # Before the pictures are inverted, which takes long.
        home.require_fits(self._walker.recipe(home.method, Grid(home.recipe.grid, home.recipe.times)))
        for each in named.values():
            each.require_level(level)
            each.require_fits(home.recipe)
        latents, lost = self._anchored(images, home.method, crop)
        if not latents:
            raise ArgumentError("at least one picture", "none", "hand in a file, a folder or a tensor")
        return torch.stack([self._edited(latents, edit) + lost for edit in edits], 1)

    def direction(self, name: Named) -> Direction:
        """The direction of that name packaged for this model, or in that file; a `Direction` is itself."""
        return name if isinstance(name, Direction) else find_direction(name, self.model.name)

    def attribute_from(
        self,
        images_with: Images,
        images_without: Images,
        name: str = "attribute",
        level: str | float = "0.4T",
        method: InversionConfig = DEFAULT,
        crop: Crop = CENTRE,
    ) -> Direction:
        """A direction by example, the difference of two means; of a handful it also holds what else differs.

        Its unit is half the way from one mean to the other where each side is of one kind. Arguments as `codes`.
        """
        from ddim_edit.directions import MeanDifference, fit_direction  # scikit-learn takes seconds to load

        (with_,) = self.latents_at(images_with, [level], method, crop)
        (without,) = self.latents_at(images_without, [level], method, crop)
        labels = np.repeat([1.0, 0.0], [len(with_.values), len(without.values)])
        both = with_._replace(values=torch.cat([with_.values, without.values]))
        return fit_direction(name, both, labels, MeanDifference())

    def analogy(
        self,
        a: Images,
        b: Images,
        c: Images,
        weight: float = 1.0,
        level: str | float = "0.4T",
        method: InversionConfig = DEFAULT,
        crop: Crop = CENTRE,
    ) -> Tensor:
        """Every picture of c with what a has over b, float64 [B, 3, H, W], not clamped; a and b must differ.

        c + weight (mean a - mean b) in codes of one level, on the shells of c. Arguments as `attribute_from`; several
        pictures for each of a and b leave less of their own noise in the difference.

        Mikolov et al. (2013), on codes as in White (2016).
        """
        direction = self.attribute_from(a, b, "a - b", level, method, crop)
        return self.edit(c, {direction: weight * direction.report["gap"] / direction.sd}, crop=crop)

    def translate(self, images: Images, to: "Editor", method: InversionConfig = DEFAULT, crop: Crop = CENTRE) -> Tensor:
        """Pictures of this model's domain in another's, by a shared x_T: float64 [B, 3, H, W], not clamped.

        Inverted with this model, decoded to t = 0 with the other one on the same kind of grid. Two models of one
        schedule and size are needed, and no pairs of pictures; what the domains share is not known to either.

        Raises:
            ArgumentError: a method with a level; LatentMismatchError: models of other shapes.

        Su, Song, Meng, Ermon (2023), dual diffusion implicit bridges.
        """
        if self.model.shape != to.model.shape:
            wanted = f"a model of shape {list(self.model.shape)}, as {self.model.name} is"
            given = f"{to.model.name} of shape {list(to.model.shape)}"
            raise LatentMismatchError(wanted, given, "translate between models of one size")
        grid = to._down_to_clean(method)
        recipe = to._walker.recipe(method, grid)
        latents = self.invert(images, method, crop)
        return to.decode(
            [Latent(latent.x, latent.t, replace(recipe, origin=TranslationOrigin(latent.recipe))) for latent in latents]
        )

    def require_own(self, latent: Latent, force: bool = False) -> None:
        """Insist that a latent belongs to this model, its weights, schedule and dtype; with `force`, that it fits.

        Raises:
            LatentMismatchError: it does not; the message names both. LatentError: it is not finite.
        """
        self._walker.require_own(latent, force)

    @property
    def batch_size(self) -> int:
        """How many pictures go through the network at once now."""
        return self._walker.batches.size

    @cached_property
    def _scorer(self) -> ImageScorer:
        return ImageScorer()

    def _down_to_clean(self, method: InversionConfig) -> Grid:
        if method.level is not None:
            raise ArgumentError("a method that goes to x_T", f"one to level {method.level}", "leave the level out")
        return method.make_grid(self.model.schedule).to_clean()

    def _anchored(self, images: Editable, method: InversionConfig, crop: Crop) -> tuple[Latents, Tensor | float]:
        """Codes, and what a round trip through them loses of the pictures."""
        if isinstance(images, Latent | Latents):
            return Latents([images] if isinstance(images, Latent) else images), 0.0
        trips = list(self._walker.invert_batches(images, replace(method, check=True), crop))
        lost = [trip.originals - trip.decoded for trip, _ in trips if trip.decoded is not None]
        return Latents(chain.from_iterable(latents for _, latents in trips)), torch.cat(lost) if lost else 0.0

    def _edited(self, latents: Latents, edit: Edit) -> Tensor:
        moved, denoiser = edit(latents, self.model.conditioned_on(latents[0].recipe.condition))
        for latent in moved:
            self.require_own(latent)
        return self._walker.decode(moved, denoiser)
