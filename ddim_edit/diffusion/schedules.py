"""Noise schedules: how much of a picture and how much noise there is at every time.

The DDIM paper's alpha *is* alpha_bar; here alpha = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar), so that
x_t = alpha_t x_0 + sigma_t eps. Times run from 0 (the clean image) to T; s = sigma / alpha orders them by noise.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    from ddim_edit.diffusion.grids import Grid

Floats = npt.NDArray[np.float64]
FAINTEST = 2.0**-12
"""The smallest alpha that a schedule ends on; at 0 itself x_T would hold no picture."""


class Level(NamedTuple):
    """One noise level as plain numbers; it knows nothing of the schedule that it came from.

    Fields: time t in 0..T, alpha in (0, 1], sigma in [0, 1), alpha^2 + sigma^2 = 1.
    """

    t: float
    alpha: float
    sigma: float

    @property
    def s(self) -> float:
        """Noise-to-signal ratio sigma / alpha; 0 at the clean image."""
        return self.sigma / self.alpha


class Span(NamedTuple):
    """One step of a grid, in either direction: where it starts, where it ends and the level half-way in s."""

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
    """Noise schedule of T discrete levels, extended to fractional times; variance-preserving whatever the model's is.

    A schedule is s at the times 1..T, with alpha = 1 / sqrt(1 + s^2) and sigma = s alpha. Processes that scale x
    otherwise (variance-exploding, straight paths) are the same ODE in other units, which their `Parametrization` knows.
    Between whole times log s is linear in t; between t = 0 and t = 1, where log s is infinite, s is.

    Args:
        log_s: shape [T], finite, increasing.
        description: what to call it in a recipe.

    Raises:
        ArgumentError: log_s empty, not finite or not increasing.

    Kingma, Salimans, Poole, Ho (2021); Karras, Aittala, Aila, Laine (2022).
    """

    log_s: Floats
    description: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        log_s = np.array(self.log_s, dtype=np.float64)
        if log_s.ndim != 1 or not log_s.size or not np.isfinite(log_s).all() or not (np.diff(log_s) > 0).all():
            given = f"{log_s.size} values that are not"
            raise ArgumentError("a list of finite levels, each noisier than the one before", given, "sort them")
        object.__setattr__(self, "log_s", log_s)
        if not self.description:
            object.__setattr__(self, "description", _digest("levels", log_s))

    @classmethod
    def from_betas(cls, betas: npt.ArrayLike, description: Mapping[str, object] | None = None) -> Self:
        """The discrete process x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) z; terminal SNR above zero.

        alpha_bar_t = prod_{k<=t} (1 - beta_k), s = sqrt((1 - alpha_bar) / alpha_bar).

        Args:
            betas: shape [T], each in (0, 1).
            description: for the recipe; made from a hash of the betas when left out.

        Raises:
            ArgumentError: betas empty, outside (0, 1) or not finite.

        Ho, Jain, Abbeel (2020).
        """
        exact = np.array(betas, dtype=np.float64)
        if exact.ndim != 1 or not exact.size or not ((exact > 0) & (exact < 1)).all():
            raise ArgumentError(
                "a list of betas strictly between 0 and 1",
                f"{exact.size} values from {exact.min(initial=1):.3g} to {exact.max(initial=0):.3g}",
                "a schedule with zero terminal SNR (beta = 1) has no latent to invert to",
            )
        log_alpha_bar = np.cumsum(np.log1p(-exact))
        log_s = 0.5 * (np.log(-np.expm1(log_alpha_bar)) - log_alpha_bar)
        return cls(log_s, description or _digest("betas", exact))

    @classmethod
    def linear(cls, start: float = 1e-4, end: float = 0.02, T: int = 1000) -> Self:
        """Betas evenly spaced from start to end, as in Ho et al. (2020)."""
        return cls.from_betas(np.linspace(start, end, T), {"kind": "linear", "start": start, "end": end, "T": T})

    @classmethod
    def scaled_linear(cls, start: float = 8.5e-4, end: float = 0.012, T: int = 1000) -> Self:
        """Betas whose square roots are evenly spaced, as in Rombach et al. (2022)."""
        betas = np.linspace(math.sqrt(start), math.sqrt(end), T) ** 2
        return cls.from_betas(betas, {"kind": "scaled_linear", "start": start, "end": end, "T": T})

    @classmethod
    def cosine(cls, T: int = 1000, max_beta: float = 0.999) -> Self:
        """Squared-cosine alpha_bar with offset 0.008 and capped betas, as in Nichol and Dhariwal (2021)."""
        alpha_bar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)
        return cls.from_betas(betas, {"kind": "cosine", "max_beta": max_beta, "T": T})

    @classmethod
    def continuous(cls, low: float, high: float, T: int = 1000) -> Self:
        """Levels evenly spaced in log s from low to high, for networks that take any level, as in Karras et al. (2022).

        Raises:
            ArgumentError: levels that are not 0 < low < high.
        """
        if not 0 < low < high < math.inf:
            raise ArgumentError("levels 0 < low < high", f"{low:g} and {high:g}", "0.002 and 80 are usual")
        log_s = np.linspace(math.log(low), math.log(high), T)
        return cls(log_s, {"kind": "continuous", "low": low, "high": high, "T": T})

    @classmethod
    def flow(cls, T: int = 1000) -> Self:
        """The straight path (1 - tau) x0 + tau eps at tau = t / T, s = tau / (1 - tau); ends at alpha = 2^-12, not 0.

        Liu, Gong, Liu (2023); Lipman et al. (2023).
        """
        tau = np.arange(1, T + 1) / T
        s = np.minimum(tau / np.maximum(1 - tau, 1e-300), _s(FAINTEST))
        return cls(np.log(s), {"kind": "flow", "T": T})

    def with_zero_snr(self) -> "NoiseSchedule":
        """The same schedule with alpha shifted and scaled so that none of the picture is left at T; 2^-12 of it is.

        alpha'_t = alpha_1 (alpha_t - alpha_T) / (alpha_1 - alpha_T). For networks that do not predict eps.

        Lin, Liu, Li, Yang (2024), algorithm 1.
        """
        alpha = np.sqrt(self.alpha_bar)
        moved = alpha[0] * (alpha - alpha[-1]) / (alpha[0] - alpha[-1])
        log_s = np.log(_s(np.maximum(moved, FAINTEST)))
        return NoiseSchedule(log_s, {**self.description, "zero_snr": True})

    @property
    def T(self) -> int:
        """Number of discrete levels, and the last time."""
        return len(self.log_s)

    @property
    def alpha_bar(self) -> Floats:
        """Alpha squared at the times 1..T, as the DDPM paper has it."""
        squared: Floats = 1 / (1 + np.exp(2 * self.log_s))
        return squared

    def s(self, t: float) -> float:
        """Noise-to-signal ratio at time t in [0, T], increasing from 0."""
        if not 0 <= t <= self.T:
            raise ArgumentError(f"a time from 0 to {self.T}", f"{t:g}", "use a time of this schedule")
        if t < 1:
            return t * math.exp(self.log_s[0])
        return math.exp(np.interp(t, np.arange(1, self.T + 1), self.log_s))

    def time(self, s: float) -> float:
        """Time in [0, T] at which the noise-to-signal ratio is s; the inverse of `s`."""
        lowest = math.exp(self.log_s[0])
        if s < lowest:
            return s / lowest
        return float(np.interp(math.log(s), self.log_s, np.arange(1, self.T + 1)))

    def level(self, t: float) -> Level:
        """Alpha and sigma at time t in [0, T]."""
        return self._level(t, self.s(t))

    def _level(self, t: float, s: float) -> Level:
        alpha = 1 / math.hypot(1, s)
        return Level(t, alpha, s * alpha)

    def span(self, here: float, there: float) -> Span:
        """The step between two times."""
        here_level, there_level = self.level(here), self.level(there)
        s = (here_level.s + there_level.s) / 2
        return Span(here_level, there_level, self._level(self.time(s), s))

    def spans(self, grid: "Grid") -> tuple[Span, ...]:
        """Every step of a grid, from the image towards noise."""
        return tuple(self.span(here, there) for here, there in pairwise(grid.times))


def _s(alpha: npt.ArrayLike) -> Floats:
    """The noise-to-signal ratio of a variance-preserving alpha."""
    squared = np.square(alpha)
    s: Floats = np.sqrt((1 - squared) / squared)
    return s


def _digest(kind: str, values: Floats) -> dict[str, object]:
    return {"kind": kind, "T": values.size, "sha256": hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()}
