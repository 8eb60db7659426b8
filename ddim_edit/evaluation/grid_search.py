"""Search for the grid on which a model loses least, with a few of its images."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Self

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.denoisers import ProgressDenoiser
from ddim_edit.diffusion.grids import StandardGrid, find_grid
from ddim_edit.diffusion.integration import invert, sample
from ddim_edit.diffusion.noise import draw_mixed_noise, noise_of_image
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.diffusion.solvers.registry import SOLVER_ENTRIES
from ddim_edit.diffusion.workload import Workload
from ddim_edit.editor import DEFAULT, Editor
from ddim_edit.errors import ArgumentError, NonFiniteError
from ddim_edit.images import Crop, default_crop
from ddim_edit.images.inputs import NO_IMAGES, Images
from ddim_edit.images.prepare import prepare_images
from ddim_edit.io import schema
from ddim_edit.memory import AdaptiveBatcher

START = 0.5564
"""Noise-to-signal ratio at the start of the grids that are tried: that of 0.16 T of DDPM's schedule."""
LOWEST, HIGHEST = -0.7, 0.15
"""Bounds of 1 / rho: from the other side of `logsnr`, which is 0, to karras:7."""
TRIALS = 5
"""Round trips of a search, the first of which takes rho = 14: 200 evaluations of 20 steps."""
MARGIN = 2.0
"""Decibels below the best trial that are given up to stay away from the side on which single images fail."""
MOST_STEPS = 20
"""Steps of a trial. More would find the same rho for more evaluations."""
MOST_IMAGES = 4
"""Images that are enough for a search."""
LARGEST_ERROR = 1e6
"""Squared error that stands for larger ones, and for what is not finite."""

_TRIAL: schema.Schema = {"grid": schema.text, "psnr": schema.number, "worst": schema.number}
_SEARCH: schema.Schema = {
    "grid": schema.text,
    "solver": schema.text,
    "steps": schema.positive_int,
    "images": schema.positive_int,
    "evaluations": schema.count,
    "trials": schema.list_of(schema.Check("a trial", lambda value: _is_trial(value))),
}


@dataclass(frozen=True)
class GridTrial:
    """A grid that was tried.

    Args:
        grid: its name.
        psnr: of the mean squared error of x_0 over all images, after a round trip.
        worst: the lowest of one image.
    """

    grid: str
    psnr: float
    worst: float


@dataclass(frozen=True)
class GridSearch:
    """What a search found.

    Args:
        grid: the name of the grid that was chosen, for `grid=` and `--grid`.
        solver: the solver that was used.
        steps: of each trial, in each direction.
        images: how many images it was tried on.
        evaluations: of the network by each image, in all.
        trials: the grids in the order in which they were tried.
    """

    grid: str
    solver: str
    steps: int
    images: int
    evaluations: int
    trials: tuple[GridTrial, ...]

    @property
    def chosen(self) -> GridTrial:
        """The trial of the grid."""
        return next(trial for trial in self.trials if trial.grid == self.grid)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: object) -> Self:
        """Return what `to_json` made a record of.

        Raises:
            ArgumentError: it is something else.
        """
        entries = schema.validate(record, _SEARCH, "the search", ArgumentError)
        find_grid(entries["grid"])
        known = {name: entries[name] for name in _SEARCH}
        return cls(**{**known, "trials": tuple(GridTrial(**trial) for trial in entries["trials"])})


def _is_trial(value: object) -> bool:
    return isinstance(value, dict) and schema.find_problem(value, _TRIAL, closed=True) is None


def tune_grid(
    editor: Editor,
    images: Images,
    config: InversionConfig = DEFAULT,
    *,
    crop: Crop | None = None,
) -> GridSearch:
    """Search for the grid on which the round trip of images loses least.

    Grids are karras:RHO@START. START is where s = 0.556, and the end is T. Round trips cannot decide on these: from T
    they would be perfect. But the higher the start, the less x_T says of the image, and the earlier the end, the less
    x_T is like noise.
    What is searched is rho: 14, which is DDPM's default, and four by Brent's method, for the least mean squared error
    of x_0, to which the worst image contributes most, over 1 / rho in [-0.7, 0.15], where 0 is `logsnr`. Of the trials
    within 2 dB of the best, that with the largest 1 / rho is taken: towards lower ones the loss grows fast, first of
    single images, which four others need not show. 14 is tried apart, as `dpm2m` comes back better on grids whose steps
    shrink towards noise, which Brent's method would need luck to find beyond `logsnr`.

    Args:
        editor: whose model it is for.
        images: as for `Editor.invert`, of the kind that the model was trained on; four are enough.
        config: everything else about the inversions. With more than 20 steps, grids are tried with 20.
        crop: as for `Editor.invert`.

    Raises:
        ArgumentError: no images, or a config that does not exist.
        ImageError: a file that cannot be used.
        NonFiniteError: the network returns nothing finite.

    References:
        Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
        arXiv:2206.00364, eq. 5.
        Brent, "Algorithms for Minimization without Derivatives", Prentice-Hall 1973, chapter 5.

    Examples:
        >>> from ddim_edit import Editor, tune_grid
        >>> editor = Editor.from_pretrained("my-model")  # doctest: +SKIP
        >>> found = tune_grid(editor, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])  # doctest: +SKIP
        >>> latent = editor.invert("portrait.jpg", grid=found.grid)  # doctest: +SKIP
    """
    entry = SOLVER_ENTRIES.get(config.solver_name)
    if entry is not None and entry.two_state:
        raise ArgumentError(f"{entry.name} returns every image on any grid, so that no grid is better. Name one.")
    steps = min(config.steps, MOST_STEPS)
    start = start_of(editor.model.schedule)
    x0, noise = encode(editor, images, config, crop)
    trials: list[GridTrial] = []
    inverse_rhos: list[float] = []
    evaluations = 0

    def lost(inverse_rho: float) -> float:
        nonlocal evaluations
        grid = grid_name(inverse_rho, start)
        errors, nfe = round_trip(editor, x0, noise, replace(config, grid=grid, steps=steps, level=None))
        evaluations += nfe
        inverse_rhos.append(inverse_rho)
        trials.append(GridTrial(grid, psnr(errors.mean()), psnr(errors.max())))
        return -trials[-1].psnr

    lost(1 / StandardGrid.RHO)
    minimize_scalar(lost, bounds=(LOWEST, HIGHEST), method="bounded", options={"maxiter": TRIALS - 1})
    best = max(trial.psnr for trial in trials)
    if best <= psnr(torch.tensor(LARGEST_ERROR, dtype=torch.float64)):
        raise NonFiniteError(f"{editor.model.name} returned NaN or infinity on every grid. Load it in float32.")
    tried = zip(inverse_rhos, trials, strict=True)
    _, grid = max((inverse_rho, trial.grid) for inverse_rho, trial in tried if trial.psnr > best - MARGIN)
    return GridSearch(grid, config.solver_name, steps, len(x0), evaluations, tuple(trials))


@torch.no_grad()
def encode(editor: Editor, images: Images, config: InversionConfig, crop: Crop | None) -> tuple[Tensor, Tensor | None]:
    """Return the x_0 of images and the noise of their first level, both [B, C, H, W]."""
    model = editor.model
    prepared = list(prepare_images(images, model.size, crop or default_crop(model.face_template)))
    if not prepared:
        raise ArgumentError(NO_IMAGES)
    # One after another, as autoencoders take much memory.
    x0 = [model.codec.encode(model.to_state_device(image.pixels[None])) for image in prepared]
    mixes = [noise_of_image(config.dequantise, image.origin["source"]) for image in prepared]
    noise = model.to_state_device(draw_mixed_noise(mixes, model.shape)) if any(mixes) else None
    return torch.cat(x0).double(), noise


def round_trip(editor: Editor, x0: Tensor, noise: Tensor | None, config: InversionConfig) -> tuple[Tensor, int]:
    """Return the mean squared errors [B] of x_0 after a round trip, and the evaluations of an image.

    They are of x_0, and not of images, because an autoencoder loses more than any grid.
    """
    model = editor.model
    spans, solver = model.schedule.spans(config.make_grid(model.schedule)), config.plain_solver()
    denoiser = model.conditioned_on(config.condition)
    if editor.on_evaluation is not None:
        denoiser = ProgressDenoiser(denoiser, editor.on_evaluation)

    @torch.no_grad()
    def run(rows: Sequence[int]) -> list[tuple[float, int]]:
        own = None if noise is None else noise[list(rows)]
        found = invert(denoiser, x0[list(rows)], spans, solver, own)
        back = sample(denoiser, found.state, spans, solver, own)
        error = (back.x0 - x0[list(rows)]).flatten(1).square().mean(1)
        nfe = (found.nfe.cpu() + back.nfe).tolist()
        return list(zip(error.tolist(), nfe, strict=True))

    results = list(chain.from_iterable(AdaptiveBatcher(editor.batch_size)(run, range(len(x0)))))
    errors = torch.tensor([error for error, _ in results], dtype=torch.float64)
    # What is not finite counts as the largest of all errors, so that means of it can be compared.
    return errors.nan_to_num(LARGEST_ERROR).clamp(1e-30, LARGEST_ERROR), max(nfe for _, nfe in results)


def psnr(error: Tensor) -> float:
    """Return the PSNR in dB of a mean squared error of values with the range 2."""
    return float(10 * (4 / error).log10())


def search_workload(config: InversionConfig, schedule: NoiseSchedule) -> Workload:
    """Return how many evaluations `tune_grid` takes of each image."""
    one = replace(config, grid=grid_name(HIGHEST, start_of(schedule)), steps=min(config.steps, MOST_STEPS), level=None)
    plain = replace(one, exact=False, check=True)
    return TRIALS * plain.inversion_workload(schedule)


def start_of(schedule: NoiseSchedule) -> str:
    """Return the start of the grids that are tried, as a part of T to three digits, or "1" where no start is lower."""
    part = round(schedule.time(START) / schedule.T, 3)
    return f"{part:g}T" if 1 < part * schedule.T < schedule.T else "1"


def grid_name(inverse_rho: float, start: str) -> str:
    """Return the name of a grid, with rho to two digits after the point; near 0 it is beyond all others."""
    rho = 1000.0 if inverse_rho == 0 else round(1 / inverse_rho, 2)
    rho = math.copysign(min(abs(rho), 1000.0), rho)
    return f"karras:{rho:g}" if start == "1" else f"karras:{rho:g}@{start}"
