"""Integration of the probability-flow ODE: `invert` from images to latents, `sample` from latents to images."""

from typing import NamedTuple

from torch import Tensor

from ddim_edit.diffusion.denoisers import ClippedDenoiser, Denoiser
from ddim_edit.diffusion.schedules import Level
from ddim_edit.diffusion.solvers.solver import Solver, Spans, State
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.errors import ArgumentError


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
    """

    state: State
    nfe: Tensor
    residual: Tensor
    converged: Tensor
    check: RoundTripCheck | None = None


class Sampled(NamedTuple):
    """Images [B, ...] and the evaluations [B] that they cost."""

    x0: Tensor
    nfe: Tensor


def invert(denoiser: Denoiser, x0: Tensor, spans: Spans, solver: Solver, noise: Tensor | None = None) -> Inversion:
    """Integrate images up to their latents.

    The state at the first level is x = alpha (x0 + s n). With n ~ N(0, I) it has the noise that its level implies, and
    x_T is closer to Gaussian; without, n = 0. The state is float64 throughout.

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
    tracked = TrackedDenoiser.start(denoiser, len(x0), x0.device)
    # Only the network computes in low precision: rounding errors of the state would add up over the steps.
    state, own_check = solver.invert(tracked, add_noise(x0.double(), start, noise), spans)
    check = None
    if own_check is not None:
        decoded = remove_noise(own_check.decoded, start, noise)
        error = (decoded - x0).flatten(1).abs().amax(1)
        check = RoundTripCheck(decoded, own_check.nfe, error, own_check.rounds)
    # A network in 16 bits may overflow where no equation is solved that could notice.
    converged = tracked.converged & state[0].flatten(1).isfinite().all(1)
    return Inversion(state, tracked.nfe, tracked.residual, converged, check)


def sample(denoiser: Denoiser, state: State, spans: Spans, solver: Solver, noise: Tensor | None = None) -> Sampled:
    """Integrate latents down to images; the inverse of `invert` with the same spans, solver and noise.

    Args:
        denoiser: predicts x0 and eps.
        state: x at the last level [B, ...] and, of two-state solvers, delta [B, ...], or x alone for delta = 0.
        spans: as for `invert`, from the image towards noise.
        solver: for example one of `SOLVERS`.
        noise: the n given to `invert`.
    """
    tracked = TrackedDenoiser.start(denoiser, len(state[0]), state[0].device)
    x = solver.decode(tracked, tuple(each.double() for each in state), spans)
    return Sampled(remove_noise(x, spans[0].here, noise), tracked.nfe.cpu())


def add_noise(x0: Tensor, level: Level, noise: Tensor | None) -> Tensor:
    """Return x = alpha (x0 + s n) [B, ...] of images and their noise n, which is 0 if there is none."""
    return level.alpha * (x0 if noise is None else x0 + level.s * noise)


def remove_noise(x: Tensor, level: Level, noise: Tensor | None) -> Tensor:
    """Return x0 = x / alpha - s n [B, ...]; the inverse of `add_noise`."""
    x0 = x / level.alpha
    return x0 if noise is None else x0 - level.s * noise


def _clips(denoiser: object) -> bool:
    """Return whether a denoiser clips, itself or below those that wrap it."""
    inner = getattr(denoiser, "denoiser", None)
    return isinstance(denoiser, ClippedDenoiser) or (inner is not None and _clips(inner))
