"""The editor: a model with its hands on pictures. Every method is a few lines; the mathematics is below."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ddim_edit import metrics
from ddim_edit.backends import load_model
from ddim_edit.denoise import Denoiser, WatchedDenoiser
from ddim_edit.errors import ArgumentError, LatentMismatchError
from ddim_edit.images import CentreSquare, Crop
from ddim_edit.interpolate import path
from ddim_edit.latent import Latent, Latents, Recipe, between, require_alike
from ddim_edit.model import Model
from ddim_edit.noise import Mix, SeededNoise, derive_seed, mixed_noise
from ddim_edit.roundtrip import Reconstruction, Trip, scores
from ddim_edit.schedule import Grid, make_grid
from ddim_edit.solve import Ancestral, Method, OneWay, find_solver, invert, no_noise, sample
from ddim_edit.sources import Images, Source, sources

Item = TypeVar("Item")
DEFAULT, CENTRE = Method(), CentreSquare()


class Editor:
    """Inverts, decodes, interpolates and samples pictures with one pixel-space model; does not train.

    Args:
        model: what to walk with.
        batch_size: how many pictures go through the network at once; changes no result beyond 1e-5.
        on_evaluation: called after every network evaluation with the number of pictures it was for.
    """

    def __init__(self, model: Model, batch_size: int = 8, on_evaluation: Callable[[int], object] | None = None) -> None:
        if batch_size < 1:
            raise ArgumentError("a batch size of at least 1", str(batch_size), "8 is a good start")
        self.model = model
        self.batch_size = batch_size
        self._denoiser: Denoiser = model.denoiser
        if on_evaluation is not None:
            self._denoiser = WatchedDenoiser(model.denoiser, on_evaluation)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path | None = None, device: str = "auto", dtype: str = "auto", **options: Any
    ) -> "Editor":
        """An editor on a packaged model, a diffusers folder or a hub id; see `load_model` and `Editor`."""
        return cls(load_model(name_or_path, device, dtype), **options)

    def invert(self, images: Images, method: Method = DEFAULT, crop: Crop = CENTRE) -> Latents:
        """The codes of pictures; each knows its recipe and reports how well it was found.

        Args:
            images: files, folders, `Picture`s, or a tensor [B, 3, H, W] in [-1, 1] of the model's size.
            method: solver, grid, steps and so on.
            crop: what to keep of a file whose shape is not the model's.

        Raises:
            ImageError: a file that cannot be used.
            ArgumentError: a tensor of another size, or a method that does not exist.
        """
        return Latents(chain.from_iterable(latents for _, latents in self._trips(images, method, crop)))

    def reconstruct(self, images: Images, method: Method = DEFAULT, crop: Crop = CENTRE) -> Reconstruction:
        """Pictures through their codes and back, measured; arguments and errors as `invert`."""
        trips = list(self._trips(images, replace(method, check=True), crop))
        if not trips:
            raise ArgumentError("at least one picture", "none", "hand in a file, a folder or a tensor")
        measured = chain.from_iterable(scores(trip, self._lpips) for trip, _ in trips)
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
            latents: from `invert`, `noise`, `interpolate` or files.
            force: decode even what belongs to another model.

        Raises:
            LatentMismatchError: a latent of another model or weights, without `force`, or of another shape.
            ArgumentError: no latents.
        """
        if not latents:
            raise ArgumentError("at least one latent", "none", "invert a picture first")
        for latent in latents:
            self.require_own(latent, force)
        walks = (list(alike) for _, alike in groupby(latents, key=lambda latent: latent.recipe.walk))
        groups = chain.from_iterable(_chunks(alike, self.batch_size) for alike in walks)
        return torch.cat([self._decode(Latents(group)) for group in groups])

    def noise(self, seeds: Sequence[int], method: Method = DEFAULT) -> Latents:
        """Fresh codes, one standard normal x_T per seed, that decode all the way down to t = 0."""
        grid = make_grid(method.grid, self.model.schedule, method.steps).to_clean()
        recipe = self._recipe(method, grid)
        origins = [{"kind": "noise", "seed": seed} for seed in seeds]
        x = SeededNoise(seeds).draw(self.model.shape)
        return Latents(
            Latent(row, grid.times[-1], replace(recipe, origin=origin)) for row, origin in zip(x, origins, strict=True)
        )

    def sample(
        self, n: int, seed: int = 0, method: Method = DEFAULT, eta: float = 0.0, posterior_mean: bool = False
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
        groups = _chunks(seeds, self.batch_size)
        return torch.cat([self._sample_with_noise(group, method, eta, posterior_mean) for group in groups])

    def interpolate(
        self, latents: Sequence[Latent], frames: int = 9, method: str = "slerp", loop: bool = False
    ) -> Latents:
        """Codes on a path through codes, ends included; decode them to see it.

        Args:
            latents: at least two, of one model, solver and grid.
            frames: from each to the next, with both.
            method: one of `BLENDS`.
            loop: whether the path returns to its beginning.

        Raises:
            LatentMismatchError: latents of different walks.
            ArgumentError: too few latents or frames, or an unknown method.
        """
        require_alike(latents)
        stops = path(len(latents), frames, loop)
        made = {stop: between(latents[stop.start], latents[stop.end], method, stop.w) for stop in stops}
        return Latents(made[stop] for stop in stops)

    def sheet(self, corners: Sequence[Latent], rows: int = 7, columns: int = 7, method: str = "slerp") -> list[Latents]:
        """Codes between four corners (top left, top right, bottom left, bottom right), one `Latents` a row.

        Errors as `interpolate`; ArgumentError also for another number of corners.
        """
        if len(corners) != 4:
            raise ArgumentError("4 latents for a sheet", str(len(corners)), "give one for each corner")
        left, right = (self.interpolate([corners[i], corners[i + 2]], rows, method) for i in (0, 1))
        return [self.interpolate(ends, columns, method) for ends in zip(left, right, strict=True)]

    @cached_property
    def _lpips(self) -> metrics.LPIPS:
        return metrics.LPIPS()

    def _trips(self, images: Images, method: Method, crop: Crop) -> Iterator[tuple[Trip, list[Latent]]]:
        """Invert batch by batch."""
        grid = make_grid(method.grid, self.model.schedule, method.steps)
        spans, solver, recipe = self.model.schedule.spans(grid), method.make_solver(), self._recipe(method, grid)
        for batch in _chunks(sources(images, self.model.size, crop), self.batch_size):
            originals = torch.stack([source.pixels for source in batch])
            mixes = [_dequantisation(method, source) for source in batch]
            x0 = self.model.codec.encode(originals.to(self.model.state_device))
            found = invert(self._denoiser, x0, spans, solver, self._noise(mixes))
            decoded = None if found.trip is None else self.model.codec.decode(found.trip.decoded).cpu()
            trip = Trip(originals, found, decoded)
            origins = [{"kind": "inversion", "exact": method.exact, **source.origin} for source in batch]
            recipes = [
                replace(recipe, dequantise=mix, origin=origin) for mix, origin in zip(mixes, origins, strict=True)
            ]
            yield trip, trip.latents(recipes)

    def _decode(self, latents: Latents) -> Tensor:
        """Decode latents of one walk, few enough for one batch."""
        recipe, schedule = latents[0].recipe, self.model.schedule
        spans = schedule.spans(Grid(recipe.grid, recipe.times))
        parts = tuple(part.to(self.model.state_device) for part in latents.parts)
        noise = self._noise([latent.recipe.dequantise for latent in latents])
        x0 = sample(self._denoiser, parts, spans, find_solver(recipe.solver), noise).x0
        return self.model.codec.decode(x0).cpu()

    def _sample_with_noise(self, seeds: Sequence[int], method: Method, eta: float, posterior_mean: bool) -> Tensor:
        grid = make_grid(method.grid, self.model.schedule, method.steps).to_clean()
        noise = SeededNoise(seeds)
        x = noise.draw(self.model.shape).to(self.model.state_device)
        step = Ancestral(1.0, no_noise) if posterior_mean else Ancestral(eta, noise)
        x0 = sample(self._denoiser, (x,), self.model.schedule.spans(grid), OneWay(step)).x0
        return self.model.codec.decode(x0).cpu()

    def _noise(self, mixes: Sequence[Mix]) -> Tensor | None:
        return mixed_noise(mixes, self.model.shape).to(self.model.state_device) if any(mixes) else None

    def _recipe(self, method: Method, grid: Grid) -> Recipe:
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
        )

    def require_own(self, latent: Latent, force: bool = False) -> None:
        """Insist that a latent belongs to this model, its weights, schedule and dtype; with `force`, that it fits.

        Raises:
            LatentMismatchError: it does not; the message names both.
        """
        if not force:
            _require_same(self.model, latent.recipe)
        if tuple(latent.x.shape) != self.model.shape:
            wanted = f"a latent of shape {list(self.model.shape)}, which {self.model.name} takes"
            given = f"one of shape {list(latent.x.shape)}"
            raise LatentMismatchError(wanted, given, f"load {latent.recipe.model}")


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


def _dequantisation(method: Method, source: Source) -> Mix:
    return () if method.dequantise is None else ((derive_seed(method.dequantise, source.origin["source"]), 1.0),)


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
