"""Run images and latents through one model, in batches that fit in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.bottleneck import BottleneckReader
from ddim_edit.diffusion.denoisers import Denoiser, ProgressDenoiser
from ddim_edit.diffusion.grids import Grid
from ddim_edit.diffusion.integration import invert, sample
from ddim_edit.diffusion.noise import NoiseMix, SeededNoise, derive_seed, draw_mixed_noise
from ddim_edit.diffusion.solvers.base import Solver
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
from ddim_edit.models.codec.refinement import REFINERS
from ddim_edit.models.memory import Batches
from ddim_edit.models.model import Model


class EncodedImages(NamedTuple):
    """A batch of images, encoded: images [B, 3, H, W], x_0, the noise of each as seeds and weights, and that noise."""

    originals: Tensor
    x0: Tensor
    mixes: Sequence[NoiseMix]
    noise: Tensor | None


class BatchRunner:
    """Runs images and latents through one model in batches.

    Args:
        model: the model.
        batch_size: images per forward pass, at least 1; None is the default of the device. It is halved where memory
            runs out.
        on_evaluation: called after every network evaluation with the number of images in it.

    Raises:
        ArgumentError: a batch size below 1.
    """

    def __init__(
        self, model: Model, batch_size: int | None = None, on_evaluation: Callable[[int], object] | None = None
    ) -> None:
        self.model = model
        self.batches = Batches(model.default_batch_size if batch_size is None else batch_size)
        self._on_evaluation = on_evaluation

    def invert(
        self, images: Images, config: InversionConfig, crop: Crop
    ) -> Iterator[tuple[InversionBatch, list[Latent]]]:
        """Yield inverted batches, each with the latents of its images."""
        model = self.model
        grid = config.make_grid(model.schedule)
        spans = model.schedule.spans(grid)
        solver = config.make_solver()
        recipe = self.recipe(config, grid)
        denoiser = self._report_progress(model.conditioned_on(config.condition))

        def invert_batch(prepared: Sequence[PreparedImage]) -> tuple[InversionBatch, list[Latent]]:
            encoded = self.encode(prepared, config)
            found = invert(denoiser, encoded.x0, spans, solver, encoded.noise)
            decoded = coded = None
            if found.trip is not None:
                decoded = model.codec.decode(found.trip.decoded).cpu()
                coded = model.codec.decode(encoded.x0).cpu() if model.codec.lossy else None
            recipes = []
            for image, mix in zip(prepared, encoded.mixes, strict=True):
                origin = InversionOrigin(**image.origin, exact=config.exact, refine=config.refine)
                recipes.append(replace(recipe, dequantise=mix, origin=origin))
            batch = InversionBatch(encoded.originals, found, decoded, coded)
            return batch, batch.latents(recipes)

        yield from self.batches(invert_batch, prepare_images(images, model.size, crop))

    def latents_at(
        self, images: Images, levels: Sequence[str | float], config: InversionConfig, crop: Crop, cache: Cache
    ) -> list[LatentArray]:
        """Return the latents of images at several levels, from one inversion of each image that is not in the cache."""
        schedule = self.model.schedule
        grid = config.make_grid(schedule)
        spaces = [find_space(level, grid, schedule.T) for level in levels]
        origin = LatentArrayOrigin(config.dequantise, config.refine)
        recipe = replace(self.recipe(config, grid), origin=origin)

        def read_batch(prepared: Sequence[PreparedImage]) -> list[list[Tensor]]:
            keys = [[cache_key(recipe, space, image.origin) for space in spaces] for image in prepared]
            rows = [[cache.get(key) for key in row] for row in keys]
            absent = [index for index, row in enumerate(rows) if any(value is None for value in row)]
            if absent:
                found = self._read_spaces([prepared[index] for index in absent], config, grid, spaces)
                for position, index in enumerate(absent):
                    values = [column[position] for column in found]
                    rows[index] = list(values)
                    cache.update(zip(keys[index], values, strict=True))
            return rows  # type: ignore[return-value]  # nothing is absent any more

        rows = list(chain.from_iterable(self.batches(read_batch, prepare_images(images, self.model.size, crop))))
        if not rows:
            raise ArgumentError("There are no images. Pass a file, a folder or a tensor.")
        arrays = []
        for index, (level, space) in enumerate(zip(levels, spaces, strict=True)):
            values = torch.stack([row[index] for row in rows])
            # A direction of x moves latents that stand at its level; one of h is applied along the whole trajectory.
            times = grid.times if space.times else grid.until(space.last).times
            at_level = replace(recipe, times=times, origin=replace(origin, level=str(level)))
            arrays.append(LatentArray(values, at_level, space.times))
        return arrays

    def _read_spaces(
        self, prepared: Sequence[PreparedImage], config: InversionConfig, grid: Grid, spaces: Sequence[Space]
    ) -> list[Tensor]:
        """Invert a batch and return its latents in several spaces, [B, ...] each."""
        encoded = self.encode(prepared, config)
        spans = self.model.schedule.spans(grid.until(max(space.last for space in spaces)))
        trajectory = Trajectory({}, {})
        denoiser = self.model.conditioned_on(config.condition)
        if any(space.times for space in spaces):
            denoiser = BottleneckReader(denoiser, trajectory.bottlenecks)
        solver = recording(config.plain_solver(), trajectory.states)
        invert(self._report_progress(denoiser), encoded.x0, spans, solver, encoded.noise)
        return [space.read(trajectory).float().cpu() for space in spaces]

    def decode(
        self, latents: Sequence[Latent], denoiser: Denoiser | None = None, solver: Solver | None = None
    ) -> Tensor:
        """Return the images of latents by their own recipes, with the model's denoiser and solver or with others."""

        def decode_batch(alike: Sequence[Latent]) -> Tensor:
            recipe = alike[0].recipe
            spans = self.model.schedule.spans(Grid(recipe.grid, recipe.times))
            parts = tuple(self.model.to_state_device(part) for part in Latents(alike).parts)
            noise = self._draw_noise([latent.recipe.dequantise for latent in alike])
            own = denoiser or self.model.conditioned_on(recipe.condition)
            x0 = sample(self._report_progress(own), parts, spans, solver or find_solver(recipe.solver), noise).x0
            return self.model.codec.decode(x0).cpu()

        images: list[Tensor] = []
        for _, alike in groupby(latents, key=lambda latent: latent.recipe.compatibility_key):
            images += self.batches(decode_batch, alike)
        return torch.cat(images)

    def sample(
        self, seeds: Sequence[int], config: InversionConfig, grid: Grid, make_solver: Callable[[SeededNoise], Solver]
    ) -> Tensor:
        """Return new images by a solver that draws its noise from the same seeds as x_T."""
        denoiser = self._report_progress(self.model.conditioned_on(config.condition))
        spans = self.model.schedule.spans(grid)

        def sample_batch(some: Sequence[int]) -> Tensor:
            # x_T and the noise of the steps come from one generator per image: a fresh one would draw x_T again.
            noise = SeededNoise(some)
            x = self.model.to_state_device(noise.draw(self.model.shape))
            return self.model.codec.decode(sample(denoiser, (x,), spans, make_solver(noise)).x0).cpu()

        return torch.cat(list(self.batches(sample_batch, seeds)))

    def encode(self, prepared: Sequence[PreparedImage], config: InversionConfig) -> EncodedImages:
        """Return the x_0 of a batch of images, refined if the config asks for it, and their dequantisation noise.

        Raises:
            ArgumentError: an unknown refinement, or one for a model without an autoencoder.
        """
        originals = torch.stack([image.pixels for image in prepared])
        images = self.model.to_state_device(originals)
        x0 = self.model.codec.encode(images)
        if config.refine is not None:
            if config.refine not in REFINERS:
                known = ", ".join(REFINERS)
                raise ArgumentError(f"There is no refinement {config.refine!r}. Choose one of {known}.")
            if not isinstance(self.model.codec, AutoencoderCodec):
                raise ArgumentError(f"{self.model.name} has no autoencoder to refine. Leave the refinement out.")
            x0 = REFINERS[config.refine](self.model.codec, images, x0)
        mixes: list[NoiseMix] = []
        for image in prepared:
            seeded = config.dequantise is not None
            mixes.append(((derive_seed(config.dequantise, image.origin["source"]), 1.0),) if seeded else ())  # type: ignore[arg-type]
        return EncodedImages(originals, x0, mixes, self._draw_noise(mixes))

    def recipe(self, config: InversionConfig, grid: Grid) -> Recipe:
        """Return what a latent of this model says of itself."""
        model = self.model
        return Recipe(
            model=model.name,
            weights=model.weights,
            schedule=model.schedule.description,
            prediction=model.prediction,
            dtype=model.dtype,
            solver=config.solver_name,
            grid=grid.name,
            times=grid.times,
            condition=config.condition,
        )

    def require_own(self, latent: Latent, force: bool = False) -> None:
        """Refuse a latent of another model, weights, schedule or dtype; with `force`, only one that does not fit.

        Raises:
            LatentMismatchError: it belongs to another model, or has another shape.
            LatentError: it is not finite.
        """
        model, recipe = self.model, latent.recipe
        if not force:
            mine = f"{model.name} (weights {model.weights[:8]}, {model.dtype})"
            theirs = f"{recipe.model} (weights {recipe.weights[:8]}, {recipe.dtype})"
            if (recipe.model, recipe.weights, recipe.dtype) != (model.name, model.weights, model.dtype):
                raise LatentMismatchError(f"The latent is of {theirs}, not of {mine}. Load that model, or force it.")
            if (recipe.prediction, dict(recipe.schedule)) != (model.prediction, dict(model.schedule.description)):
                raise LatentMismatchError(
                    f"The latent was made with {recipe.prediction} and {dict(recipe.schedule)}, but {model.name} has "
                    f"{model.prediction} and {dict(model.schedule.description)}. "
                    "Restore its scheduler_config.json, or force it."
                )
        if tuple(latent.x.shape) != model.shape:
            raise LatentMismatchError(
                f"The latent has shape {list(latent.x.shape)}, but {model.name} takes {list(model.shape)}. "
                f"Load {recipe.model}."
            )
        if not all(part.isfinite().all() for part in latent.parts):
            raise LatentError("The latent contains NaN or infinite values. Invert its image again.")

    def _report_progress(self, denoiser: Denoiser) -> Denoiser:
        return denoiser if self._on_evaluation is None else ProgressDenoiser(denoiser, self._on_evaluation)

    def _draw_noise(self, mixes: Sequence[NoiseMix]) -> Tensor | None:
        return self.model.to_state_device(draw_mixed_noise(mixes, self.model.shape)) if any(mixes) else None
