"""High-level API: invert, decode, interpolate, edit and sample images with one model.

Whatever takes images takes one or several of them, in any form, and returns one result or several: see `Editor.invert`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Self, TypeGuard, Unpack, cast, overload

import numpy as np
import torch
from torch import Tensor

from ddim_edit.batching import BatchRunner
from ddim_edit.config import InversionConfig, InversionOptions, SolverOptions, make_config
from ddim_edit.diffusion.grids import Grid
from ddim_edit.diffusion.noise import SeededNoise
from ddim_edit.diffusion.solvers.ancestral import AncestralStep, no_noise
from ddim_edit.diffusion.solvers.solver import SamplingOnlySolver, Solver
from ddim_edit.directions import (
    Direction,
    Edit,
    GuidedEdit,
    WordDirection,
    WordEdit,
    find_direction,
    make_edits,
    resolve_direction,
)
from ddim_edit.errors import ArgumentError, LatentMismatchError, NonFiniteError
from ddim_edit.images import Crop, FaceCrop, ImageTensor, Photograph, default_crop, read, read_faces
from ddim_edit.images.inputs import NO_IMAGES, ImageItem, Images, SeveralImages, is_single
from ddim_edit.images.prepare import PreparedImage
from ddim_edit.images.sources import ImageSource, reread
from ddim_edit.io.prefetch import prefetch_map
from ddim_edit.latents.cache import Cache, LatentArray
from ddim_edit.latents.interpolation import PathPoint, count_rows, find_shares, plan_line, plan_path
from ddim_edit.latents.latent import NONFINITE, Latent, Latents, combine, interpolate, require_compatible
from ddim_edit.latents.provenance import NoiseOrigin, TranslationOrigin
from ddim_edit.latents.spaces import find_space
from ddim_edit.metrics.reconstruction import ReconstructedImage, Reconstruction, score_batch
from ddim_edit.metrics.registry import ImageScorer
from ddim_edit.models.checkpoint import ModelParts
from ddim_edit.models.loading import load_model
from ddim_edit.models.model import Model
from ddim_edit.models.pipelines import model_from_pipeline
from ddim_edit.models.typicality import LEVELS
from ddim_edit.tables import html_summary

DEFAULT = InversionConfig()
DirectionLike = str | Path | Direction | WordDirection
"""A direction by its packaged name, file or hub id, a `Direction`, or words for models that follow prompts."""
Editable = Images | Latent | Latents
Strengths = (
    Mapping[str, float]
    | Mapping[Path, float]
    | Mapping[Direction, float]
    | Mapping[WordDirection, float]
    | Mapping[Direction | WordDirection, float]
    | Mapping[DirectionLike, float]
)
"""How far to move along each direction: in standard deviations of its training projections, or in ways of words."""


class Editor:
    """Inverts, decodes, interpolates, edits and samples images with one model.

    Methods that invert take an `InversionConfig`, or its fields as keywords, or both: keywords replace fields.

    Args:
        model: the model.
        batch_size: images per forward pass, which changes no result beyond 1e-5; None is the default of the device. It
            is halved where memory runs out.
        on_evaluation: called after every network evaluation with the number of images in it, in the thread of the call.
            What it raises ends the call; the editor stays usable. It is an attribute too.
        on_stage: called with "encoding", "refining" or "decoding" before an autoencoder takes an image, and with
            "inverting" or "sampling" before the network takes a batch. What it raises ends the call too.
        progress: whether a bar of tqdm shows how many evaluations of a call are done, in notebooks as a widget.

    Threads may share an editor. Where each has to be told of its own calls, or to end them, give each an editor of its
    own with `Editor(editor.model, on_evaluation=...)`, which costs nothing.

    An editor can be pickled, so that it works in other processes (`multiprocessing`, joblib, workers of a DataLoader):
    weights travel with it, callbacks stay behind. It can be copied with `copy.deepcopy`. Results never track
    gradients.

    Examples:
        >>> from importlib import resources
        >>> from ddim_edit import Editor
        >>> image = resources.files("ddim_edit.assets") / "images" / "astronaut_face.png"
        >>> editor = Editor.from_pretrained(device="cpu", dtype="float32")
        >>> latent = editor.invert(str(image), steps=2)
        >>> list(latent.x.shape), latent.t, latent.report["nfe"]
        ([3, 64, 64], 1000.0, 2)
        >>> list(editor.decode(latent).shape), editor.decode(latent).to_pil().size
        ([3, 64, 64], (64, 64))
    """

    def __init__(
        self,
        model: Model,
        batch_size: int | None = None,
        on_evaluation: Callable[[int], object] | None = None,
        on_stage: Callable[[str], object] | None = None,
        progress: bool = False,
    ) -> None:
        self.model = model
        self.on_evaluation = on_evaluation
        self._on_stage = on_stage
        self._progress = progress
        self._offline = False
        self._chosen_batch_size = batch_size
        self._make_runner()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        size: int | tuple[int, int] | None = None,
        offline: bool = False,
        compiled: bool = False,
        batch_size: int | None = None,
        on_evaluation: Callable[[int], object] | None = None,
        on_stage: Callable[[str], object] | None = None,
        progress: bool = False,
        **parts: Unpack[ModelParts],
    ) -> "Editor":
        """Return an editor on a packaged model, a diffusers folder, a checkpoint file or a hub id.

        Arguments as `load_model` and `Editor`.
        """
        model = load_model(name_or_path, device, dtype, size, offline, compiled, **parts)
        editor = cls(model, batch_size, on_evaluation, on_stage, progress)
        editor._offline = offline
        return editor

    @classmethod
    def from_pipeline(
        cls,
        pipeline: Any,
        size: int | tuple[int, int] | None = None,
        batch_size: int | None = None,
        on_evaluation: Callable[[int], object] | None = None,
        on_stage: Callable[[str], object] | None = None,
        progress: bool = False,
    ) -> "Editor":
        """Return an editor on a pipeline of diffusers that is in memory, whatever was done to it there.

        The editor calls the pipeline's own network, autoencoder and text encoders, on its device, in its dtype, with
        its adapters, hooks of offloading and tiling. No weight is copied, and the pipeline goes on working. The noise
        schedule and the prediction type are those of its scheduler; solver and grid are ours.

        Latents are tied to the weights as they are now, LoRAs included, each with its scale. After adapters of the
        pipeline were loaded, scaled, fused or removed, make another editor.

        Args:
            pipeline: a `DiffusionPipeline` whose unet or transformer is of one of the `FAMILIES`.
            size: height and width of the images in pixels, or one number for both; as trained when left out.
            batch_size: as for `Editor`.
            on_evaluation: as for `Editor`.
            on_stage: as for `Editor`.
            progress: as for `Editor`.

        Raises:
            MissingExtraError: diffusers or transformers is not installed.
            ArgumentError: something that is no pipeline, or a size that cannot be had.
            ModelError: a pipeline whose network, scheduler or autoencoder is not supported.
        """
        return cls(model_from_pipeline(pipeline, size), batch_size, on_evaluation, on_stage, progress)

    @overload
    def invert(
        self,
        images: ImageItem,
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        **options: Unpack[InversionOptions],
    ) -> Any: ...
    @overload
    def invert(
        self,
        images: SeveralImages,
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        **options: Unpack[InversionOptions],
    ) -> Latents: ...
    def invert(
        self,
        images: Images,
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        **options: Unpack[InversionOptions],
    ) -> Latent | Latents:
        """Invert images to latents; each has its recipe, and reports how accurate it is.

        Args:
            images: one of

                - an image: a path, the bytes of an image file, a file open in binary mode, a Pillow image, an array
                  [H, W] or [H, W, C] of uint8 or of floats in [0, 1], an `InputImage`, or a tensor [3, H, W] in [-1, 1]
                  of the model's size;
                - several: a list, a tuple or another iterable of these, a folder, an array [N, H, W, C], or a tensor
                  [B, 3, H, W].
            config: solver, grid, steps and so on.
            crop: the part of an image to keep. By default a face model gets the largest face, aligned to its template,
                if the extra `faces` is installed and the image is not of the model's own size; others the centre
                square.
            **options: fields of `InversionConfig`.

        Returns:
            The `Latent` of one image, or the `Latents` of several, also if only one is in the list or the folder.

        Raises:
            ImageError: a file that cannot be used.
            ArgumentError: no images, something that is no image, or a config that does not exist.
            NonFiniteError: the network or the autoencoder returned NaN or infinity.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> images = editor.sample(2, steps=2).clamp(-1, 1)
            >>> latents = editor.invert(images, steps=2, solver="ddim")
            >>> list(latents.x.shape)
            [2, 3, 64, 64]
            >>> latent = editor.invert(images[0], steps=2, solver="ddim")
            >>> list(latent.x.shape), latent.recipe.solver, len(latent.recipe.times)
            ([3, 64, 64], 'ddim', 3)
        """
        latents = self._invert(images, make_config(config, options), crop)
        return latents[0] if is_single(images) else latents

    def _invert(self, images: Images, config: InversionConfig, crop: Crop | None) -> Latents:
        """Return the latents of images, also of a single one.

        Raises:
            ArgumentError: no images.
        """
        latents = _require_inverted(
            chain.from_iterable(latents for _, latents in self._runner.invert(images, config, crop))
        )
        if not latents:
            raise ArgumentError(NO_IMAGES)
        return latents

    def invert_batches(
        self,
        batches: Iterable[SeveralImages],
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        check_typicality: bool = True,
        **options: Unpack[InversionOptions],
    ) -> Iterator[Latents]:
        """Yield the latents of one batch of images after another, as `invert` returns them.

        While one batch is in the network, a thread prepares the next one: its pixels, the noise of its first level, and
        their copy in memory that the device copies from without blocking.

        A latent that is not finite is yielded like others, so that one image ends nothing but itself:
        `Latent.require_finite` refuses it, and so does `Latent.save`.

        Args:
            batches: each of images as for `invert`, which may be none; drawn one ahead.
            config: solver, grid, steps and so on.
            crop: as for `invert`.
            check_typicality: whether to report how typical the images are for the model, if that was measured.
            **options: fields of `InversionConfig`.

        Raises:
            ImageError: a file that cannot be used.
            ArgumentError: something that is no image, or a config that does not exist.
        """

        def read(batch: SeveralImages) -> list[PreparedImage]:
            return list(self._runner.prepare(batch, crop))

        for inverted in self._runner.invert_chunks(batches, read, make_config(config, options), check_typicality):
            yield Latents(chain.from_iterable(latents for _, latents in inverted))

    @overload
    def reconstruct(
        self,
        images: ImageItem,
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        **options: Unpack[InversionOptions],
    ) -> Any: ...
    @overload
    def reconstruct(
        self,
        images: SeveralImages,
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        **options: Unpack[InversionOptions],
    ) -> Reconstruction: ...
    def reconstruct(
        self,
        images: Images,
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        **options: Unpack[InversionOptions],
    ) -> ReconstructedImage | Reconstruction:
        """Invert images, decode their latents, and measure what comes back. Arguments and errors as `invert`.

        Returns:
            The `ReconstructedImage` of one image, or the `Reconstruction` of several.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> images = editor.sample(2, steps=2).clamp(-1, 1)
            >>> found = editor.reconstruct(images, steps=4)
            >>> list(found.decoded.shape), found.scores[0]["nfe_in"]
            ([2, 3, 64, 64], 4)
            >>> editor.reconstruct(images[0], steps=4).scores["psnr"] > 10
            True
        """
        config = replace(make_config(config, options), check=True)
        scorer = self._scorer  # made here, before the thread that uses it
        # Scores are computed in a thread, while the next batch is in the network.
        scored = list(
            prefetch_map(
                lambda batch: score_batch(batch[0], scorer),
                self._runner.invert(images, config, crop),
                depth=1,
                threads=1,
            )
        )
        if not scored:
            raise ArgumentError(NO_IMAGES)
        batches = [batch for batch, _ in scored]
        latents = _require_inverted(chain.from_iterable(latents for _, latents in batches))
        scores = chain.from_iterable(score() for _, score in scored)
        found = Reconstruction(
            originals=_as_images(torch.cat([batch.originals for batch, _ in batches])),
            decoded=_as_images(torch.cat([batch.decoded for batch, _ in batches if batch.decoded is not None])),
            latents=latents,
            scores=tuple({**latent.report, **score} for latent, score in zip(latents, scores, strict=True)),
        )
        return found[0] if is_single(images) else found

    def decode(
        self, latents: Latent | Sequence[Latent], force: bool = False, solver: Solver | None = None
    ) -> ImageTensor:
        """Decode latents by their own recipes.

        Args:
            latents: from `invert`, `noise`, `interpolate` or files, one or several; `Latent.with_condition` gives them
                another prompt or class.
            force: decode even latents of another model.
            solver: decodes latents that were inverted with a `Solver` object, which has no registered name.

        Returns:
            images, float64 [B, 3, H, W], or [3, H, W] of one `Latent`, not clamped to [-1, 1].

        Raises:
            LatentMismatchError: a latent of another model or weights, without `force`, or of another shape.
            LatentError: a latent that contradicts itself, is not finite, or is of an unknown solver.
            ArgumentError: no latents.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> list(editor.decode(editor.noise([0, 1], steps=2)).shape)
            [2, 3, 64, 64]
        """
        if isinstance(latents, Latent):
            return _first(self.decode([latents], force, solver))
        if not latents:
            raise ArgumentError("There are no latents to decode. Invert an image first.")
        for latent in latents:
            self._runner.require_own(latent, force, solver)
        return _as_images(self._runner.decode(latents, solver=solver))

    def noise(
        self, seeds: Sequence[int], config: InversionConfig | None = None, **options: Unpack[SolverOptions]
    ) -> Latents:
        """Return latents of standard normal noise, one x_T per seed, which decode to t = 0.

        Args:
            seeds: one per latent.
            config: the solver and grid that decode it.
            **options: fields of `InversionConfig`.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> (latent,) = editor.noise([7])
            >>> latent.t, latent.recipe.origin.to_json()
            (1000.0, {'kind': 'noise', 'seed': 7})
        """
        config = make_config(config, options)
        grid = self._grid_to_clean(config)
        recipe = self._runner.recipe(config, grid)
        x = SeededNoise(seeds).draw(self.model.shape)
        latents = []
        for row, seed in zip(x, seeds, strict=True):
            latents.append(Latent(row, grid.times[-1], replace(recipe, origin=NoiseOrigin(seed))))
        return Latents(latents)

    def sample(
        self,
        n: int,
        seed: int = 0,
        config: InversionConfig | None = None,
        eta: float = 0.0,
        posterior_mean: bool = False,
        **options: Unpack[SolverOptions],
    ) -> ImageTensor:
        """Sample new images from the seeds seed, seed + 1, ...

        Args:
            n: how many, at least 1.
            seed: of the first; an image depends on its own seed alone.
            config: grid, steps and, for eta = 0, solver.
            eta: 0 solves the ODE (DDIM); up to 1 is the family from DDIM to DDPM.
            posterior_mean: take the posterior mean at every step of DDPM and leave its noise out. This is not DDIM and
                looks bad; it is offered so that this can be seen.
            **options: fields of `InversionConfig`.

        Returns:
            images, float64 [n, 3, H, W], not clamped to [-1, 1].

        Raises:
            ArgumentError: n below 1, or eta outside [0, 1].

        References:
            Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502, section 4.1.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> list(editor.sample(2, seed=3, steps=2, eta=1.0).shape)
            [2, 3, 64, 64]
        """
        config = make_config(config, options)
        if n < 1 or not 0 <= eta <= 1:
            raise ArgumentError(f"n must be at least 1 and eta from 0 to 1, not {n} and {eta:g}.")
        seeds = range(seed, seed + n)
        if not eta and not posterior_mean:
            return self.decode(self.noise(seeds, config))

        def make_solver(noise: SeededNoise) -> Solver:
            step = AncestralStep(1.0, no_noise) if posterior_mean else AncestralStep(eta, noise)
            return SamplingOnlySolver(step)

        return _as_images(self._runner.sample(seeds, config, self._grid_to_clean(config), make_solver))

    def interpolate(
        self,
        latents: Sequence[Latent] | Images,
        frames: int = 9,
        interpolation: str = "slerp",
        loop: bool = False,
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        **options: Unpack[InversionOptions],
    ) -> Latents:
        """Return latents on a path through latents, or through those of images, ends included.

        Args:
            latents: at least two, of one model, solver and grid; or images as for `invert`, which are inverted.
            frames: from each latent to the next, both included.
            interpolation: one of `INTERPOLATIONS`.
            loop: whether the path returns to its start.
            config: how to invert images.
            crop: as for `invert`.
            **options: fields of `InversionConfig`.

        Raises:
            LatentMismatchError: latents that cannot be mixed.
            ArgumentError: too few latents or frames, or an unknown interpolation.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> latents = editor.interpolate(editor.noise([1, 2]), frames=5)
            >>> len(latents), latents[0].x.equal(editor.noise([1])[0].x)
            (5, True)
        """
        if not _are_latents(latents):
            latents = self._invert(cast(Images, latents), make_config(config, options), crop)
        require_compatible(latents)
        return _at_points(latents, plan_path(len(latents), frames, loop), interpolation)

    def combine(
        self,
        latents: Sequence[Latent] | Images,
        weights: Sequence[float] | None = None,
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        **options: Unpack[InversionOptions],
    ) -> Latent:
        """Return a linear combination of any number of latents, or of those of images.

        The result is as long as its sources are, so that it decodes like them: see
        `ddim_edit.latents.interpolation.linear_combination`.

        Args:
            latents: at least one, of one model, solver and grid; or images as for `invert`, which are inverted.
            weights: one for each, finite and not all 0; negative ones take away, as in a - b + c. Only their ratios
                count. None weighs all alike, which gives the centroid.
            config: how to invert images.
            crop: as for `invert`.
            **options: fields of `InversionConfig`.

        Raises:
            LatentMismatchError: latents that cannot be mixed.
            ArgumentError: other weights, no latents, or latents that cancel.

        References:
            Bodin, Stere, Margineantu, Ek, Moss, "Linear Combinations of Latents in Generative Models: Subspaces and
            Beyond", ICLR 2025, arXiv:2408.08558.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> latent = editor.combine(editor.noise([1, 2, 3]), [0.5, 0.3, 0.2])
            >>> list(latent.x.shape), len(latent.recipe.origin.sources)
            ([3, 64, 64], 3)
        """
        if weights is not None:
            find_shares(weights, len(weights))  # refuses weights before images are inverted for them
        if not _are_latents(latents):
            latents = self._invert(cast(Images, latents), make_config(config, options), crop)
        return combine(latents, weights)

    def sheet(
        self,
        corners: Sequence[Latent],
        rows: int = 7,
        columns: int = 7,
        interpolation: str = "slerp",
        across: int = 2,
    ) -> list[Latents]:
        """Return latents between those at the corners of a sheet, or on a grid over it, one `Latents` per row.

        Four latents are the corners: top left, top right, bottom left, bottom right. More lie on a grid, `across` of
        them in each of its rows, evenly over the sheet; between them latents are interpolated, first down and then
        across. All of them are on the sheet if rows - 1 is a multiple of the grid's rows - 1, and so for the columns.

        Args:
            corners: row by row, at least two rows.
            rows: of the sheet, at least 2.
            columns: of the sheet, at least 2.
            interpolation: one of `INTERPOLATIONS`.
            across: how many of the corners are in a row, at least 2.

        Raises:
            LatentMismatchError: latents that cannot be mixed.
            ArgumentError: a number of corners that does not fill rows, too few rows or columns, or an unknown
                interpolation.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> rows = editor.sheet(editor.noise([1, 2, 3, 4]), rows=3, columns=4)
            >>> len(rows), len(rows[0])
            (3, 4)
            >>> six = editor.sheet(editor.noise(range(6)), rows=5, columns=5, across=3)
            >>> six[0][2].x.equal(editor.noise([1])[0].x)
            True
        """
        down = count_rows(len(corners), across)
        require_compatible(corners)
        left_to_right = []
        for column in range(across):
            points = plan_line(down, rows)
            left_to_right.append(_at_points(corners[column::across], points, interpolation))
        found = []
        for ends in zip(*left_to_right, strict=True):
            found.append(_at_points(ends, plan_line(across, columns), interpolation))
        return found

    def latents_at(
        self,
        images: Images,
        levels: Sequence[str | float],
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        cache: Cache | None = None,
        **options: Unpack[SolverOptions],
    ) -> list[LatentArray]:
        """Return the latents of many images at several levels, from one inversion each, for fitting and probing.

        Args:
            images: as for `invert`. The arrays have a row for each, also for a single one.
            levels: as for `InversionConfig`: 400, "0.4T", "xT", "h", "h:0.2T".
            config: how to invert, by a single-state solver.
            crop: as for `invert`.
            cache: keeps latents between calls, for example a `LatentCache`.
            **options: fields of `InversionConfig`.

        Raises:
            ArgumentError: no levels, an unknown one, or a two-state solver.
            ImageError: as `invert`.
            ModelError: bottlenecks of a network that does not expose its own.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> images = editor.sample(2, steps=2).clamp(-1, 1)
            >>> states, bottlenecks = editor.latents_at(images, ["0.4T", "h:0.4T"], steps=4)
            >>> list(states.values.shape), list(bottlenecks.values.shape)
            ([2, 3, 64, 64], [2, 1, 256, 8, 8])
        """
        if not levels:
            raise ArgumentError("There are no levels. 0.4T is a good start.")
        return self._runner.latents_at(
            images, levels, make_config(config, options), crop, {} if cache is None else cache
        )

    def typicality_features(
        self, images: Images, levels: Sequence[float] = LEVELS, *, crop: Crop | None = None
    ) -> Tensor:
        """Return what `Typicality.fit` tells typical images by: how well they are denoised, and their detail.

        Args:
            images: as for `invert`.
            levels: noise-to-signal ratios at which noise is added.
            crop: as for `invert`.

        Returns:
            logarithms, float64 [N, K + D]; see `ddim_edit.models.typicality`.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> list(editor.typicality_features(editor.sample(2, steps=2).clamp(-1, 1)).shape)
            [2, 7]
        """
        return self._runner.typicality_features(images, crop, levels)

    def edit(
        self,
        images: Editable,
        strengths: Strengths,
        level: str | float | None = None,
        keep: Sequence[DirectionLike] = (),
        conditional: bool = False,
        crop: Crop | None = None,
        config: InversionConfig | None = None,
        **options: Unpack[SolverOptions],
    ) -> ImageTensor:
        """Edit attributes of images along directions.

        Images are inverted to the level of the directions, moved by strength x standard deviation on their own shell,
        and decoded. What the round trip alone loses is given back, so that strength 0 returns the image. What
        correlates with an attribute in the training data may change with it. Guided directions move by the same number
        of standard deviations along gradients of the network, see `directions.GuidedEdit`.

        Words (`WordDirection`) leave the latent where it is, and move what the network predicts while it is decoded.
        They may go with directions of x or of h. Of words alone, the config says how images are inverted, and under
        which prompt.

        Args:
            images: as for `invert`, or one or several latents that stand at the directions' level.
            strengths: standard deviations to move, by the name of a packaged direction, file, hub id or `Direction`;
                for models that follow prompts also by words, or by `WordDirection`, of which 1 is the whole way.
            level: where to edit, if you want to be sure: it must be the directions' own. Of words alone, where the
                inversion stops.
            keep: directions whose scores stay as they are; with words, those along which nothing is predicted to
                change.
            conditional: move along each direction only as far as it is orthogonal to the others.
            crop: as for `invert`.
            config: how to invert images for words alone; directions are fitted to one inversion, which is theirs.
            **options: fields of `InversionConfig`.

        Returns:
            images, float64 [B, 3, H, W], or [3, H, W] of one image, not clamped to [-1, 1].

        Raises:
            DirectionError: no such direction.
            DirectionMismatchError: a direction of another level, grid or model.
            ArgumentError: directions of several levels, linearly dependent ones, or words that the model cannot
                follow.

        References:
            White, "Sampling Generative Networks", 2016, arXiv:1609.04468.
            Shen, Gu, Tang, Zhou, "Interpreting the Latent Space of GANs for Semantic Face Editing", CVPR 2020,
            arXiv:1907.10786 (conditional).
            Kwon, Jeong, Uh, "Diffusion Models Already Have a Semantic Latent Space", ICLR 2023, arXiv:2210.10960
            (bottleneck).
            Brack et al., "SEGA: Instructing Text-to-Image Models using Semantic Guidance", NeurIPS 2023,
            arXiv:2301.12247 (words).

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> edited = editor.edit("portrait.jpg", {"old": 6, "female": -4}, conditional=True)  # doctest: +SKIP
            >>> painter = Editor.from_pretrained("stable-diffusion/")  # doctest: +SKIP
            >>> edited = painter.edit("portrait.jpg", {"smiling": 3}, condition=Condition("a man"))  # doctest: +SKIP
        """
        edited = self.edits(images, [strengths], level, keep, conditional, crop, config, **options)
        return _as_images(edited.select(-4, 0))

    def edits(
        self,
        images: Editable,
        settings: Sequence[Strengths],
        level: str | float | None = None,
        keep: Sequence[DirectionLike] = (),
        conditional: bool = False,
        crop: Crop | None = None,
        config: InversionConfig | None = None,
        **options: Unpack[SolverOptions],
    ) -> ImageTensor:
        """Return K edits of each image from a single inversion, for K settings, as `edit`.

        Returns:
            images, float64 [B, K, 3, H, W], or [K, 3, H, W] of one image.
        """
        if not settings or not any(settings):
            raise ArgumentError("There is nothing to edit. Name a direction and a strength.")
        kept = [resolve_direction(name, self.model, self._offline) for name in keep]
        named = dict.fromkeys(chain.from_iterable(settings))
        directions = {name: resolve_direction(name, self.model, self._offline) for name in named}
        edits = []
        for strengths in settings:
            by_direction = {directions[name]: strength for name, strength in strengths.items()}
            chained = make_edits(self.model, by_direction, kept, conditional)
            edits.append([self._in_batches(edit) for edit in chained])
        # Everything is checked before the images are inverted, which takes long.
        config = self._config_of_edits(list(directions.values()), level, config, options)

        # What the round trip alone loses of each image is added to its edits, so that strength 0 returns the image.
        lost: Tensor | float = 0.0
        if isinstance(images, Latent) or _are_latents(images):
            latents = Latents([images] if isinstance(images, Latent) else images)
        else:
            for edit in chain.from_iterable(edits):
                if isinstance(edit, WordEdit):
                    edit.guide(self.model.conditioned_on(config.condition), config.condition)
            batches = list(self._runner.invert(cast(Images, images), replace(config, check=True), crop))
            latents = _require_inverted(chain.from_iterable(latents for _, latents in batches))
            if batches:
                lost = torch.cat([batch.originals - batch.decoded for batch, _ in batches if batch.decoded is not None])
        if not latents:
            raise ArgumentError(NO_IMAGES)

        results = []
        for chained in edits:
            decoded = []
            for condition, some in groupby(latents, key=lambda latent: latent.recipe.condition):
                alike, denoiser = Latents(some), self.model.conditioned_on(condition)
                for edit in chained:
                    alike, denoiser = edit(alike, denoiser)
                for latent in alike:
                    self.require_own(latent)
                decoded.append(self._runner.decode(alike, denoiser))
            results.append(torch.cat(decoded) + lost)
        stacked = _as_images(torch.stack(results, 1))
        return _first(stacked) if isinstance(images, Latent) or is_single(images) else stacked

    def _in_batches(self, edit: Edit) -> Edit:
        """Return an edit that evaluates the network in this editor's batches, and reports that."""
        if not isinstance(edit, GuidedEdit):
            return edit
        return replace(edit, batches=self._runner.batches, on_evaluation=self.on_evaluation)

    def _config_of_edits(
        self,
        directions: Sequence[Direction | WordDirection],
        level: str | float | None,
        config: InversionConfig | None,
        options: SolverOptions,
    ) -> InversionConfig:
        """Return how images are inverted for edits: as the directions were fitted, or for words alone as asked for."""
        fitted = [each for each in directions if isinstance(each, Direction)]
        if not fitted:
            config = make_config(config, options)
            return config if level is None else replace(config, level=level)
        first = fitted[0]
        if config is not None or options:
            raise ArgumentError(
                f"Images are inverted as {first.name} was fitted, so nothing else can be said of that. Leave it out."
            )
        first.require_fits(self._runner.recipe(first.config, Grid(first.recipe.grid, first.recipe.times)))
        for direction in fitted:
            direction.require_level(level)
            direction.require_fits(first.recipe)
        return first.config

    def edit_photograph(
        self,
        photo: ImageSource,
        strengths: Strengths,
        level: str | float | None = None,
        keep: Sequence[DirectionLike] = (),
        conditional: bool = False,
        face: int | str = "largest",
        crop: Crop | None = None,
        config: InversionConfig | None = None,
        **options: Unpack[SolverOptions],
    ) -> Photograph:
        """Edit attributes of a face in a photograph, and return the whole photograph in its own size.

        The face is edited as by `edit`, and its change put in the photograph by `Photograph.paste`: pixels outside of
        the face keep every bit, and strength 0 changes nothing.

        Args:
            photo: an image file, its bytes, an open file, a Pillow image or an array, as for `invert`.
            strengths: as for `edit`.
            level: as for `edit`.
            keep: as for `edit`.
            conditional: as for `edit`.
            face: "largest", the number of a face in the order of `images.detect_faces`, or "all".
            crop: the part to edit in place of a face, as for `invert`.
            config: as for `edit`.
            **options: as for `edit`.

        Raises:
            ArgumentError: a choice of faces together with a crop, or for a model without a face template.
            ImageError: a file that cannot be used, or without such a face.
            MissingExtraError: a choice of faces, and OpenCV is not installed.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> older = editor.edit_photograph("group.jpg", {"old": 6}, face="all")  # doctest: +SKIP
            >>> older.save("older.jpg")  # doctest: +SKIP
            >>> older.to_pil().show()  # doctest: +SKIP
        """
        template = self.model.face_template
        photo = reread(photo)
        if face == "largest":
            frames = [read(photo, self.model.size, crop or default_crop(template))]
        elif crop is not None:
            raise ArgumentError("face and crop exclude each other. A FaceCrop has a number of its own.")
        elif template is None:
            raise ArgumentError(f"{self.model.name} has no face template, so it has no choice of faces. Give a crop.")
        elif face == "all":
            frames = read_faces(photo, self.model.size, template)
        else:
            frames = [read(photo, self.model.size, FaceCrop(template, face))]
        photograph = Photograph.open(photo)
        results = self.edit(frames, strengths, level, keep, conditional, config=config, **options)
        for frame, edited in zip(frames, results, strict=True):
            photograph = photograph.paste(frame, edited)
        return photograph

    def direction(self, name: str | Path | Direction) -> Direction:
        """Return the direction of a name, file or hub id, as `find_direction`; a `Direction` as it is."""
        return name if isinstance(name, Direction) else find_direction(name, self.model.name, self._offline)

    def attribute_from(
        self,
        images_with: Images,
        images_without: Images,
        name: str = "attribute",
        level: str | float = "0.4T",
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        **options: Unpack[SolverOptions],
    ) -> Direction:
        """Return a direction by example: the difference of two means.

        Of a handful of images it also holds what else differs between the two sides. Its unit is half the distance
        between the means where each side is of one kind. Arguments as `latents_at`.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> a, b = editor.sample(4, steps=2).clamp(-1, 1).split(2)
            >>> direction = editor.attribute_from(a, b, "example", steps=2)
            >>> direction.name, list(direction.vector.shape)
            ('example', [3, 64, 64])
        """
        from ddim_edit.directions import fit_direction  # scikit-learn takes seconds to import

        config = make_config(config, options)
        (with_,) = self.latents_at(images_with, [level], config, crop=crop)
        (without,) = self.latents_at(images_without, [level], config, crop=crop)
        labels = np.repeat([1.0, 0.0], [len(with_.values), len(without.values)])
        both = with_._replace(values=torch.cat([with_.values, without.values]), images=(*with_.images, *without.images))
        return fit_direction(name, both, labels, "mean")

    def discover(
        self,
        images: Images,
        count: int = 6,
        level: str | float = "0.4T",
        config: InversionConfig | None = None,
        *,
        seed: int = 0,
        iterations: int = 12,
        tolerance: float = 0.01,
        crop: Crop | None = None,
        **options: Unpack[SolverOptions],
    ) -> list[Direction]:
        """Return directions without labels: those in which a step in x_t moves the network's bottleneck h most.

        Of one image they are the right singular vectors of J = dh / dx_t at its latent. Of several they are the leading
        eigenvectors of the mean of J^T J: the principal axes of the singular vectors of all of them, each weighted by
        its singular value, whatever their signs. They come in the order of their singular values (of several images:
        the root mean square of |J v|), named v1, v2 and so on. What they mean is for you to see and to name; their
        signs say nothing.

        No latents tell how far such a direction goes, so its sd is 1, the standard deviation of x_T along any unit
        vector: strength 3 is a step of length 3. Its score is measured from the images that it was found at. A
        direction may be used on other images, as it is one of x at a level; there its effect may differ.

        Args:
            images: as for `invert`.
            count: how many.
            level: of x: a time, a part of T or "xT".
            config: how to invert, by a single-state solver.
            seed: of the first vectors of the iteration.
            iterations: at most so many; see `directions.krylov`.
            tolerance: a direction has converged where |J^T J v - s^2 v| is at most so much of s^2; its report says
                whether it has.
            crop: as for `invert`.
            **options: fields of `InversionConfig`.

        Raises:
            ArgumentError: no images, a level of the bottleneck, or less than one direction.
            DirectionError: h does not depend on x in so many directions.
            NonFiniteError: a latent or a Jacobian that is not finite.
            ModelError: a network that does not expose its bottleneck, or that cannot be differentiated.

        References:
            Park, Kwon, Choi, Jo, Uh, "Understanding the Latent Space of Diffusion Models through the Lens of Riemannian
            Geometry", NeurIPS 2023, arXiv:2307.12868.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> face = editor.sample(1, steps=2).clamp(-1, 1)[0]
            >>> first, second = editor.discover(face, 2, steps=3, iterations=2)
            >>> first.name, list(first.vector.shape), first.report["singular_value"] > second.report["singular_value"]
            ('v1', [3, 64, 64], True)
            >>> moved = editor.edit(face, {first: 3})
        """
        from ddim_edit.directions.unlabelled import jacobian_directions
        from ddim_edit.models.differentiation import BottleneckJacobian

        config = make_config(config, options)
        schedule = self.model.schedule
        space = find_space(level, config.make_grid(schedule), schedule.T)
        if space.times:
            raise ArgumentError(
                f"Directions are discovered in x, not in h. Give a level of x such as 0.4T, not {level}."
            )
        jacobian = BottleneckJacobian(self.model.conditioned_on(config.condition), schedule.level(space.last))
        (latents,) = self.latents_at(images, [level], config, crop=crop)
        with self._runner.counting("discovering", lambda: None) as on_evaluation:
            return jacobian_directions(
                jacobian,
                latents,
                count,
                batches=self._runner.batches,
                iterations=iterations,
                tolerance=tolerance,
                seed=seed,
                on_evaluation=on_evaluation,
            )

    def analogy(
        self,
        a: Images,
        b: Images,
        c: Images,
        weight: float = 1.0,
        level: str | float = "0.4T",
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        **options: Unpack[SolverOptions],
    ) -> ImageTensor:
        """Give every image of c what a has over b: c + weight (mean a - mean b) in latents of one level.

        a and b must differ. Several images for each of them leave less of their own noise in the difference. Arguments
        as `attribute_from`.

        Returns:
            images, float64 [B, 3, H, W], or [3, H, W] of one image, not clamped to [-1, 1].

        References:
            White, "Sampling Generative Networks", 2016, arXiv:1609.04468.
            Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", NeurIPS 2013,
            arXiv:1310.4546.

        Examples:
            >>> editor = Editor.from_pretrained()
            >>> smiling = editor.analogy("smiling/", "serious/", "portrait.jpg")  # doctest: +SKIP
        """
        direction = self.attribute_from(a, b, "a - b", level, make_config(config, options), crop=crop)
        return self.edit(c, {direction: weight * direction.report["gap"] / direction.sd}, crop=crop)

    def translate(
        self,
        images: Images,
        to: "Editor",
        config: InversionConfig | None = None,
        *,
        crop: Crop | None = None,
        **options: Unpack[SolverOptions],
    ) -> ImageTensor:
        """Translate images from this model's domain to another's by a shared x_T.

        Images are inverted with this model and decoded to t = 0 with the other one on the same kind of grid. The two
        models must have one schedule and size; no image pairs are needed.

        Returns:
            images, float64 [B, 3, H, W], or [3, H, W] of one image, not clamped to [-1, 1].

        Raises:
            ArgumentError: a config with a level.
            LatentMismatchError: models of other shapes.

        Examples:
            >>> cats = Editor.from_pretrained("cats64/")  # doctest: +SKIP
            >>> translated = Editor.from_pretrained().translate("portrait.jpg", cats)  # doctest: +SKIP

        References:
            Su, Song, Meng, Ermon, "Dual Diffusion Implicit Bridges for Image-to-Image Translation", ICLR 2023,
            arXiv:2203.08382.
        """
        config = make_config(config, options).without_start()
        if self.model.shape != to.model.shape:
            raise LatentMismatchError(
                f"{self.model.name} has latents of shape {list(self.model.shape)}, {to.model.name} of "
                f"{list(to.model.shape)}. Translate between models of one size."
            )
        grid = to._grid_to_clean(config)
        recipe = to._runner.recipe(config, grid)
        moved = []
        for latent in self._invert(images, config, crop):
            moved.append(Latent(latent.x, latent.t, replace(recipe, origin=TranslationOrigin(latent.recipe))))
        return to.decode(moved[0] if is_single(images) else moved)

    def to(self, device: str | torch.device) -> Self:
        """Move the model to a device, "auto", "cuda", "mps" or "cpu", and return this editor.

        The batch size becomes the device's own if none was chosen. Other editors on the same model keep theirs, on the
        device where it was.

        Raises:
            ArgumentError: this machine has no such device.
        """
        self.model = self.model.to(device)
        self._make_runner()
        return self

    def _make_runner(self) -> None:
        self._runner = BatchRunner(
            self.model, self._chosen_batch_size, self.on_evaluation, self._on_stage, self._progress
        )
        self.__dict__.pop("_scorer", None)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what belongs to this process: its callbacks, and networks that only score."""
        left_out = ("_runner", "_scorer", "on_evaluation", "_on_stage")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.on_evaluation = self._on_stage = None
        self._make_runner()

    def __copy__(self) -> Self:
        return self._with_state(self.__getstate__())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._with_state(deepcopy(self.__getstate__(), memo))

    def _with_state(self, state: dict[str, Any]) -> Self:
        """Return an editor with another state, which reports progress as this one does."""
        made = object.__new__(type(self))
        made.__setstate__(state)
        made.on_evaluation, made._on_stage = self.on_evaluation, self._on_stage
        made._make_runner()
        return made

    def __repr__(self) -> str:
        return f"Editor({self.model!r}, batch_size={self.batch_size})"

    def _repr_html_(self) -> str:
        return html_summary("Editor", {**self.model.summary(), "batch size": self.batch_size})

    def require_own(self, latent: Latent, force: bool = False) -> None:
        """Refuse a latent of another model, schedule or dtype; with `force`, only one that does not fit.

        Raises:
            LatentMismatchError: it belongs to another model, or has another shape.
            LatentError: it is not finite.
        """
        self._runner.require_own(latent, force)

    @property
    def batch_size(self) -> int:
        """Images per forward pass at present."""
        return self._runner.batches.size

    @cached_property
    def _scorer(self) -> ImageScorer:
        return ImageScorer(self.model.device)

    def _grid_to_clean(self, config: InversionConfig) -> Grid:
        if config.level is not None:
            raise ArgumentError(f"This goes to x_T and takes no level, but the config has level {config.level}.")
        return config.make_sampling_grid(self.model.schedule)


def _at_points(latents: Sequence[Latent], points: Sequence[PathPoint], interpolation: str) -> Latents:
    """Return the latents at points of a path; a point that is passed twice is one object, and is decoded once."""
    mixed: dict[PathPoint, Latent] = {}
    for point in points:
        if point not in mixed:
            mixed[point] = interpolate(latents[point.start], latents[point.end], interpolation, point.w)
    return Latents(mixed[point] for point in points)


def _as_images(x: Tensor) -> ImageTensor:
    return x.as_subclass(ImageTensor)


def _first(images: Tensor) -> ImageTensor:
    return _as_images(images[0])


def _are_latents(value: object) -> TypeGuard[Sequence[Latent]]:
    """Return whether a value is a list of latents, and not one of images."""
    return isinstance(value, list | tuple | Latents) and all(isinstance(each, Latent) for each in value)


def _require_inverted(latents: Iterable[Latent]) -> Latents:
    """Return latents that were just inverted, all of which are finite.

    Raises:
        NonFiniteError: one of several is not; the message says which.
    """
    found = Latents(latents)
    for number, latent in enumerate(found, 1):
        if problem := latent.report.get(NONFINITE):
            which = f"image {number} of {len(found)}: " if len(found) > 1 else ""
            raise NonFiniteError(f"{which}{problem}")
    return found
