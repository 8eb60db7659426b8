"""Noise schedules: how much of an image and how much noise there is at every time.

Training a diffusion model fixes nothing but the marginals

    q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I),    x_t = alpha_t x_0 + sigma_t eps.

Here alpha = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar), with the alpha_bar of the DDPM paper. Beware that the DDIM
paper writes alpha for alpha_bar. Times t run from 0, the clean image, to T. The network index of a time is t - 1.

Solvers do not need t. They need the noise-to-signal ratio s = sigma / alpha, which grows with t from 0 and is the time
of the probability-flow ODE dy / ds = eps in y = x / alpha. A schedule is therefore a table of s at t = 1..T:

- Between whole times log s is linear in t, so that networks which take fractional indices see a smooth path.
- Between t = 0 and t = 1 s itself is linear, because log s is minus infinity at the clean image.
- Variance-exploding processes (x = x_0 + s eps) and straight paths (x = (1 - tau) x_0 + tau eps) have the same y at the
  same s. They are the same ODE in other units, so every schedule here is variance-preserving, and the units of a
  network are the business of its `Parametrization`.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
    Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502.
    Kingma, Salimans, Poole, Ho, "Variational Diffusion Models", NeurIPS 2021, arXiv:2107.00630.
    Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
    arXiv:2206.00364.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ddim_edit.diffusion.sampler_times import NO_SAMPLER, SamplerTimes
from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    from ddim_edit.diffusion.grids import Grid

Floats = npt.NDArray[np.float64]
LARGEST_S = 2.0**52
"""The largest noise-to-signal ratio of a schedule: float64 has 53 binary digits for image and noise together."""
SMALLEST_ALPHA = 2.0**-12
"""The smallest alpha that a schedule ends on. At alpha = 0 x_T would hold nothing of the image, and s be infinite."""


class Level(NamedTuple):
    """One noise level as plain numbers, without the schedule that it came from.

    Attributes:
        t: time in [0, T].
        alpha: in (0, 1].
        sigma: in [0, 1); alpha^2 + sigma^2 = 1.
    """

    t: float
    alpha: float
    sigma: float

    @property
    def s(self) -> float:
        """Noise-to-signal ratio sigma / alpha; 0 at the clean image."""
        return self.sigma / self.alpha


class Span(NamedTuple):
    """One step of a grid, in either direction.

    Attributes:
        here: the level at which it starts.
        there: the level at which it ends.
        middle: the level half-way between them in s.
    """

    here: Level
    there: Level
    middle: Level

    @property
    def h(self) -> float:
        """Signed step in s, positive towards noise."""
        return self.there.s - self.here.s

    def flipped(self) -> "Span":
        """Return the same step in the other direction."""
        return Span(self.there, self.here, self.middle)

    def to_middle(self) -> "Span":
        """Return the first half of the step; its own middle is not used and stays its end."""
        return Span(self.here, self.middle, self.middle)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Variance-preserving noise schedule of T discrete levels, extended to fractional times.

        alpha = 1 / sqrt(1 + s^2),  sigma = s alpha

    Args:
        log_s: log of the noise-to-signal ratio s at the times 1..T, finite and increasing.
        description: what to call it in a recipe; made from a hash of the levels when left out.
        sampler: how the sampler that the model was released with chooses times; some grids follow it.

    Raises:
        ArgumentError: log_s is empty, not finite, not increasing or beyond `LARGEST_S`.

    Examples:
        >>> schedule = NoiseSchedule.linear()
        >>> schedule.T
        1000
        >>> level = schedule.level(1000)
        >>> round(level.alpha, 5), round(level.sigma, 5)
        (0.00635, 0.99998)
        >>> round(schedule.time(1.0), 2)  # as much noise as image
        259.09
    """

    log_s: Floats
    description: Mapping[str, object] = field(default_factory=dict)
    sampler: SamplerTimes = NO_SAMPLER

    def __post_init__(self) -> None:
        # A copy, which the caller cannot change later.
        log_s = np.array(self.log_s, dtype=np.float64)
        if log_s.ndim != 1 or not log_s.size or not np.isfinite(log_s).all() or not (np.diff(log_s) > 0).all():
            raise ArgumentError("The levels of a schedule must be finite, each noisier than the one before. Sort them.")
        if log_s[-1] > math.log(LARGEST_S):
            raise ArgumentError(
                f"The schedule ends on exp({log_s[-1]:.3g}) times as much noise as image, beside which float64 holds "
                "nothing of the image. Take fewer timesteps or smaller betas."
            )
        object.__setattr__(self, "log_s", log_s)
        if not self.description:
            object.__setattr__(self, "description", _digest("levels", log_s))

    @classmethod
    def from_betas(cls, betas: npt.ArrayLike, description: Mapping[str, object] | None = None) -> Self:
        """Return the schedule of the discrete process x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) z.

            alpha_bar_t = prod_{k<=t} (1 - beta_k),  s = sqrt((1 - alpha_bar) / alpha_bar)

        Args:
            betas: shape [T], each in (0, 1).
            description: for the recipe; made from a hash of the betas when left out.

        Raises:
            ArgumentError: betas are empty, outside (0, 1) or not finite.

        References:
            Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
        """
        exact = np.array(betas, dtype=np.float64)
        if exact.ndim != 1 or not exact.size or not ((exact > 0) & (exact < 1)).all():
            raise ArgumentError(
                f"Betas must lie strictly between 0 and 1, not {exact.size} of them from {exact.min(initial=1):.3g} to "
                f"{exact.max(initial=0):.3g}. A schedule with zero terminal SNR (beta = 1) has no latent to invert to."
            )
        # Sums of log1p keep the digits of small betas, which 1 - alpha_bar at low noise consists of.
        log_alpha_bar = np.cumsum(np.log1p(-exact))
        log_s = 0.5 * (np.log(-np.expm1(log_alpha_bar)) - log_alpha_bar)
        return cls(log_s, description or _digest("betas", exact))

    @classmethod
    def linear(cls, start: float = 1e-4, end: float = 0.02, T: int = 1000) -> Self:
        """Return the schedule of betas evenly spaced from start to end, as DDPM has it."""
        return cls.from_betas(np.linspace(start, end, T), {"kind": "linear", "start": start, "end": end, "T": T})

    @classmethod
    def scaled_linear(cls, start: float = 8.5e-4, end: float = 0.012, T: int = 1000) -> Self:
        """Return the schedule of betas whose square roots are evenly spaced, as Stable Diffusion has it."""
        betas = np.linspace(math.sqrt(start), math.sqrt(end), T) ** 2
        return cls.from_betas(betas, {"kind": "scaled_linear", "start": start, "end": end, "T": T})

    @classmethod
    def cosine(cls, T: int = 1000, max_beta: float = 0.999) -> Self:
        """Return the schedule of squared-cosine alpha_bar with offset 0.008 and capped betas.

        References:
            Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021, arXiv:2102.09672.
        """
        alpha_bar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)
        return cls.from_betas(betas, {"kind": "cosine", "max_beta": max_beta, "T": T})

    @classmethod
    def sigmoid(cls, start: float = 1e-4, end: float = 0.02, T: int = 1000) -> Self:
        """Return the schedule of betas from start to end along a sigmoid from -6 to 6.

        References:
            Xu, Yu, Song, Shi, Ermon, Tang, "GeoDiff: a Geometric Diffusion Model for Molecular Conformation
            Generation", ICLR 2022, arXiv:2203.02923.
        """
        betas = (end - start) / (1 + np.exp(-np.linspace(-6, 6, T))) + start
        return cls.from_betas(betas, {"kind": "sigmoid", "start": start, "end": end, "T": T})

    @classmethod
    def laplace(cls, T: int = 1000, max_beta: float = 0.999) -> Self:
        """Return the schedule of a log SNR that is distributed as Laplace has it, with capped betas, as in diffusers.

        References:
            Hang, Gu, Bao, Wei, Chen, Geng, Guo, "Improved Noise Schedule for Diffusion Training", 2024,
            arXiv:2407.03297.
        """
        offset = 0.5 - np.arange(T + 1) / T
        log_snr = -0.5 * np.where(offset < 0, -1, 1) * np.log(1 - 2 * np.abs(offset) + 1e-6)
        alpha_bar = np.sqrt(1 / (1 + np.exp(-log_snr)))
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)
        return cls.from_betas(betas, {"kind": "laplace", "max_beta": max_beta, "T": T})

    @classmethod
    def continuous(cls, low: float, high: float, T: int = 1000) -> Self:
        """Return T levels evenly spaced in log s, for networks that take any level, as those of EDM do.

        Args:
            low: lowest s.
            high: highest s.
            T: number of levels; it changes nothing but the numbering, since times are fractional.

        Raises:
            ArgumentError: levels that are not 0 < low < high.
        """
        if not 0 < low < high < math.inf:
            raise ArgumentError(f"Levels must be 0 < low < high, not {low:g} and {high:g}. 0.002 and 80 are usual.")
        log_s = np.linspace(math.log(low), math.log(high), T)
        return cls(log_s, {"kind": "continuous", "low": low, "high": high, "T": T})

    @classmethod
    def flow(cls, T: int = 1000) -> Self:
        """Return the schedule of the straight path (1 - tau) x0 + tau eps at tau = t / T, s = tau / (1 - tau).

        It ends at alpha = 2^-12 instead of 0.

        References:
            Liu, Gong, Liu, "Flow Straight and Fast", ICLR 2023, arXiv:2209.03003.
            Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow Matching for Generative Modeling", ICLR 2023, arXiv:2210.02747.
        """
        tau = np.arange(1, T + 1) / T
        # The smallest divisor only avoids 0 / 0 at tau = 1, where the minimum holds.
        s = np.minimum(tau / np.maximum(1 - tau, 1e-300), _noise_to_signal(SMALLEST_ALPHA))
        return cls(np.log(s), {"kind": "flow", "T": T})

    def with_zero_snr(self) -> "NoiseSchedule":
        """Return the schedule rescaled to zero terminal SNR, for networks that do not predict eps.

            alpha'_t = alpha_1 (alpha_t - alpha_T) / (alpha_1 - alpha_T)

        alpha' ends at 2^-12 instead of 0, so that x_T can still be inverted to.

        References:
            Lin, Liu, Li, Yang, "Common Diffusion Noise Schedules and Sample Steps are Flawed", WACV 2024,
            arXiv:2305.08891, algorithm 1.
        """
        alpha = np.sqrt(self.alpha_bar)
        moved = alpha[0] * (alpha - alpha[-1]) / (alpha[0] - alpha[-1])
        log_s = np.log(_noise_to_signal(np.maximum(moved, SMALLEST_ALPHA)))
        return NoiseSchedule(log_s, {**self.description, "zero_snr": True})

    @property
    def T(self) -> int:
        """Number of discrete levels, and the last time."""
        return len(self.log_s)

    @property
    def alpha_bar(self) -> Floats:
        """Alpha squared at the times 1..T [T], as the DDPM paper has it."""
        squared: Floats = 1 / (1 + np.exp(2 * self.log_s))
        return squared

    def s(self, t: float) -> float:
        """Return the noise-to-signal ratio at time t in [0, T], increasing from 0.

        Raises:
            ArgumentError: another time.
        """
        if not 0 <= t <= self.T:
            raise ArgumentError(f"Times of this schedule go from 0 to {self.T}. There is no time {t:g}.")
        if t < 1:
            return t * math.exp(self.log_s[0])
        return math.exp(np.interp(t, np.arange(1, self.T + 1), self.log_s))

    def time(self, s: float) -> float:
        """Return the time in [0, T] at which the noise-to-signal ratio is s; the inverse of `s`."""
        lowest = math.exp(self.log_s[0])
        if s < lowest:
            return s / lowest
        return float(np.interp(math.log(s), self.log_s, np.arange(1, self.T + 1)))

    def level(self, t: float) -> Level:
        """Return alpha and sigma at time t in [0, T]."""
        return self._level(t, self.s(t))

    def _level(self, t: float, s: float) -> Level:
        # hypot does not overflow for the huge s of variance-exploding models.
        alpha = 1 / math.hypot(1, s)
        return Level(t, alpha, s * alpha)

    def span(self, here: float, there: float) -> Span:
        """Return the step from one time to another, in either direction."""
        here_level, there_level = self.level(here), self.level(there)
        s = (here_level.s + there_level.s) / 2
        return Span(here_level, there_level, self._level(self.time(s), s))

    def spans(self, grid: "Grid") -> tuple[Span, ...]:
        """Return every step of a grid, from the image towards noise."""
        return tuple(self.span(here, there) for here, there in pairwise(grid.times))


def _noise_to_signal(alpha: npt.ArrayLike) -> Floats:
    """Return s of a variance-preserving alpha."""
    squared = np.square(alpha)
    s: Floats = np.sqrt((1 - squared) / squared)
    return s


def _digest(kind: str, values: Floats) -> dict[str, object]:
    return {"kind": kind, "T": values.size, "sha256": hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()}
