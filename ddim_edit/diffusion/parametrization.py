"""Parametrizations: how a network is called at a noise level, and what its output means.

A network is trained in its own terms: it sees a scaled x and a number for the noise level (a timestep,
ln(s) / 4, log SNR), and it predicts eps, x0, v, a velocity or EDM's F. A `Parametrization` translates between these
terms and the variance-preserving state x = alpha x0 + sigma eps that solvers work in. Nothing else in the package
knows prediction types or timestep indices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    # Registries of checkpoint families use this module where torch is not to be imported.
    from torch import Tensor

    from ddim_edit.diffusion.schedules import Level


class Prediction(NamedTuple):
    """The clean image x0 and the noise eps of x = alpha x0 + sigma eps, each shaped as x."""

    x0: Tensor
    eps: Tensor


class Parametrization(Protocol):
    """Input scaling, time conditioning and prediction type of a network."""

    @property
    def name(self) -> str:
        """The prediction type, in diffusers' words where these have one; recipes record it."""
        ...

    def scale_input(self, x: Tensor, level: Level) -> Tensor:
        """Return the network's input for the state x [B, ...] (EDM's c_in)."""
        ...

    def time_condition(self, level: Level) -> float:
        """Return the number by which the network is given its noise level (EDM's c_noise)."""
        ...

    def to_prediction(self, output: Tensor, x: Tensor, level: Level) -> Prediction:
        """Return x0 and eps from the network's output at the state x (EDM's c_skip and c_out)."""
        ...


def from_eps(output: Tensor, x: Tensor, level: Level) -> Prediction:
    """Convert a predicted eps: x0 = (x - sigma eps) / alpha."""
    return Prediction((x - level.sigma * output) / level.alpha, output)


def from_x0(output: Tensor, x: Tensor, level: Level) -> Prediction:
    """Convert a predicted x0: eps = (x - alpha x0) / sigma.

    Raises:
        ArgumentError: at sigma = 0, where x0 does not determine eps.
    """
    if not level.sigma:
        raise ArgumentError("A network that predicts x0 cannot be used at the clean image t = 0. Start the grid later.")
    return Prediction(output, (x - level.alpha * output) / level.sigma)


def from_v(output: Tensor, x: Tensor, level: Level) -> Prediction:
    """Convert a predicted v = alpha eps - sigma x0: x0 = alpha x - sigma v, eps = sigma x + alpha v.

    References:
        Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR 2022, arXiv:2202.00512.
    """
    return Prediction(level.alpha * x - level.sigma * output, level.sigma * x + level.alpha * output)


PREDICTION_TYPES: Mapping[str, Callable[[Tensor, Tensor, Level], Prediction]] = {
    "epsilon": from_eps,
    "sample": from_x0,
    "v_prediction": from_v,
}
"""Conversions of the predictions of variance-preserving networks, by diffusers' name of the type."""


def timestep_index(level: Level) -> float:
    """Return the timestep index t - 1 of networks with discrete levels; may be fractional, 0 for times below 1.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
    """
    return max(level.t - 1, 0.0)


@dataclass(frozen=True)
class RescaledTimestepIndex:
    """Timestep index (t - 1) 1000 / T, for networks trained with `rescale_timesteps` on T levels.

    References:
        Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021, arXiv:2102.09672.
    """

    T: int

    def __call__(self, level: Level) -> float:
        """Return the index at a level."""
        return timestep_index(level) * 1000 / self.T


@dataclass(frozen=True)
class DDPMParametrization:
    """Parametrization of networks of a variance-preserving process: they see x itself.

    Args:
        name: the prediction type, one of `PREDICTION_TYPES`.
        time: maps a level to the network's time condition.
    """

    name: str = "epsilon"
    time: Callable[[Level], float] = timestep_index

    def scale_input(self, x: Tensor, level: Level) -> Tensor:
        """Return x."""
        return x

    def time_condition(self, level: Level) -> float:
        """Return the time condition at a level."""
        return self.time(level)

    def to_prediction(self, output: Tensor, x: Tensor, level: Level) -> Prediction:
        """Return x0 and eps, as the prediction type has it."""
        return PREDICTION_TYPES[self.name](output, x, level)


@dataclass(frozen=True)
class FlowParametrization:
    """Parametrization of rectified-flow networks, which see the straight path and predict its velocity.

    The path is x' = (1 - tau) x0 + tau eps with tau = s / (1 + s), so x' = k x with k = (1 - tau) / alpha. The time
    condition is T tau, and the output v = eps - x0 gives x0 = x' - tau v, eps = x' + (1 - tau) v.

    Args:
        T: the time condition of pure noise.
        shift: of times before they were given to the network: it is told what the time was before, tau / (shift -
            (shift - 1) tau).

    References:
        Liu, Gong, Liu, "Flow Straight and Fast", ICLR 2023, arXiv:2209.03003.
        Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", ICML 2024,
        arXiv:2403.03206.
    """

    T: float = 1000.0
    name: str = "flow_prediction"
    shift: float = 1.0

    def scale_input(self, x: Tensor, level: Level) -> Tensor:
        """Return the state on the straight path."""
        return x * ((1 - self._tau(level)) / level.alpha)

    def time_condition(self, level: Level) -> float:
        """Return T tau, without the shift."""
        tau = self._tau(level)
        return self.T * tau / (self.shift - (self.shift - 1) * tau)

    def to_prediction(self, output: Tensor, x: Tensor, level: Level) -> Prediction:
        """Return x0 and eps from the velocity."""
        tau = self._tau(level)
        on_path = self.scale_input(x, level)
        return Prediction(on_path - tau * output, on_path + (1 - tau) * output)

    def _tau(self, level: Level) -> float:
        return level.s / (1 + level.s)


@dataclass(frozen=True)
class EDMParametrization:
    """EDM's preconditioning of a network F, conditioned on the noise level; not defined at s = 0.

    With y = x / alpha and d = sigma_data the network sees y / sqrt(s^2 + d^2) at time condition ln(s) / 4, and
    x0 = y d^2 / (s^2 + d^2) + F s d / sqrt(s^2 + d^2), eps = (y - x0) / s.

    Args:
        sigma_data: standard deviation of the training images.

    References:
        Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
        arXiv:2206.00364, table 1.
    """

    sigma_data: float = 0.5
    name: str = "edm"

    def scale_input(self, x: Tensor, level: Level) -> Tensor:
        """Return y / sqrt(s^2 + d^2)."""
        return x / (level.alpha * math.hypot(level.s, self.sigma_data))

    def time_condition(self, level: Level) -> float:
        """Return ln(s) / 4.

        Raises:
            ArgumentError: at the clean image, where the logarithm is infinite.
        """
        return log_noise_level(level.s) / 4

    def to_prediction(self, output: Tensor, x: Tensor, level: Level) -> Prediction:
        """Return x0 and eps from F."""
        y = x / level.alpha
        total = math.hypot(level.s, self.sigma_data)
        x0 = y * (self.sigma_data / total) ** 2 + output * (level.s * self.sigma_data / total)
        return Prediction(x0, (y - x0) / level.s)


def log_noise_level(s: float) -> float:
    """Return ln(s).

    Raises:
        ArgumentError: at the clean image, where it is infinite.
    """
    if not s:
        raise ArgumentError(
            "This network is conditioned on ln(s), which is infinite at the clean image t = 0. Start the grid later."
        )
    return math.log(s)
