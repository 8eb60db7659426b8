"""How the sampler that a checkpoint was released with chooses its times: what the grids named after it follow.

None of it was decided in training, so it is not a part of what identifies a model.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_RHO = 7.0
_LARGEST = 40.0
"""An exponent that leaves nothing but noise or image, and far from overflow."""
_BETA = 0.6
"""Both parameters of the Beta distribution of sigmas in diffusers."""


@dataclass(frozen=True)
class DynamicShift:
    """A shift of straight paths that grows with the image: exp(mu), or mu, with mu linear in the number of its tokens.

    Args:
        least: mu of `few` tokens.
        most: mu of `many` tokens.
        few: tokens of a small image.
        many: tokens of a large image.
        exponential: whether the shift is exp(mu); else it is mu itself.
    """

    least: float = 0.5
    most: float = 1.15
    few: int = 256
    many: int = 4096
    exponential: bool = True

    def shift(self, tokens: int, steps: int) -> float:
        """Return the shift for an image of so many tokens in so many steps."""
        mu = self.mu(tokens, steps)
        return math.exp(max(-_LARGEST, min(mu, _LARGEST))) if self.exponential else max(mu, math.exp(-_LARGEST))

    def mu(self, tokens: int, steps: int) -> float:
        """Return mu; `steps` matters to other rules only."""
        slope = (self.most - self.least) / max(self.many - self.few, 1)
        return self.least + (tokens - self.few) * slope


class EmpiricalShift(DynamicShift):
    """The shift of Flux.2, which was fitted to the tokens of an image and the number of steps."""

    def mu(self, tokens: int, steps: int) -> float:
        """Return mu, linear in the tokens of 10 and of 200 steps, and between these in the steps."""
        at_200 = 0.00016927 * tokens + 0.45666666
        if tokens > 4300:
            return at_200
        at_10 = 8.73809524e-05 * tokens + 1.89833333
        return at_200 + (at_200 - at_10) * (steps - 200) / 190


class RootShift(DynamicShift):
    """The shift of CogView4, with mu = least + most sqrt(tokens / few)."""

    def mu(self, tokens: int, steps: int) -> float:
        """Return mu."""
        return self.least + self.most * math.sqrt(tokens / self.few)


@dataclass(frozen=True)
class SamplerTimes:
    """The settings of a sampler of diffusers that decide its times; the defaults are those of no sampler at all.

    Args:
        offset: what is added to the indices of leading spacing (steps_offset).
        ends_clean: whether sampling ends at the clean image; else at index 0 (set_alpha_to_one false).
        one_more: whether indices are those of one step more without the lowest one, as in solvers of higher order.
        distilled_steps: steps of the sampler that a consistency model was distilled from, of whose times it takes some;
            0 for other models.
        shift: of straight paths.
        dynamic_shift: takes its place once the size of the images is known.
        tokens: of an image; 0 while its size is not known.
        shares: how the shares of noise of straight paths are spaced: "levels", from pure noise to the shifted first
            level; "even", from 1 to 1 / steps; "whole", from 1 to 1 / T in multiples of 1 / T; "above first", from 1 to
            1 / T, exclusively; "below pure", from 1 - 1 / T to 0, exclusively.
        terminal: what the shares are stretched to end on, or 0.
        spread: "karras", "exponential" or "beta", if the shares in between are spread so again.
    """

    offset: int = 0
    ends_clean: bool = True
    one_more: bool = False
    distilled_steps: int = 0
    shift: float = 1.0
    dynamic_shift: DynamicShift | None = None
    tokens: int = 0
    shares: str = "levels"
    terminal: float = 0.0
    spread: str = ""

    def for_tokens(self, tokens: int) -> Self:
        """Return the settings for images of so many tokens."""
        return replace(self, tokens=tokens)

    def shift_of(self, steps: int) -> float:
        """Return the shift of so many steps."""
        if self.dynamic_shift is None or not self.tokens:
            return self.shift
        return self.dynamic_shift.shift(self.tokens, steps)

    def noise_shares(self, T: int, steps: int, shift: float | None = None) -> Floats:
        """Return the shares of noise tau of a straight path [steps], increasing, without the clean image.

        Args:
            T: levels of the schedule.
            steps: how many steps.
            shift: takes the place of the sampler's own.

        References:
            Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", ICML 2024,
            arXiv:2403.03206, eq. 23.
        """
        chosen = self.shift_of(steps) if shift is None else shift
        if self.shares == "even":
            tau = np.linspace(1 / steps, 1, steps)
        elif self.shares == "whole":
            tau = np.floor(np.linspace(T, 1, steps))[::-1] / T
        elif self.shares == "above first":
            tau = np.linspace(1 / T, 1, steps + 1)[1:]
        elif self.shares == "below pure":
            tau = np.linspace(0, 1 - 1 / T, steps + 1)[1:]
        else:
            # A shift that was chosen beforehand has moved the levels themselves already.
            is_fixed = self.dynamic_shift is None or shift is not None
            tau = np.linspace(_shifted(np.array(1 / T), chosen) if is_fixed else 1 / T, 1, steps)
        tau = _shifted(tau, chosen)
        if self.terminal:
            # With one step the lowest share is pure noise.
            tau = 1 - (1 - tau) * ((1 - self.terminal) / max(1 - tau[0], 1e-300))
        return self._spread(tau)

    def _spread(self, tau: Floats) -> Floats:
        low, high = tau[0], tau[-1]
        even = np.linspace(0, 1, len(tau))
        if self.spread == "karras":
            spread: Floats = (low ** (1 / _RHO) + even * (high ** (1 / _RHO) - low ** (1 / _RHO))) ** _RHO
        elif self.spread == "exponential":
            spread = np.exp(math.log(low) + even * (math.log(high) - math.log(low)))
        elif self.spread == "beta":
            from scipy.stats import beta  # takes half a second

            spread = low + beta.ppf(even, _BETA, _BETA) * (high - low)
        else:
            spread = tau
        return spread


NO_SAMPLER = SamplerTimes()
"""The settings of models that were released without a sampler."""


def _shifted(tau: Floats, shift: float) -> Floats:
    shifted: Floats = shift * tau / (1 - tau + shift * tau)
    return shifted
