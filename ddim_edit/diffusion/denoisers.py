"""Denoisers: what answers, at a noisy picture and its level, with x_0 and eps together."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.parametrization import DDPMParametrization, Parametrization, Prediction, from_x0
from ddim_edit.diffusion.schedules import Level


class Denoiser(Protocol):
    """Anything that maps x [B, ...] at one level to a `Prediction`, row by row."""

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """The prediction at x, all of whose rows stand at this level."""
        ...


EPSILON = DDPMParametrization("epsilon")


class Network(Protocol):
    """A trained network: its input [B, C, H, W] and its indices [B] in, one tensor of the same shape out."""

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """The network's raw output."""
        ...


@dataclass(frozen=True)
class NetworkDenoiser:
    """A trained network as a denoiser.

    Args:
        network: called with its input in `dtype` and a float32 time condition [B].
        parametrization: how the network is called and what its output means.
        dtype: what the network computes in; the prediction comes back in the dtype of x.
        low: asked instead of the network where the noise is below the picture, s < 1, if it is given: a faster and
            coarser one, whose errors there hardly reach x_0, as a step adds only (s' - s) of them.
    """

    network: Network
    parametrization: Parametrization = EPSILON
    dtype: torch.dtype = torch.float32
    low: Network | None = None

    def at(self, level: Level) -> "NetworkDenoiser":
        """The same denoiser with the one network that it asks at a level."""
        if self.low is None:
            return self
        return replace(self, network=self.low if level.s < 1 else self.network, low=None)

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """The prediction at x [B, C, H, W]."""
        scaled = self.parametrization.scale_input(x, level)
        time = torch.full((len(x),), self.parametrization.time_condition(level), dtype=torch.float32, device=x.device)
        output = self.at(level).network(scaled.to(self.dtype), time).to(x.dtype)
        return self.parametrization.to_prediction(output, x, level)


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
