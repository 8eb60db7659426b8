"""Denoisers: what answers, at a noisy picture and its level, with x_0 and eps together."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.schedules import Level
from ddim_edit.errors import ArgumentError


class Prediction(NamedTuple):
    """What a denoiser believes: the clean image and the noise of x = alpha x0 + sigma eps, shapes as x."""

    x0: Tensor
    eps: Tensor


class Denoiser(Protocol):
    """Anything that maps x [B, ...] at one level to a `Prediction`, row by row."""

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """The prediction at x, all of whose rows stand at this level."""
        ...


Reading = Callable[[Tensor, Tensor, Level], Prediction]


def from_eps(output: Tensor, x: Tensor, level: Level) -> Prediction:
    """Read a network that was trained to predict eps: x0 = (x - sigma eps) / alpha."""
    return Prediction((x - level.sigma * output) / level.alpha, output)


def from_x0(output: Tensor, x: Tensor, level: Level) -> Prediction:
    """Read a network that was trained to predict x0: eps = (x - alpha x0) / sigma; not for the clean image.

    Raises:
        ArgumentError: at sigma = 0, where x0 says nothing of eps.
    """
    if not level.sigma:
        raise ArgumentError("a noisy picture", "the clean one, where x0 says nothing of eps", "begin the grid later")
    return Prediction(output, (x - level.alpha * output) / level.sigma)


def from_v(output: Tensor, x: Tensor, level: Level) -> Prediction:
    """Read a network that predicts v = alpha eps - sigma x0: x0 = alpha x - sigma v, eps = sigma x + alpha v.

    Salimans and Ho (2022).
    """
    return Prediction(level.alpha * x - level.sigma * output, level.sigma * x + level.alpha * output)


def from_flow(output: Tensor, x: Tensor, level: Level) -> Prediction:
    """Read a network that predicts the velocity eps - x0 of a straight path: x0 = k x - tau v, eps = k x + (1 - tau) v.

    tau = s / (1 + s), and k x is x as `Straight` shows it.

    Liu, Gong, Liu (2023); Lipman et al. (2023).
    """
    tau, shown = _tau(level), _straightened(x, level)
    return Prediction(shown - tau * output, shown + (1 - tau) * output)


READINGS: Mapping[str, Reading] = {"epsilon": from_eps, "sample": from_x0, "v_prediction": from_v}
"""The predictions of a variance-preserving process, in diffusers' words."""

Asking = Callable[[Tensor, Level], tuple[Tensor, float]]
"""What a network is shown of x at a level: its input, shaped as x, and the index that says how noisy that is."""


def by_index(x: Tensor, level: Level) -> tuple[Tensor, float]:
    """Ask a network of discrete levels: x itself at index t - 1, which may be fractional; times below 1 read index 0.

    Ho, Jain, Abbeel (2020).
    """
    return x, max(level.t - 1, 0.0)


@dataclass(frozen=True)
class Rescaled:
    """Ask a network whose indices run to 1000 however many levels its schedule has: index (t - 1) 1000 / T.

    Nichol and Dhariwal (2021), `rescale_timesteps`.
    """

    T: int

    def __call__(self, x: Tensor, level: Level) -> tuple[Tensor, float]:
        """X itself, and the index."""
        return x, max(level.t - 1, 0.0) * 1000 / self.T


@dataclass(frozen=True)
class Straight:
    """Ask a network of a straight path x' = (1 - tau) x0 + tau eps: x' = k x at index T tau; not for discrete levels.

    tau = s / (1 + s), k = (1 - tau) / alpha: the same x0 and eps, weighted to sum to one instead of squares.

    Args:
        T: the index of pure noise.

    Liu, Gong, Liu (2023); Esser et al. (2024).
    """

    T: float = 1000.0

    def __call__(self, x: Tensor, level: Level) -> tuple[Tensor, float]:
        """X on the straight path, and the index."""
        return _straightened(x, level), self.T * _tau(level)


def _tau(level: Level) -> float:
    return level.s / (1 + level.s)


def _straightened(x: Tensor, level: Level) -> Tensor:
    return x * ((1 - _tau(level)) / level.alpha)


@dataclass(frozen=True)
class Preconditioned:
    """EDM's preconditioning of a network F, asked and read by the noise level alone; not at s = 0.

    With y = x / alpha and d = sigma_data: F sees y / sqrt(s^2 + d^2) at index ln(s) / 4, and
    x0 = y d^2 / (s^2 + d^2) + F s d / sqrt(s^2 + d^2), eps = (y - x0) / s.

    Args:
        sigma_data: standard deviation of the training pictures.

    Karras, Aittala, Aila, Laine (2022), table 1.
    """

    sigma_data: float = 0.5

    def ask(self, x: Tensor, level: Level) -> tuple[Tensor, float]:
        """The network's input and index.

        Raises:
            ArgumentError: at the clean image, which has no logarithm.
        """
        if not level.s:
            raise ArgumentError("a noisy picture", "the clean one, where ln(s) is infinite", "begin the grid later")
        return x / (level.alpha * math.hypot(level.s, self.sigma_data)), math.log(level.s) / 4

    def read(self, output: Tensor, x: Tensor, level: Level) -> Prediction:
        """The prediction that the network's output stands for."""
        y, total = x / level.alpha, math.hypot(level.s, self.sigma_data)
        x0 = y * (self.sigma_data / total) ** 2 + output * (level.s * self.sigma_data / total)
        return Prediction(x0, (y - x0) / level.s)


class Network(Protocol):
    """A trained network: its input [B, C, H, W] and its indices [B] in, one tensor of the same shape out."""

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """The network's raw output."""
        ...


@dataclass(frozen=True)
class NetworkDenoiser:
    """A trained network as a denoiser; how levels become indices is known to `asking` alone.

    Args:
        network: called with its input in `dtype` and float32 indices.
        reading: how its output is read, one of `READINGS` or a `Preconditioned.read`.
        dtype: what the network computes in; the prediction comes back in the dtype of x.
        asking: what it is shown.
        low: asked instead of the network where the noise is below the picture, s < 1, if it is given: a faster and
            coarser one, whose errors there hardly reach x_0, as a step adds only (s' - s) of them.
    """

    network: Network
    reading: Reading = from_eps
    dtype: torch.dtype = torch.float32
    asking: Asking = by_index
    low: Network | None = None

    def at(self, level: Level) -> "NetworkDenoiser":
        """The same denoiser with the one network that it asks at a level."""
        if self.low is None:
            return self
        return replace(self, network=self.low if level.s < 1 else self.network, low=None)

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """The prediction at x [B, C, H, W]."""
        shown, number = self.asking(x, level)
        index = torch.full((len(x),), number, dtype=torch.float32, device=x.device)
        output = self.at(level).network(shown.to(self.dtype), index).to(x.dtype)
        return self.reading(output, x, level)


@dataclass(frozen=True)
class MixtureDenoiser:
    """The exact denoiser of data from a mixture of isotropic Gaussians; needs no weights, for tests and teaching.

    Data sum_k w_k N(m_k, c_k^2 I). With y = x / alpha, s = sigma / alpha and posterior weights
    p_k ~ w_k N(y; m_k, (c_k^2 + s^2) I): eps = sum_k p_k s (y - m_k) / (c_k^2 + s^2), x0 = y - s eps.

    Args:
        means: [K, ...], one row per component, rows shaped as an image.
        widths: [K], each at least 0; a component of width 0 is a point mass.
        weights: [K], positive; need not sum to 1.

    Undefined at s = 0 for a component of width 0.
    """

    means: Tensor
    widths: Tensor
    weights: Tensor

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """The prediction at x [B, ...]."""
        offset = x.flatten(1)[:, None] / level.alpha - self.means.flatten(1)
        variance = self.widths**2 + level.s**2
        energy = offset.square().sum(-1) / variance + offset.shape[-1] * variance.log()
        posterior = torch.softmax(self.weights.log() - energy / 2, dim=1)
        eps = torch.einsum("bk,bkd->bd", posterior * level.s / variance, offset).view_as(x)
        return Prediction(x / level.alpha - level.s * eps, eps)


@dataclass(frozen=True)
class GuidedDenoiser:
    """Classifier-free guidance of two denoisers; a scale far from 1 makes `invert` harder, never illegal.

    eps = eps_u + w (eps_c - eps_u), and x0 alike; w = 1 is the conditional denoiser alone.

    Ho and Salimans (2022).
    """

    conditional: Denoiser
    unconditional: Denoiser
    guidance_scale: float

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """The guided prediction at x."""
        yes, no = self.conditional(x, level), self.unconditional(x, level)
        w = self.guidance_scale
        return Prediction(torch.lerp(no.x0, yes.x0, w), torch.lerp(no.eps, yes.eps, w))


@dataclass(frozen=True)
class GuidedNetwork:
    """Classifier-free guidance of one network in one call for both conditions; equals `GuidedDenoiser` of the two.

    out = out_u + w (out_c - out_u), in float32: x0 and eps are affine in a network's output, so they are guided alike.

    Args:
        network: answers the first half of a batch unconditionally, the second half under the condition.
        guidance_scale: w.

    Ho and Salimans (2022).
    """

    network: Network
    guidance_scale: float

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """The guided output for x [B, C, H, W]."""
        no, yes = self.network(torch.cat([x, x]), torch.cat([index, index])).float().chunk(2)
        return torch.lerp(no, yes, self.guidance_scale)


@dataclass(frozen=True)
class ClippedDenoiser:
    """A denoiser whose x0 is clipped to [-bound, bound]; many-to-one, so `invert` refuses it.

    eps follows from the clipped x0, eps = (x - alpha x0) / sigma, as in Ho et al. (2020)'s sampler.
    """

    denoiser: Denoiser
    bound: float = 1.0

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """The clipped prediction at x; sigma must not be 0."""
        return from_x0(self.denoiser(x, level).x0.clamp(-self.bound, self.bound), x, level)


@dataclass(frozen=True)
class ProgressDenoiser:
    """A denoiser that tells after every evaluation how many images it was for, so that progress can be shown."""

    denoiser: Denoiser
    on_evaluation: Callable[[int], object]

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """The prediction at x."""
        prediction = self.denoiser(x, level)
        self.on_evaluation(len(x))
        return prediction
