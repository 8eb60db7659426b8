"""Run images and latents through one model, in batches that fit in memory."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig, workload_of_recipes
from ddim_edit.diffusion.bottleneck import BottleneckReader
from ddim_edit.diffusion.denoisers import Denoiser, ProgressDenoiser
from ddim_edit.diffusion.grids import Grid, grid_below
from ddim_edit.diffusion.integration import Ending, invert, sample
from ddim_edit.diffusion.noise import NoiseMix, SeededNoise, begin_drawing, draw_mixed_noise, noise_of_image
from ddim_edit.diffusion.solvers.recording import record_states
from ddim_edit.diffusion.solvers.registry import SOLVER_ENTRIES, find_solver
from ddim_edit.diffusion.solvers.solver import Solver, Spans
from ddim_edit.diffusion.workload import Workload, inversion_workload
from ddim_edit.errors import ArgumentError, InputWarning, LatentError, LatentMismatchError, ModelError
from ddim_edit.images import Crop, default_crop
from ddim_edit.images.inputs import NO_IMAGES, Images, count_images
from ddim_edit.images.prepare import READ_AHEAD, PreparedImage, prepare_images
from ddim_edit.io.prefetch import draw_ahead, prefetch_map
from ddim_edit.io.progress import evaluation_bar
from ddim_edit.latents.cache import Cache, LatentArray, cache_key
from ddim_edit.latents.latent import NONFINITE, Latent, Latents, find_contradiction
from ddim_edit.latents.provenance import InversionOrigin, LatentArrayOrigin, Recipe
from ddim_edit.latents.spaces import Space, Trajectory, find_space
from ddim_edit.memory import AdaptiveBatcher
from ddim_edit.metrics.latent_health import health
from ddim_edit.metrics.reconstruction import InversionBatch
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.codec.refinement import REFINERS
from ddim_edit.models.finite import (
    DECODER,
    ENCODER,
    NETWORK,
    FirstLook,
    GuardedDenoiser,
    describe_nonfinite,
    find_failures,
    finite_rows,
    require_finite,
)
from ddim_edit.models.identity import find_difference
from ddim_edit.models.model import Model
from ddim_edit.models.typicality import LEVELS, typicality_features
from ddim_edit.transfer import begin_copy_to_cpu

ENCODING, REFINING, INVERTING, SAMPLING, DECODING = "encoding", "refining", "inverting", "sampling", "decoding"
STAGES = (ENCODING, REFINING, INVERTING, SAMPLING, DECODING)
"""What is being done: the autoencoder encodes, refines or decodes, or the network inverts or samples."""

Chunk = TypeVar("Chunk")
InvertedBatches = Iterator[tuple[InversionBatch, list[Latent]]]
OnEvaluation = Callable[[int], object]
"""Called after an evaluation of the network with the number of images in it."""


class PreparedBatch(NamedTuple):
    """Images with everything that a thread can prepare without the device.

    Attributes:
        images: the images with their origins.
        originals: their pixels [B, 3, H, W] in pinned memory.
        mixes: the dequantisation noise of each as seeds and weights.
        draw_noise: waits for the same noise, which threads are drawing: a tensor [B, C, H, W] in pinned memory, or None
            where there is none.
    """

    images: Sequence[PreparedImage]
    originals: Tensor
    mixes: Sequence[NoiseMix]
    draw_noise: Callable[[], Tensor | None]

    def rows(self, start: int, end: int) -> "PreparedBatch":
        """Return some of its images."""

        def draw_noise() -> Tensor | None:
            noise = self.draw_noise()
            return None if noise is None else noise[start:end]

        return PreparedBatch(self.images[start:end], self.originals[start:end], self.mixes[start:end], draw_noise)


class QueuedInversion(NamedTuple):
    """A batch that a device works through.

    Attributes:
        batch: the images.
        x0: what the network takes of them, on the device.
        results: waits for the inversion on the CPU, and for what `Typicality` compares of the images, if it does.
    """

    batch: PreparedBatch
    x0: Tensor
    results: Callable[[], tuple[InversionBatch, Tensor | None]]


class BatchRunner:
    """Runs images and latents through one model in batches.

    Args:
        model: the model.
        batch_size: images per forward pass, at least 1; None is the default of the device. It is halved where memory
            runs out.
        on_evaluation: called after every network evaluation with the number of images in it.
        on_stage: called with one of `STAGES` before the autoencoder takes an image, and before the network takes a
            batch.
        progress: whether a bar shows how many evaluations are done.

    Raises:
        ArgumentError: a batch size below 1.
    """

    def __init__(
        self,
        model: Model,
        batch_size: int | None = None,
        on_evaluation: OnEvaluation | None = None,
        on_stage: Callable[[str], object] | None = None,
        progress: bool = False,
    ) -> None:
        self.model = model
        self.batches = AdaptiveBatcher(model.default_batch_size if batch_size is None else batch_size)
        self._on_evaluation = on_evaluation
        self._on_stage = on_stage
        self._progress = progress
        self._first_look = FirstLook(model)

    def prepare(self, images: Images, crop: Crop | None, ahead: int = READ_AHEAD) -> Iterator[PreparedImage]:
        """Yield images as `prepare_images` does for this model; without a crop they are cropped by `default_crop`."""
        return prepare_images(images, self.model.size, crop or default_crop(self.model.face_template), ahead)

    def invert(self, images: Images, config: InversionConfig, crop: Crop | None) -> InvertedBatches:
        """Yield inverted batches, each with the latents of its images."""
        size = self.batches.size
        prepared = self.prepare(images, crop, ahead=max(READ_AHEAD, size))
        chunks = iter(lambda: list(islice(prepared, size)), [])
        count = count_images(images) if self._progress else None
        return chain.from_iterable(self.invert_chunks(chunks, list, config, count=count))

    def invert_chunks(
        self,
        chunks: Iterable[Chunk],
        read: Callable[[Chunk], Sequence[PreparedImage]],
        config: InversionConfig,
        check_typicality: bool = True,
        count: int | None = None,
    ) -> Iterator[InvertedBatches]:
        """Invert one chunk of images after another; while one is in the network, a thread prepares the next one.

        On a GPU a chunk is handed out when the next one has been queued, so that the device need not wait for whoever
        takes it.

        Args:
            chunks: of images; drawn one ahead, on a GPU two.
            read: returns the images of a chunk, called in that thread.
            config: how to invert.
            check_typicality: whether to report how typical the images are for the model, if that was measured.
            count: the number of all images, for the bar.

        Warns:
            InputWarning: an image that does not look like those that the model was trained on.
        """
        model = self.model
        typicality = model.typicality if check_typicality else None
        grid = config.make_grid(model.schedule)
        spans = model.schedule.spans(grid)
        solver = config.make_solver()
        recipe = self.recipe(config, grid)

        @torch.no_grad()
        def queue(chunk: PreparedBatch, rows: Sequence[int]) -> QueuedInversion:
            batch = chunk.rows(rows[0], rows[-1] + 1)
            x0 = self._encode(batch, config)
            self._begin(INVERTING)
            # Typicality first, as it needs no noise of the images: a GPU has something to do while that is drawn.
            features = None if typicality is None else typicality_features(model, x0, typicality.levels)
            found = invert(denoiser, x0, spans, solver, self._to_device(batch.draw_noise()))
            decoded = None
            coded = None
            if found.check is not None:
                # What a lossy codec alone makes of the images is measured too, to tell its loss from the solver's.
                decoded = self._run_codec(DECODING, model.codec.decode, found.check.decoded)
                coded = self._run_codec(DECODING, model.codec.decode, x0) if model.codec.lossy else None
            inverted = InversionBatch(batch.originals, found, decoded, coded, health(found.state[0]))
            return QueuedInversion(batch, x0, begin_copy_to_cpu((inverted, features)))

        def prepare(chunk: Chunk) -> PreparedBatch:
            return self._prepare(read(chunk), config)

        def queue_chunks() -> Iterator[Iterator[QueuedInversion]]:
            for _, prepared in prefetch_map(prepare, chunks, depth=1, threads=1):
                chunk = prepared()
                yield self.batches(partial(queue, chunk), range(len(chunk.images)))

        def workload() -> Workload | None:
            return None if count is None else count * config.inversion_workload(model.schedule)

        with self.counting(INVERTING, workload) as on_evaluation:
            denoiser = self._guard(model.conditioned_on(config.condition), on_evaluation)
            if model.state_device.type == "cuda":
                # The device works through one chunk while the results of the one before are read and handed out.
                queued_chunks: Iterator[Iterable[QueuedInversion]] = draw_ahead(map(list, queue_chunks()))
            else:
                queued_chunks = queue_chunks()
            for queued in queued_chunks:
                yield (self._finish_inversion(each, config, recipe) for each in queued)

    def _finish_inversion(
        self, queued: QueuedInversion, config: InversionConfig, recipe: Recipe
    ) -> tuple[InversionBatch, list[Latent]]:
        """Wait for a batch, and return it with the latents of its images."""
        inverted, features = queued.results()
        typicality = self.model.typicality
        if typicality is not None and features is not None:
            scores = typicality.score(features)
            inverted = inverted._replace(atypicality=scores)
            for image, score in zip(queued.batch.images, scores.tolist(), strict=True):
                if problem := typicality.describe(score, self.model.name):
                    warnings.warn(f"{image.name}: {problem}", InputWarning, stacklevel=2)
        recipes = []
        for image, mix in zip(queued.batch.images, queued.batch.mixes, strict=True):
            origin = InversionOrigin(**image.origin, exact=config.exact, refine=config.refine, pixels=image.digest)
            recipes.append(replace(recipe, dequantise=mix, origin=origin))
        latents = inverted.latents(recipes)
        images = (inverted.decoded, inverted.coded)
        for row, problem in find_failures(self.model, queued.x0, inverted.found.parts, images).items():
            latents[row] = replace(latents[row], report={**latents[row].report, NONFINITE: problem})
        return inverted, latents

    def typicality_features(self, images: Images, crop: Crop | None, levels: Sequence[float] = LEVELS) -> Tensor:
        """Return what `Typicality` compares of images [N, K + D], from denoising them at noise-to-signal ratios."""
        model = replace(self.model, denoiser=self._guard(self.model.denoiser, self._on_evaluation))

        @torch.no_grad()
        def denoise(some: Sequence[PreparedImage]) -> Tensor:
            x0 = self._encode(self._prepare(some, InversionConfig(dequantise=None)), InversionConfig())
            return typicality_features(model, x0, levels).cpu()

        rows = list(self.batches(denoise, self.prepare(images, crop)))
        if not rows:
            raise ArgumentError(NO_IMAGES)
        return torch.cat(rows)

    def latents_at(
        self, images: Images, levels: Sequence[str | float], config: InversionConfig, crop: Crop | None, cache: Cache
    ) -> list[LatentArray]:
        """Return the latents of images at several levels, from one inversion of each image that is not in the cache."""
        schedule = self.model.schedule
        grid = config.make_grid(schedule)
        spaces = [find_space(level, grid, schedule.T) for level in levels]
        origin = LatentArrayOrigin(config.dequantise, config.refine)
        recipe = replace(self.recipe(config, grid), origin=origin)

        spans = schedule.spans(grid.until(max(space.last for space in spaces)))
        solver = config.plain_solver()

        def workload() -> Workload | None:
            count = count_images(images)
            noisy = config.dequantise is not None
            return None if count is None else count * inversion_workload(solver, spans, noisy)

        @torch.no_grad()
        def read_batch(prepared: Sequence[PreparedImage]) -> list[list[Tensor]]:
            keys = [[cache_key(recipe, space, image.origin) for space in spaces] for image in prepared]
            rows = [[cache.get(key) for key in row] for row in keys]
            absent = [index for index, row in enumerate(rows) if any(value is None for value in row)]
            if absent:
                found = self._read_spaces([prepared[index] for index in absent], config, spans, spaces, on_evaluation)
                for position, index in enumerate(absent):
                    values = [column[position] for column in found]
                    rows[index] = list(values)
                    cache.update(zip(keys[index], values, strict=True))
            return rows  # type: ignore[return-value]  # nothing is absent any more

        digests: list[str] = []

        def digested() -> Iterator[PreparedImage]:
            for image in self.prepare(images, crop):
                # Of the pixels, not the file: a copy that was saved again in another format is the same image.
                digests.append(image.digest)
                yield image

        with self.counting(INVERTING, workload) as on_evaluation:
            rows = list(chain.from_iterable(self.batches(read_batch, digested())))
        if not rows:
            raise ArgumentError(NO_IMAGES)
        arrays = []
        for index, (level, space) in enumerate(zip(levels, spaces, strict=True)):
            values = torch.stack([row[index] for row in rows])
            # A direction of x moves latents that stand at its level; one of h may be applied on the whole trajectory.
            times = grid.times if space.edited_at is None else grid.until(space.edited_at).times
            at_level = replace(recipe, times=times, origin=replace(origin, level=str(level)))
            arrays.append(LatentArray(values, at_level, space.times, tuple(digests)))
        return arrays

    def _read_spaces(
        self,
        prepared: Sequence[PreparedImage],
        config: InversionConfig,
        spans: Spans,
        spaces: Sequence[Space],
        on_evaluation: OnEvaluation | None,
    ) -> list[Tensor]:
        """Invert a batch and return its latents in several spaces, [B, ...] each."""
        batch = self._prepare(prepared, config)
        trajectory = Trajectory({}, {})
        denoiser = self.model.conditioned_on(config.condition)
        if any(space.times for space in spaces):
            denoiser = BottleneckReader(denoiser, trajectory.bottlenecks)
        solver = record_states(config.plain_solver(), trajectory.states)
        x0 = self._encode(batch, config)
        self._begin(INVERTING)
        # The trajectory is all that is wanted: the solver and the denoiser record it as they go.
        invert(self._guard(denoiser, on_evaluation), x0, spans, solver, self._to_device(batch.draw_noise()))
        found = [space.read(trajectory).float().cpu() for space in spaces]
        for values in found:
            require_finite(self.model, NETWORK, values)
        return found

    def decode(
        self, latents: Sequence[Latent], denoiser: Denoiser | None = None, solver: Solver | None = None
    ) -> Tensor:
        """Return the images of latents by their own recipes, with the model's denoiser and solver or with others."""

        @torch.no_grad()
        def decode_batch(alike: Sequence[Latent]) -> Tensor:
            recipe = alike[0].recipe
            spans = self.model.schedule.spans(Grid(recipe.grid, recipe.times))
            state = tuple(self.model.to_state_device(each) for each in Latents(alike).state)
            mixes = [latent.recipe.dequantise for latent in alike]
            noise = self._to_device(draw_mixed_noise(mixes, self.model.shape)) if any(mixes) else None
            ending = None
            if recipe.detail is not None:
                below = self.model.schedule.spans(grid_below(recipe.times[0], self.model.schedule))
                parts = [latent.recipe.detail or 0.0 for latent in alike]
                ending = Ending(self.model.to_state_device(Latents(alike).detail), parts, below)
            own = denoiser or self.model.conditioned_on(recipe.condition)
            self._begin(SAMPLING)
            guarded = self._guard(own, on_evaluation)
            return self._decode(sample(guarded, state, spans, solver or find_solver(recipe.solver), noise, ending).x0)

        def workload() -> Workload:
            return workload_of_recipes([latent.recipe for latent in latents], self.model.schedule, solver)

        # Latents that are decoded alike share batches, wherever they stand. Their keys hold mappings and have no hash.
        groups: list[tuple[object, list[int]]] = []
        for row, latent in enumerate(latents):
            key = (latent.recipe.compatibility_key, latent.recipe.detail is None)
            rows = next((rows for other, rows in groups if other == key), None)
            if rows is None:
                groups.append((key, [row]))
            else:
                rows.append(row)
        images: dict[int, Tensor] = {}
        with self.counting(DECODING, workload) as on_evaluation:
            for _, rows in groups:
                decoded = torch.cat(list(self.batches(decode_batch, [latents[row] for row in rows])))
                images.update(zip(rows, decoded, strict=True))
        return torch.stack([images[row] for row in range(len(latents))])

    def sample(
        self, seeds: Sequence[int], config: InversionConfig, grid: Grid, make_solver: Callable[[SeededNoise], Solver]
    ) -> Tensor:
        """Return new images by a solver that draws its noise from the same seeds as x_T."""
        spans = self.model.schedule.spans(grid)

        @torch.no_grad()
        def sample_batch(some: Sequence[int]) -> Tensor:
            # x_T and the noise of the steps come from one generator per image: a fresh one would draw x_T again.
            noise = SeededNoise(some)
            x = self.model.to_state_device(noise.draw(self.model.shape))
            self._begin(SAMPLING)
            return self._decode(sample(denoiser, (x,), spans, make_solver(noise)).x0)

        with self.counting(SAMPLING, lambda: Workload.exactly(len(seeds) * len(spans))) as on_evaluation:
            denoiser = self._guard(self.model.conditioned_on(config.condition), on_evaluation)
            return torch.cat(list(self.batches(sample_batch, seeds)))

    def _prepare(self, images: Sequence[PreparedImage], config: InversionConfig) -> PreparedBatch:
        """Stack images and begin to draw their noise, in memory that a device copies from without blocking."""
        originals = torch.empty(0, 3, *self.model.size, dtype=torch.float64)
        if images:
            originals = torch.stack([image.pixels for image in images])
        mixes = [noise_of_image(config.dequantise, image.origin["source"]) for image in images]
        drawn = begin_drawing(mixes, self.model.shape) if any(mixes) else None

        @cache  # a batch that does not fit is begun again
        def draw_noise() -> Tensor | None:
            return None if drawn is None else self.model.pinned(drawn())

        return PreparedBatch(images, self.model.pinned(originals), mixes, draw_noise)

    def _encode(self, batch: PreparedBatch, config: InversionConfig) -> Tensor:
        """Return the x_0 of a batch of images, refined if the config asks for it.

        Raises:
            ArgumentError: an unknown refinement, or one for a model without an autoencoder.
            ModelError: an encoder that returns nothing finite.
        """
        images = self.model.to_state_device(batch.originals)
        x0 = self._run_codec(ENCODING, self.model.codec.encode, images)
        # As in `GuardedDenoiser`: does the encoder fail for these images, or for any?
        fails = isinstance(self.model.codec, AutoencoderCodec) and len(x0) and not finite_rows(x0).any()
        if fails and not self.model.codec.encode(torch.zeros_like(images[:1])).isfinite().all():
            raise ModelError(describe_nonfinite(self.model, ENCODER))
        if config.refine is None:
            return x0
        if config.refine not in REFINERS:
            known = ", ".join(REFINERS)
            raise ArgumentError(f"There is no refinement {config.refine!r}. Choose one of {known}.")
        if not isinstance(self.model.codec, AutoencoderCodec):
            raise ArgumentError(f"{self.model.name} has no autoencoder to refine. Leave the refinement out.")
        refined = []
        for image, start in zip(images, x0, strict=True):
            self._begin(REFINING)
            refined.append(REFINERS[config.refine](self.model.codec, image[None], start[None]))
        return torch.cat(refined)

    def _run_codec(self, stage: str, run: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Return what the codec makes of images or of x_0; autoencoders, which are slow, take one after another."""
        if not isinstance(self.model.codec, AutoencoderCodec) or not len(rows):
            return run(rows)
        results = []
        for row in rows:
            self._begin(stage)
            results.append(run(row[None]))
        return torch.cat(results)

    def _begin(self, stage: str) -> None:
        if self._on_stage is not None:
            self._on_stage(stage)

    def recipe(self, config: InversionConfig, grid: Grid) -> Recipe:
        """Return what a latent of this model says of itself."""
        model = self.model
        return Recipe(
            model=model.name,
            components=model.components,
            schedule=model.schedule.description,
            prediction=model.prediction,
            dtype=model.dtype,
            solver=config.solver_name,
            grid=grid.name,
            times=grid.times,
            condition=config.condition,
        )

    def require_own(self, latent: Latent, force: bool = False, solver: Solver | None = None) -> None:
        """Refuse a latent of another model, schedule or dtype; with `force`, only one that does not fit.

        Raises:
            LatentMismatchError: it belongs to another model, or has another shape.
            LatentError: it contradicts itself, is not finite, or is of an unknown solver.
        """
        model = self.model
        recipe = latent.recipe
        if problem := find_contradiction(recipe, latent.t, latent.parts):
            raise LatentError(f"The latent contradicts itself: {problem} Invert its image again.")
        if solver is None and recipe.solver not in SOLVER_ENTRIES:
            raise LatentError(
                f"The latent is decoded by the solver {recipe.solver!r:.60}, which is none of "
                f"{', '.join(SOLVER_ENTRIES)}. Pass the `Solver` object that inverted it."
            )
        if recipe.times[-1] > model.schedule.T:
            raise LatentMismatchError(
                f"The latent has times up to {recipe.times[-1]:g}, but the schedule of {model.name} ends at "
                f"{model.schedule.T}. Load {recipe.model}."
            )
        if not force:
            if (recipe.prediction, dict(recipe.schedule)) != (model.prediction, dict(model.schedule.description)):
                raise LatentMismatchError(
                    f"The latent was made with {recipe.prediction} and {dict(recipe.schedule)}, but {model.name} has "
                    f"{model.prediction} and {dict(model.schedule.description)}. "
                    "Restore its scheduler_config.json, or force it."
                )
            made_with = find_difference(model.components, recipe.components)
            if made_with is not None:
                raise LatentMismatchError(
                    f"The latent is of {recipe.model} and was made with {made_with} than {model.name} has. Load the "
                    "model that it was made with, or decode it all the same with --force (force=True)."
                )
            if recipe.dtype != model.dtype:
                raise LatentMismatchError(
                    f"The latent was made in {recipe.dtype}, and {model.name} is loaded in {model.dtype}. Load it with "
                    f"--dtype {recipe.dtype}, or decode it all the same with --force (force=True)."
                )
        if tuple(latent.x.shape) != model.shape:
            raise LatentMismatchError(
                f"The latent has shape {list(latent.x.shape)}, but {model.name} takes {list(model.shape)}. "
                f"Load {recipe.model}."
            )
        if not all(each.isfinite().all() for each in latent.state):
            raise LatentError("The latent contains NaN or infinite values. Invert its image again.")

    def _decode(self, x0: Tensor) -> Tensor:
        """Return the images of x_0, on the CPU.

        Raises:
            NonFiniteError: an x_0, or an image of it, that is not finite.
        """
        images = self._run_codec(DECODING, self.model.codec.decode, x0).cpu()
        if not images.isfinite().all():
            require_finite(self.model, NETWORK, x0)
            require_finite(self.model, DECODER, images)
        return images

    def _guard(self, denoiser: Denoiser, on_evaluation: OnEvaluation | None) -> Denoiser:
        """Return a denoiser that reports progress, and ends the run where nothing that it returns is finite."""
        guarded = GuardedDenoiser(denoiser, self._first_look)
        return guarded if on_evaluation is None else ProgressDenoiser(guarded, on_evaluation)

    @contextmanager
    def counting(self, description: str, workload: Callable[[], Workload | None]) -> Iterator[OnEvaluation | None]:
        """Yield what to call after an evaluation; with `progress` it moves a bar too, until the block ends."""
        listener = self._on_evaluation
        if not self._progress:
            yield listener
            return
        expected = workload()
        with evaluation_bar(description, None if expected is None else expected.expected) as count:

            def tell(images: int) -> None:
                count(images)
                if listener is not None:
                    listener(images)

            yield tell

    def _to_device(self, noise: Tensor | None) -> Tensor | None:
        return None if noise is None else self.model.to_state_device(noise)
