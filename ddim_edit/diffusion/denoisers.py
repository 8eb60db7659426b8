"""Denoisers: functions of a noisy image and its level that predict x_0 and eps together.

Guidance, clipping and bottleneck edits are denoisers that wrap denoisers, so that solvers need no code for them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.parametrization import DDPMParametrization, Parametrization, Prediction, from_x0
from ddim_edit.diffusion.schedules import Level


class Denoiser(Protocol):
    """A function of x [B, ...] at one level that predicts x0 and eps, row by row."""

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the prediction at x [B, ...], all of whose rows stand at this level."""
        ...


EPSILON = DDPMParametrization("epsilon")


class Network(Protocol):
    """A trained network: a function of its scaled input [B, C, H, W] and its time conditions [B]."""

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the network's raw output, of the shape of its input."""
        ...


@dataclass(frozen=True)
class NetworkDenoiser:
    """A trained network as a denoiser.

    Args:
        network: called with its input in `dtype` and a float32 time condition [B].
        parametrization: how the network is called and what its output means.
        dtype: what the network computes in; the prediction comes back in the dtype of x.
        low: a faster, coarser network to evaluate where there is more image than noise, s < 1; None is `network`
            itself. Its errors hardly reach x_0 there, as a step adds only (s' - s) of them.
    """

    network: Network
    parametrization: Parametrization = EPSILON
    dtype: torch.dtype = torch.float32
    low: Network | None = None

    def at(self, level: Level) -> "NetworkDenoiser":
        """Return the denoiser with the one network that it evaluates at a level."""
        if self.low is None:
            return self
        return replace(self, network=self.low if level.s < 1 else self.network, low=None)

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the prediction at x [B, C, H, W]."""
        scaled = self.parametrization.scale_input(x, level)
        time = torch.full((len(x),), self.parametrization.time_condition(level), dtype=torch.float32, device=x.device)
        output = self.at(level).network(scaled.to(self.dtype), time).to(x.dtype)
        return self.parametrization.to_prediction(output, x, level)


@dataclass(frozen=True)
class MixtureDenoiser:
    """Exact denoiser of data from a mixture of isotropic Gaussians, sum_k w_k N(m_k, c_k^2 I); needs no network.

    With y = x / alpha, s = sigma / alpha and the posterior weights p_k ~ w_k N(y; m_k, (c_k^2 + s^2) I),

        eps = sum_k p_k s (y - m_k) / (c_k^2 + s^2),  x0 = y - s eps.

    Undefined at s = 0 for a component of width 0.

    Args:
        means: [K, ...], one row per component, rows shaped as an image.
        widths: [K], each at least 0; a component of width 0 is a point mass.
        weights: [K], positive; need not sum to 1.

    Examples:
        >>> import torch
        >>> from ddim_edit import MixtureDenoiser, NoiseSchedule
        >>> denoiser = MixtureDenoiser(torch.zeros(1, 3, 8, 8), torch.ones(1), torch.ones(1))
        >>> level = NoiseSchedule.linear().level(400)
        >>> x0, eps = denoiser(torch.ones(1, 3, 8, 8), level)
        >>> bool(torch.allclose(level.alpha * x0 + level.sigma * eps, torch.ones(1)))
        True
    """

    means: Tensor
    widths: Tensor
    weights: Tensor

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the prediction at x [B, ...]."""
        offset = x.flatten(1)[:, None] / level.alpha - self.means.flatten(1)
        variance = self.widths**2 + level.s**2
        energy = offset.square().sum(-1) / variance + offset.shape[-1] * variance.log()
        # Softmax of log weights: the densities themselves underflow in as many dimensions as an image has.
        posterior = torch.softmax(self.weights.log() - energy / 2, dim=1)
        eps = torch.einsum("bk,bkd->bd", posterior * level.s / variance, offset).view_as(x)
        return Prediction(x / level.alpha - level.s * eps, eps)


@dataclass(frozen=True)
class GuidedDenoiser:
    """Classifier-free guidance of two denoisers; a scale far from 1 makes inversion harder.

        eps = eps_u + w (eps_c - eps_u), and x0 alike

    Args:
        conditional: predicts eps_c.
        unconditional: predicts eps_u.
        guidance_scale: w; 1 is the conditional denoiser alone.

    References:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598.
    """

    conditional: Denoiser
    unconditional: Denoiser
    guidance_scale: float

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the guided prediction at x [B, ...]."""
        conditional = self.conditional(x, level)
        unconditional = self.unconditional(x, level)
        w = self.guidance_scale
        x0 = torch.lerp(unconditional.x0, conditional.x0, w)
        return Prediction(x0, torch.lerp(unconditional.eps, conditional.eps, w))


GuidanceRule = Callable[[Tensor, Tensor, float], Tensor]
"""Makes one output of the unconditional one, the conditional one and the scale w of guidance."""


@dataclass(frozen=True)
class GuidedNetwork:
    """Classifier-free guidance of one network, which computes both conditions in one call.

        out = out_u + w (out_c - out_u), in float32

    This equals `GuidedDenoiser`, since x0 and eps are affine in a network's output.

    Args:
        network: computes the first half of a batch unconditionally, the second half under the condition.
        guidance_scale: w; 1 is the condition alone.
        rule: takes the place of this formula.

    References:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598.
    """

    network: Network
    guidance_scale: float
    rule: GuidanceRule = torch.lerp

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the guided output for x [B, C, H, W]."""
        output = self.network(torch.cat([x, x]), torch.cat([index, index])).float()
        unconditional, conditional = output.chunk(2)
        return self.rule(unconditional, conditional, self.guidance_scale)


@dataclass(frozen=True)
class GuidedPair:
    """`GuidedNetwork` of conditions that do not fit into one batch, as prompts of different lengths.

    Args:
        conditional: the network under the condition.
        unconditional: the network without it.
        guidance_scale: w; 1 is the condition alone.
        rule: as for `GuidedNetwork`.
    """

    conditional: Network
    unconditional: Network
    guidance_scale: float
    rule: GuidanceRule = torch.lerp

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the guided output for x [B, C, H, W]."""
        conditional, unconditional = self.conditional(x, index), self.unconditional(x, index)
        return self.rule(unconditional.float(), conditional.float(), self.guidance_scale)


@dataclass(frozen=True)
class ClippedDenoiser:
    """A denoiser whose x0 is clipped to [-bound, bound]; it maps many images to one, so `invert` refuses it.

    eps follows from the clipped x0, eps = (x - alpha x0) / sigma, as in the sampler of DDPM.

    Args:
        denoiser: what is clipped.
        bound: largest |x0|.
    """

    denoiser: Denoiser
    bound: float = 1.0

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the clipped prediction at x [B, ...]; sigma must not be 0."""
        return from_x0(self.denoiser(x, level).x0.clamp(-self.bound, self.bound), x, level)


@dataclass(frozen=True)
class ProgressDenoiser:
    """A denoiser that reports every evaluation.

    Args:
        denoiser: what is evaluated.
        on_evaluation: called after every evaluation with the number of images in it.
    """

    denoiser: Denoiser
    on_evaluation: Callable[[int], object]

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the prediction at x [B, ...]."""
        prediction = self.denoiser(x, level)
        self.on_evaluation(len(x))
        return prediction
