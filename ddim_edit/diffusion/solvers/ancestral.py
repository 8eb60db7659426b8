"""Steps that only sample, because they draw noise or lose some: the family between DDIM and DDPM."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim_edit.diffusion.schedules import Span
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.steps import History


@dataclass(frozen=True)
class AncestralStep:
    """Stochastic step between DDIM and DDPM, for sampling only: order 1, one evaluation.

        x' = alpha' x0 + sqrt(sigma'^2 - beta^2) eps + beta z
        beta = eta (sigma' / sigma) sqrt(1 - alpha^2 / alpha'^2)

    beta is eta times the standard deviation of the posterior q(x' | x, x0) of DDPM. All eta leave the marginals of x'
    as they are in training, so one network serves them all.

    Args:
        eta: 0 is DDIM, 1 is DDPM.
        noise: gives z ~ N(0, I) in the shape of its argument; zeros leave DDPM's posterior mean, which loses variance
            at every step.

    References:
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502, eq. 12 and 16.
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
    """

    eta: float
    noise: Callable[[Tensor], Tensor]

    def __call__(self, denoiser: TrackedDenoiser, x: Tensor, span: Span, history: History) -> tuple[Tensor, History]:
        """Take the step towards the image."""
        here = span.here
        there = span.there
        x0, eps = denoiser(x, here)
        kept = (here.alpha / there.alpha) ** 2
        beta = self.eta * (there.sigma / here.sigma) * (1 - kept) ** 0.5
        # beta <= sigma' for eta <= 1, but equal to it close to the image, where rounding may make it larger.
        rest = max(there.sigma**2 - beta**2, 0.0) ** 0.5
        return there.alpha * x0 + rest * eps + beta * self.noise(x), history


def no_noise(x: Tensor) -> Tensor:
    """Return zeros, the noise of DDPM's posterior-mean path."""
    return torch.zeros_like(x)
