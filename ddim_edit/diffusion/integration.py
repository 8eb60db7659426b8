"""Integration of the probability-flow ODE: `invert` from images to latents, `sample` from latents to images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import ClippedDenoiser, Denoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level
from ddim_edit.diffusion.solvers.registry import find_solver
from ddim_edit.diffusion.solvers.solver import Solver, Spans, State
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.errors import ArgumentError
from ddim_edit.transfer import to_device


class RoundTripCheck(NamedTuple):
    """What the latents of an inversion decode to; all on the device of the images.

    Attributes:
        decoded: images [B, ...].
        nfe: evaluations for them [B].
        error: largest deviation from the inverted images [B].
        rounds: inversions made until then [B].
    """

    decoded: Tensor
    nfe: Tensor
    error: Tensor
    rounds: Tensor


class Inversion(NamedTuple):
    """The latents of a batch of images, and how well they were found; all on the device of the images.

    Attributes:
        state: x_T [B, ...] and, of two-state solvers, delta [B, ...].
        nfe: all evaluations spent [B].
        residual: largest residual of an implicit step [B], in units of x.
        converged: whether every tolerance was met and x_T is finite [B].
        check: the round trip, where the solver made one to check itself.
        detail: what the denoiser's x0 at the first level lacks of the images [B, ...]; None where that level is so low
            that its noise need not be told from the image.
    """

    state: State
    nfe: Tensor
    residual: Tensor
    converged: Tensor
    check: RoundTripCheck | None = None
    detail: Tensor | None = None

    @property
    def parts(self) -> State:
        """All tensors that latents consist of [B, ...]."""
        return self.state if self.detail is None else (*self.state, self.detail)


class Sampled(NamedTuple):
    """Images [B, ...] and the evaluations [B] that they cost."""

    x0: Tensor
    nfe: Tensor


def invert(denoiser: Denoiser, x0: Tensor, spans: Spans, solver: Solver, noise: Tensor | None = None) -> Inversion:
    """Integrate images up to their latents.

    The state at the first level is x = alpha (x0 + s n). With n ~ N(0, I) it has the noise that its level implies, and
    x_T is closer to Gaussian; without, n = 0. The state is float64 throughout.

    Decoding takes s n off again. Of a latent that was moved in between, the noise is no longer n: such a latent is
    decoded to the denoiser's x0 at the first level, plus the detail

        d = x0 - D(x, t)

    that the denoiser D lost of the image, which is found here. It costs no evaluation where the solver begins with that
    one, as most do.

    Args:
        denoiser: predicts x0 and eps; it must not clip x0, which is many-to-one.
        x0: images [B, ...] in [-1, 1].
        spans: `schedule.spans(grid)`.
        solver: for example one of `SOLVERS`.
        noise: n [B, ...], one of its own per image; `sample` needs it to take it off again.

    Raises:
        ArgumentError: the denoiser clips, or the solver cannot invert.

    References:
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502, section 4.3.

    Examples:
        >>> import torch
        >>> from ddim_edit import SOLVERS, MixtureDenoiser, NoiseSchedule, make_grid
        >>> denoiser = MixtureDenoiser(torch.zeros(1, 3, 8, 8), torch.ones(1), torch.ones(1))
        >>> schedule = NoiseSchedule.linear()
        >>> spans = schedule.spans(make_grid("karras", schedule, 20))
        >>> images = torch.rand(2, 3, 8, 8) * 2 - 1
        >>> found = invert(denoiser, images, spans, SOLVERS["dpm2m"])
        >>> decoded = sample(denoiser, found.state, spans, SOLVERS["dpm2m"]).x0
        >>> bool((decoded - images).abs().max() < 0.05)
        True
    """
    if _clips(denoiser):
        raise ArgumentError("A denoiser that clips x0 cannot be inverted: it maps many images to one. Do not clip.")
    start = spans[0].here
    # Only the network computes in low precision: rounding errors of the state would add up over the steps.
    x = add_noise(x0.double(), start, noise)
    watched = _FirstPrediction(denoiser, x)
    tracked = TrackedDenoiser.start(watched, len(x0), x0.device)
    state, own_check = solver.invert(tracked, x, spans)
    detail = None
    if noise is not None and has_detail(spans):
        detail = x0 - (tracked(x, start) if watched.first is None else watched.first).x0.double()
    check = None
    if own_check is not None:
        decoded = remove_noise(own_check.decoded, start, noise)
        error = (decoded - x0).flatten(1).abs().amax(1)
        check = RoundTripCheck(decoded, own_check.nfe, error, own_check.rounds)
    # A network in 16 bits may overflow where no equation is solved that could notice.
    converged = tracked.converged & state[0].flatten(1).isfinite().all(1)
    return Inversion(state, tracked.nfe, tracked.residual, converged, check, detail)


class Ending(NamedTuple):
    """How the image is made of the state at the first level, for latents that were moved.

    Attributes:
        detail: `Inversion.detail`, or what is left of those of several sources [B, ...].
        parts: how much of the detail that is, from 0 to 1, image by image; the rest is the model's own.
        below: the steps from the first level down to the image, for the model's own detail, again from the image
            towards noise.
    """

    detail: Tensor
    parts: Sequence[float]
    below: Spans


def sample(
    denoiser: Denoiser,
    state: State,
    spans: Spans,
    solver: Solver,
    noise: Tensor | None = None,
    ending: Ending | None = None,
) -> Sampled:
    """Integrate latents down to images; the inverse of `invert` with the same spans, solver and noise.

    With an ending the image is

        D(x, t) + d + (1 - p) (F(x) - D(x, t))

    of the state x at the first level t: D is the denoiser, d what is left of the detail of the sources and p its part,
    and F(x) the image that the ODE leads to from there. It takes one evaluation more where all p are 1, and else one
    for each step below.

    Args:
        denoiser: predicts x0 and eps.
        state: x at the last level [B, ...] and, of two-state solvers, delta [B, ...], or x alone for delta = 0.
        spans: as for `invert`, from the image towards noise.
        solver: for example one of `SOLVERS`.
        noise: the n given to `invert`.
        ending: for latents that were moved, in place of the noise.
    """
    tracked = TrackedDenoiser.start(denoiser, len(state[0]), state[0].device)
    x = solver.decode(tracked, tuple(each.double() for each in state), spans)
    start = spans[0].here
    if ending is None:
        return Sampled(remove_noise(x, start, noise), tracked.nfe.cpu())
    if min(ending.parts) == 1:
        return Sampled(tracked(x, start).x0.double() + ending.detail, tracked.nfe.cpu())
    watched = _FirstPrediction(denoiser, x)
    own = DETAIL_SOLVER.decode(replace(tracked, denoiser=watched), (x,), ending.below)
    assert watched.first is not None  # explicit steps begin there
    denoised = watched.first.x0.double()
    rest = to_device(1 - torch.tensor(ending.parts, dtype=torch.float64), x.device)
    rest = rest.view(-1, *[1] * (x.ndim - 1))
    return Sampled(denoised + ending.detail + rest * (own - denoised), tracked.nfe.cpu())


def add_noise(x0: Tensor, level: Level, noise: Tensor | None) -> Tensor:
    """Return x = alpha (x0 + s n) [B, ...] of images and their noise n, which is 0 if there is none."""
    return level.alpha * (x0 if noise is None else x0 + level.s * noise)


def remove_noise(x: Tensor, level: Level, noise: Tensor | None) -> Tensor:
    """Return x0 = x / alpha - s n [B, ...]; the inverse of `add_noise`."""
    x0 = x / level.alpha
    return x0 if noise is None else x0 - level.s * noise


DETAIL_SOLVER = find_solver("dpm2m")
"""Solver of the steps below the first level of a grid, whatever solver goes down to there."""


def has_detail(spans: Spans) -> bool:
    """Return whether inversions over these spans find the detail of images, for latents that are moved.

    Up to t = 1 the seeded noise is too weak to be seen, so that it is taken off of moved latents too.
    """
    return spans[0].here.t > 1


class _FirstPrediction:
    """A denoiser that keeps its prediction at one state, if that is evaluated."""

    def __init__(self, denoiser: Denoiser, x: Tensor) -> None:
        self.denoiser = denoiser
        self.first: Prediction | None = None
        self._x = x

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        prediction = self.denoiser(x, level)
        if x is self._x:
            self.first = prediction
        return prediction


def _clips(denoiser: object) -> bool:
    """Return whether a denoiser clips, itself or below those that wrap it."""
    inner = getattr(denoiser, "denoiser", None)
    return isinstance(denoiser, ClippedDenoiser) or (inner is not None and _clips(inner))
