"""The two walks: `invert` from images to codes, `sample` from codes to images."""

from typing import NamedTuple

from torch import Tensor

from ddim_edit.diffusion.denoisers import ClippedDenoiser, Denoiser, ProgressDenoiser
from ddim_edit.diffusion.solvers.anderson import Parts
from ddim_edit.diffusion.solvers.base import Check, Solver, Spans
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.errors import ArgumentError


class RoundTripCheck(NamedTuple):
    """What codes decode to [B, ...], the evaluations for it [B], its largest error [B], and the rounds so far [B]."""

    decoded: Tensor
    nfe: Tensor
    error: Tensor
    rounds: Tensor


class Inversion(NamedTuple):
    """What an inversion found for each image, and how well.

    Latents and decoded images are on the device of the images, everything else on the CPU.

    Fields: parts, x_T [B, ...] and, of pair schemes, delta [B, ...]; nfe [B], all evaluations spent; residual [B], the
    worst one of an implicit step, in units of x; converged [B], whether every tolerance was met and x_T is
    finite; the round trip, where the solver made one to check itself.
    """

    parts: Parts
    nfe: Tensor
    residual: Tensor
    converged: Tensor
    trip: RoundTripCheck | None = None


class Sampled(NamedTuple):
    """Images [B, ...] and the evaluations [B] that they cost."""

    x0: Tensor
    nfe: Tensor


def invert(denoiser: Denoiser, x0: Tensor, spans: Spans, solver: Solver, noise: Tensor | None = None) -> Inversion:
    """Walk images up to their codes; any deterministic solver, not through a clipped denoiser.

    The state at the first level is x = alpha (x0 + s n). With n ~ N(0, I) it has the noise that its level implies, and
    x_T is closer to Gaussian; without, n = 0. The state is kept in float64.

    Args:
        denoiser: what to ask.
        x0: images [B, ...] in [-1, 1].
        spans: `schedule.spans(grid)`.
        solver: for example one of `SOLVERS`.
        noise: n [B, ...], one of its own per image; `sample` needs it to take it off again.

    Raises:
        ArgumentError: the denoiser is clipped, or the solver cannot invert.

    Song, Meng, Ermon (2021), section 4.3.
    """
    if _clips(denoiser):
        raise ArgumentError(
            "a denoiser that can be inverted",
            "one that clips x0",
            "invert without clipping: it is many-to-one",
        )
    account = TrackedDenoiser.open(denoiser, len(x0), x0.device)
    start = _start(spans, noise)
    encoded = solver.encode(account, start.up(x0.double()), spans)
    trip = None if encoded.check is None else _round_trip(x0, start.down(encoded.check.decoded), encoded.check)
    converged = account.converged & encoded.parts[0].flatten(1).isfinite().all(1)
    return Inversion(encoded.parts, account.nfe.cpu(), account.residual.cpu(), converged.cpu(), trip)


def _round_trip(x0: Tensor, decoded: Tensor, check: Check) -> RoundTripCheck:
    error = (decoded - x0).flatten(1).abs().amax(1)
    return RoundTripCheck(decoded, check.nfe.cpu(), error.cpu(), check.rounds.cpu())


def sample(denoiser: Denoiser, parts: Parts, spans: Spans, solver: Solver, noise: Tensor | None = None) -> Sampled:
    """Walk codes down to images, the inverse of `invert` with the same spans, solver and seed.

    Args:
        denoiser: what to ask.
        parts: x at the last level [B, ...] and, of pair schemes, delta [B, ...], or x alone for delta = 0.
        spans: as for `invert`, from the image towards noise.
        solver: for example one of `SOLVERS`.
        noise: the n given to `invert`.
    """
    account = TrackedDenoiser.open(denoiser, len(parts[0]), parts[0].device)
    x = solver.decode(account, tuple(part.double() for part in parts), spans)
    return Sampled(_start(spans, noise).down(x), account.nfe.cpu())


def _clips(denoiser: object) -> bool:
    return isinstance(denoiser, ClippedDenoiser) or (
        isinstance(denoiser, ProgressDenoiser) and _clips(denoiser.denoiser)
    )


class _Start(NamedTuple):
    """How an image and the state at the first level of a walk belong together."""

    alpha: float
    noise: Tensor | float

    def up(self, x0: Tensor) -> Tensor:
        return self.alpha * (x0 + self.noise)

    def down(self, x: Tensor) -> Tensor:
        return x / self.alpha - self.noise


def _start(spans: Spans, noise: Tensor | None) -> _Start:
    first = spans[0].here
    return _Start(first.alpha, 0.0 if noise is None else first.s * noise)
