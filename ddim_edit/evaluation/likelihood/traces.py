"""The trace of the Jacobian J = d eps / d x of a network, estimated from products J v.

No network gives its Jacobian, which has D^2 entries for images of D numbers. A product with one vector costs one more
evaluation, and the trace is a sum or a mean over such products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.schedules import Level
from ddim_edit.errors import ArgumentError
from ddim_edit.transfer import to_device

JacobianProduct = Callable[[Tensor], Tensor]
"""Maps v to J v, both [B, ...], row by row."""


class Linearization(Protocol):
    """Evaluates eps at a point together with products of its Jacobian there."""

    def __call__(self, denoiser: Denoiser, x: Tensor, level: Level) -> tuple[Tensor, JacobianProduct]:
        """Return eps at x [B, ...], and the products with J there."""
        ...


@dataclass(frozen=True)
class FiniteDifferences:
    """Jacobian products by forward differences, of any denoiser in float32 or better.

        J v = (eps(x + d v) - eps(x)) / d,  d = step max(sigma, smallest)

    A product costs one evaluation. The error of second order in d is odd in v, so a mean over random signs cancels it.
    A network that rounds to 16 bits would drown the difference.

    Args:
        smallest: the smallest noise that the denoiser was trained on; below it eps varies no faster.
        step: as a share of the noise. With 1e-3, float32 costs faces64 1e-4 of the trace or less (docs/likelihood.md).
    """

    smallest: float
    step: float = 1e-3

    def __call__(self, denoiser: Denoiser, x: Tensor, level: Level) -> tuple[Tensor, JacobianProduct]:
        """Return eps at x [B, ...], and the products with J there."""
        eps = denoiser(x, level).eps
        d = self.step * max(level.sigma, self.smallest)
        return eps, lambda v: (denoiser(x + d * v, level).eps - eps) / d


class TraceEstimate(NamedTuple):
    """The trace of J of each row, and the variance of that estimate, both float64 [B]."""

    value: Tensor
    variance: Tensor


TraceEstimator = Callable[[Tensor, JacobianProduct], TraceEstimate]
"""Maps x [B, ...] and the products there to the trace."""


def exact_trace(x: Tensor, product: JacobianProduct) -> TraceEstimate:
    """Return the trace from products with each of the D unit vectors, which takes D evaluations."""
    value = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for index in range(x[0].numel()):
        unit = torch.zeros_like(x)
        unit.flatten(1)[:, index] = 1
        value += product(unit).flatten(1)[:, index]
    return TraceEstimate(value, torch.zeros_like(value))


class Hutchinson:
    """Unbiased estimator of the trace: the mean of v^T J v over vectors v of random signs, drawn anew for each trace.

    E v^T J v = tr J because E v v^T = I, and signs have the least variance among independent entries. With new signs
    for each trace the errors of an integration average out; with the same ones they would add up.

    Args:
        probes: vectors per trace, at least 2, since their spread gives the variance.
        seeds: one per row, so that a row does not depend on its batch.

    Raises:
        ArgumentError: fewer than 2 probes.

    References:
        Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing Splines",
        Communications in Statistics 19, 1990.
        Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, "FFJORD: Free-Form Continuous Dynamics for Scalable
        Reversible Generative Models", ICLR 2019, arXiv:1810.01367 (for flows, with the same v throughout).
    """

    def __init__(self, probes: int, seeds: Sequence[int]) -> None:
        if probes < 2:
            raise ArgumentError(f"A trace needs at least 2 probes, not {probes}: their spread is its standard error.")
        self._probes = probes
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, x: Tensor, product: JacobianProduct) -> TraceEstimate:
        """Return the trace of J at x [B, ...]."""
        estimates = []
        for _ in range(self._probes):
            # Copied to the device as bytes, an eighth of what float64 would take.
            bits = [torch.randint(2, x.shape[1:], generator=each, dtype=torch.int8) for each in self._generators]
            v = 2 * to_device(torch.stack(bits), x.device).to(x.dtype) - 1
            estimates.append((v * product(v)).flatten(1).sum(1))
        found = torch.stack(estimates)
        return TraceEstimate(found.mean(0), found.var(0) / self._probes)
