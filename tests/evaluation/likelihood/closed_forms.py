"""Data whose densities are known at every level, as denoisers and as models of small pictures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, MixtureDenoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.models.codec.pixels import Codec, ColourCodec
from ddim_edit.models.model import Model

LINEAR = NoiseSchedule.linear()
FAR = NoiseSchedule.continuous(0.01, 1e5)
"""Of which next to nothing of the picture is left at T, so that x_T is Gaussian to many digits."""
SHAPE = (3, 2, 2)
DIM = math.prod(SHAPE)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class GaussianDenoiser:
    """The exact denoiser of N(mean, axes diag(widths^2) axes^T), axes orthonormal [D, D], mean and widths [D]."""

    mean: Tensor
    widths: Tensor
    axes: Tensor

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        y = x.flatten(1) / level.alpha
        shares = level.s / (self.widths**2 + level.s**2)
        eps = (((y - self.mean) @ self.axes) * shares @ self.axes.T).view_as(x)
        return Prediction(x / level.alpha - level.s * eps, eps)

    def log_density(self, y: Tensor, s: float = 0.0) -> Tensor:
        """ln p(y) [B] of data with noise s."""
        covariance = self.axes @ torch.diag(self.widths**2 + s**2) @ self.axes.T
        found: Tensor = torch.distributions.MultivariateNormal(self.mean, covariance).log_prob(y.flatten(1))
        return found

    def draw(self, n: int, seed: int = 100, shape: Sequence[int] = SHAPE) -> Tensor:
        z = randn(n, len(self.mean), seed=seed)
        return (self.mean + (z * self.widths) @ self.axes.T).view(n, *shape)


def diagonal(dim: int = DIM, low: float = 0.03, high: float = 1.0) -> GaussianDenoiser:
    """Widths evenly spaced in their logarithm, as those of pictures are, on the axes of the pixels."""
    widths = torch.logspace(math.log10(low), math.log10(high), dim, dtype=torch.float64)
    return GaussianDenoiser(0.3 * randn(dim), widths, torch.eye(dim, dtype=torch.float64))


def correlated(dim: int = DIM) -> GaussianDenoiser:
    """The same widths on random axes."""
    plain = diagonal(dim)
    return GaussianDenoiser(plain.mean, plain.widths, torch.linalg.qr(randn(dim, dim, seed=1))[0])


@dataclass(frozen=True)
class Mixture:
    """A mixture denoiser that knows its density."""

    denoiser: MixtureDenoiser

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        return self.denoiser(x, level)

    def log_density(self, y: Tensor, s: float = 0.0) -> Tensor:
        """ln p(y) [B] of data with noise s, written with torch's own distributions."""
        data = self.denoiser
        deviation = (data.widths**2 + s**2).sqrt()[:, None].expand(-1, y[0].numel())
        components = torch.distributions.Independent(torch.distributions.Normal(data.means.flatten(1), deviation), 1)
        weights = torch.distributions.Categorical(data.weights)
        found: Tensor = torch.distributions.MixtureSameFamily(weights, components).log_prob(y.flatten(1))
        return found

    def draw(self, n: int, seed: int = 100) -> Tensor:
        """Pictures of its components in turn."""
        data, which = self.denoiser, torch.arange(n) % len(self.denoiser.means)
        noise = randn(n, *data.means.shape[1:], seed=seed)
        return data.means[which] + data.widths[which].view(-1, 1, 1, 1) * noise


def mixture(seed: int = 0, shape: Sequence[int] = SHAPE) -> Mixture:
    """Three unequal components that overlap."""
    widths, weights = 0.3 * (0.5 * randn(3, seed=seed)).exp(), randn(3, seed=seed + 1).exp()
    return Mixture(MixtureDenoiser(0.3 * randn(3, *shape, seed=seed + 2), widths, weights))


def exact_linearization(denoiser: Denoiser, x: Tensor, level: Level) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Eps and products with the transpose of J, by reverse-mode differentiation; of denoisers written in torch."""
    x = x.detach().requires_grad_()
    eps = denoiser(x, level).eps
    return eps.detach(), lambda v: torch.autograd.grad(eps, x, v, retain_graph=True)[0]


Data = GaussianDenoiser | Mixture
DATA: dict[str, Data] = {"diagonal": diagonal(), "correlated": correlated(), "mixture": mixture()}


def model_of(
    denoiser: Denoiser,
    shape: tuple[int, int, int] = SHAPE,
    schedule: NoiseSchedule = LINEAR,
    codec: Codec | None = None,
) -> Model:
    return Model(denoiser, codec or ColourCodec(), schedule, shape, "closed form", {}, "epsilon")
