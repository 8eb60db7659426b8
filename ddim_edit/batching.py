"""Batches of pictures and codes through one model: what the editor's verbs have in common."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.bottleneck import BottleneckReader
from ddim_edit.diffusion.denoisers import Denoiser, ProgressDenoiser
from ddim_edit.diffusion.grids import Grid
from ddim_edit.diffusion.integration import Inversion, invert, sample
from ddim_edit.diffusion.noise import NoiseMix, SeededNoise, derive_seed, draw_mixed_noise
from ddim_edit.diffusion.solvers.base import Solver, Spans
from ddim_edit.diffusion.solvers.recording import recording
from ddim_edit.diffusion.solvers.registry import find_solver
from ddim_edit.errors import ArgumentError, LatentError, LatentMismatchError
from ddim_edit.images import Crop
from ddim_edit.images.prepare import Images, PreparedImage, prepare_images
from ddim_edit.latents.cache import Cache, LatentArray, cache_key
from ddim_edit.latents.latent import Latent, Latents
from ddim_edit.latents.provenance import InversionOrigin, LatentArrayOrigin, Recipe
from ddim_edit.latents.spaces import Space, Trajectory, find_space
from ddim_edit.metrics.reconstruction import InversionBatch
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.codec.pixels import Codec
from ddim_edit.models.codec.refinement import REFINERS
from ddim_edit.models.memory import Batches
from ddim_edit.models.model import Model

NoisySolver = Callable[[SeededNoise], Solver]


class _Batch(NamedTuple):
    """Pictures [B, 3, H, W], their x_0, the noise mix of each, and all the mixes as a tensor, if any."""

    originals: Tensor
    x0: Tensor
    mixes: Sequence[NoiseMix]
    noise: Tensor | None


@dataclass(frozen=True)
class BatchRunner:
    """Takes whatever is handed in through one model, batch by batch; knows nothing of what it is for.

    Args:
        model: what to walk with.
        batch_size: how many pictures go through the network at once, at least 1; None is what
            suits the device. Where memory runs out it is halved.
        on_evaluation: told after every network evaluation how many pictures it was for, or None.

    Raises:
        ArgumentError: a batch size below 1.
    """

    model: Model
    batch_size: int | None = None
    on_evaluation: Callable[[int], object] | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            Batches(self.batch_size)  # complains, if it has to, before any work

    @cached_property
    def batches(self) -> Batches:
        """Cuts work into batches; remembers what did not fit."""
        return Batches(self.model.default_batch_size if self.batch_size is None else self.batch_size)

    def invert_batches(
        self, images: Images, method: InversionConfig, crop: Crop
    ) -> Iterator[tuple[InversionBatch, list[Latent]]]:
        """Invert."""
        grid = method.make_grid(self.model.schedule)
        spans, solver, recipe = self.model.schedule.spans(grid), method.make_solver(), self.recipe(method, grid)
        denoiser = self._watched(self.model.conditioned_on(method.condition))

        def inverted(pictures: Sequence[PreparedImage]) -> tuple[Sequence[PreparedImage], _Batch, InversionBatch]:
            batch = self._batch(pictures, method)
            return pictures, batch, self._trip(batch, invert(denoiser, batch.x0, spans, solver, batch.noise))

        for pictures, batch, trip in self.batches(inverted, prepare_images(images, self.model.size, crop)):
            recipes = [
                replace(
                    recipe,
                    dequantise=mix,
                    origin=InversionOrigin(**picture.origin, exact=method.exact, refine=method.refine),
                )
                for mix, picture in zip(batch.mixes, pictures, strict=True)
            ]
            yield trip, trip.latents(recipes)

    def latents_at(
        self, images: Images, levels: Sequence[str | float], method: InversionConfig, crop: Crop, cache: Cache
    ) -> list[LatentArray]:
        """Return the latents of images at several levels, from one inversion each, past a cache."""
        schedule = self.model.schedule
        grid = method.make_grid(schedule)
        spaces = [find_space(level, grid, schedule.T) for level in levels]
        origin = LatentArrayOrigin(method.dequantise, method.refine)
        recipe = replace(self.recipe(method, grid), origin=origin)
        reader = _Reader(self, method, spaces, recipe, cache)
        rows = list(chain.from_iterable(self.batches(reader, prepare_images(images, self.model.size, crop))))
        if not rows:
            raise ArgumentError("at least one picture", "none", "hand in a file, a folder or a tensor")
        columns = zip(*rows, strict=True)
        return [
            LatentArray(
                torch.stack(column),
                # A direction of x moves latents that stand at its level; one of h needs all of the trajectory.
                replace(
                    recipe,
                    times=grid.times if space.times else grid.until(space.last).times,
                    origin=replace(origin, level=str(level)),
                ),
                space.times,
            )
            for level, space, column in zip(levels, spaces, columns, strict=True)
        ]

    def trace(
        self, pictures: Sequence[PreparedImage], method: InversionConfig, spaces: Sequence[Space]
    ) -> list[Tensor]:
        """The codes of one batch in several spaces, [B, ...] each."""
        batch, grid = self._batch(pictures, method), method.make_grid(self.model.schedule)
        spans = self.model.schedule.spans(grid.until(max(space.last for space in spaces)))
        passed, denoiser = Trajectory({}, {}), self.model.conditioned_on(method.condition)
        if any(space.times for space in spaces):
            denoiser = BottleneckReader(denoiser, passed.bottlenecks)
        invert(
            self._watched(denoiser), batch.x0, spans, recording(find_solver(method.solver), passed.states), batch.noise
        )
        return [space.read(passed).float().cpu() for space in spaces]

    def decode(self, latents: Sequence[Latent], denoiser: Denoiser | None = None) -> Tensor:
        """Decode latents of any walks, with the model's denoiser or another one made of it."""

        def decoded(alike: Sequence[Latent]) -> Tensor:
            return self._decode(Latents(alike), denoiser)

        walks = (alike for _, alike in groupby(latents, key=lambda latent: latent.recipe.compatibility_key))
        return torch.cat(list(chain.from_iterable(self.batches(decoded, alike) for alike in walks)))

    def sample(self, seeds: Sequence[int], method: InversionConfig, grid: Grid, solver: NoisySolver) -> Tensor:
        """New pictures by a solver that draws noise of its own from the same seeds."""
        denoiser = self._watched(self.model.conditioned_on(method.condition))
        spans = self.model.schedule.spans(grid)

        def drawn(some: Sequence[int]) -> Tensor:
            return self._sample(SeededNoise(some), denoiser, spans, solver)

        return torch.cat(list(self.batches(drawn, seeds)))

    def recipe(self, method: InversionConfig, grid: Grid) -> Recipe:
        """What a latent of this model says of itself."""
        model = self.model
        return Recipe(
            model=model.name,
            weights=model.weights,
            schedule=model.schedule.description,
            prediction=model.prediction,
            dtype=model.dtype,
            solver=method.solver,
            grid=grid.name,
            times=grid.times,
            condition=method.condition,
        )

    def require_own(self, latent: Latent, force: bool = False) -> None:
        """Insist that a latent belongs to this model, weights, schedule and dtype; forced, that it fits."""
        if not force:
            _require_same(self.model, latent.recipe)
        if tuple(latent.x.shape) != self.model.shape:
            wanted = f"a latent of shape {list(self.model.shape)}, which {self.model.name} takes"
            given = f"one of shape {list(latent.x.shape)}"
            raise LatentMismatchError(wanted, given, f"load {latent.recipe.model}")
        if not all(part.isfinite().all() for part in latent.parts):
            raise LatentError("a latent of finite numbers", "one with others", "invert its picture anew")

    def _watched(self, denoiser: Denoiser) -> Denoiser:
        return denoiser if self.on_evaluation is None else ProgressDenoiser(denoiser, self.on_evaluation)

    def _batch(self, pictures: Sequence[PreparedImage], method: InversionConfig) -> _Batch:
        originals = torch.stack([picture.pixels for picture in pictures])
        mixes = [_dequantisation(method, picture) for picture in pictures]
        x0 = _encoded(self.model.codec, self.model.to_state_device(originals), method.refine)
        return _Batch(originals, x0, mixes, self._noise(mixes))

    def _trip(self, batch: _Batch, found: Inversion) -> InversionBatch:
        codec = self.model.codec
        if found.trip is None:
            return InversionBatch(batch.originals, found, None)
        coded = codec.decode(batch.x0).cpu() if codec.lossy else None
        return InversionBatch(batch.originals, found, codec.decode(found.trip.decoded).cpu(), coded)

    def _noise(self, mixes: Sequence[NoiseMix]) -> Tensor | None:
        return self.model.to_state_device(draw_mixed_noise(mixes, self.model.shape)) if any(mixes) else None

    def _decode(self, latents: Latents, denoiser: Denoiser | None) -> Tensor:
        """Decode latents of one walk, few enough for one batch."""
        recipe, schedule = latents[0].recipe, self.model.schedule
        denoiser = denoiser or self.model.conditioned_on(recipe.condition)
        spans = schedule.spans(Grid(recipe.grid, recipe.times))
        parts = tuple(map(self.model.to_state_device, latents.parts))
        noise = self._noise([latent.recipe.dequantise for latent in latents])
        x0 = sample(self._watched(denoiser), parts, spans, find_solver(recipe.solver), noise).x0
        return self.model.codec.decode(x0).cpu()

    def _sample(self, noise: SeededNoise, denoiser: Denoiser, spans: Spans, solver: NoisySolver) -> Tensor:
        x = self.model.to_state_device(noise.draw(self.model.shape))
        return self.model.codec.decode(sample(denoiser, (x,), spans, solver(noise)).x0).cpu()


@dataclass(frozen=True)
class _Reader:
    """Reads the latents of one batch after another, through a cache."""

    walker: BatchRunner
    method: InversionConfig
    spaces: Sequence[Space]
    recipe: Recipe
    cache: Cache

    def __call__(self, pictures: Sequence[PreparedImage]) -> list[list[Tensor]]:
        keys = [[cache_key(self.recipe, space, picture.origin) for space in self.spaces] for picture in pictures]
        kept = [[self.cache.get(key) for key in row] for row in keys]
        rows = {index: [code for code in row if code is not None] for index, row in enumerate(kept)}
        absent = [index for index, row in rows.items() if len(row) < len(self.spaces)]
        if absent:
            found = self.walker.trace([pictures[index] for index in absent], self.method, self.spaces)
            rows |= {index: list(codes) for index, codes in zip(absent, zip(*found, strict=True), strict=True)}
        for index in absent:
            self.cache.update(zip(keys[index], rows[index], strict=True))
        return list(rows.values())


def _require_same(mine: Model, theirs: Recipe) -> None:
    if (theirs.model, theirs.weights, theirs.dtype) != (mine.name, mine.weights, mine.dtype):
        raise LatentMismatchError(
            f"a latent of {mine.name} (weights {mine.weights[:8]}, {mine.dtype})",
            f"one of {theirs.model} (weights {theirs.weights[:8]}, {theirs.dtype})",
            "load that model, or force it",
        )
    trained = mine.prediction, dict(mine.schedule.description)
    if (theirs.prediction, dict(theirs.schedule)) != trained:
        given = f"one made with {theirs.prediction} and {theirs.schedule}"
        wanted = f"a latent made with {trained[0]} and {trained[1]}"
        raise LatentMismatchError(wanted, given, "restore that scheduler_config.json, or force it")


def _encoded(codec: Codec, pictures: Tensor, refine: str | None) -> Tensor:
    """x_0 of pictures [B, 3, H, W], bettered where that is asked for."""
    x0 = codec.encode(pictures)
    if refine is None:
        return x0
    if refine not in REFINERS or not isinstance(codec, AutoencoderCodec):
        wanted = f"a model with an autoencoder, and a refinement out of {', '.join(REFINERS)}"
        raise ArgumentError(wanted, f"{refine!r} for a {type(codec).__name__}", "leave the refinement out")
    return REFINERS[refine](codec, pictures, x0)


def _dequantisation(method: InversionConfig, source: PreparedImage) -> NoiseMix:
    return () if method.dequantise is None else ((derive_seed(method.dequantise, source.origin["source"]), 1.0),)
