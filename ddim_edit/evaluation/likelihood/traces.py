"""The trace of J = d eps / d x, which no network gives: from products J v with a few vectors, or with all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.schedules import Level
from ddim_edit.errors import ArgumentError
from ddim_edit.transfer import to_device

Product = Callable[[Tensor], Tensor]
"""J v of v, both [B, ...], row by row."""


class Slope(Protocol):
    """A way to multiply by J."""

    def __call__(self, denoiser: Denoiser, x: Tensor, level: Level) -> tuple[Tensor, Product]:
        """Eps at x [B, ...], and the products with its J there."""
        ...


@dataclass(frozen=True)
class Differences:
    """Products by forward differences, of any denoiser however it is run; not of one that rounds to 16 bits.

    J v = (eps(x + d v) - eps(x)) / d, d = step max(sigma, least); one evaluation each. What is left at second order is
    odd in v, so a mean over random signs does not see it.

    Args:
        least: the smallest noise that the denoiser knows; below it eps varies no faster.
        step: as a share of the noise. At this one float32 costs faces64 1e-4 of the trace or less (docs/likelihood.md).
    """

    least: float
    step: float = 1e-3

    def __call__(self, denoiser: Denoiser, x: Tensor, level: Level) -> tuple[Tensor, Product]:
        """Eps at x [B, ...], and the products with its J there."""
        eps, d = denoiser(x, level).eps, self.step * max(level.sigma, self.least)
        return eps, lambda v: (denoiser(x + d * v, level).eps - eps) / d


class Trace(NamedTuple):
    """The trace of J for each row, and the variance of that estimate, both float64 [B]."""

    value: Tensor
    variance: Tensor


Tracer = Callable[[Tensor, Product], Trace]
"""From x [B, ...] and the products there to the trace."""


def every_unit(x: Tensor, product: Product) -> Trace:
    """The whole trace, by a product with each of the D unit vectors; for small x, as that takes D evaluations."""
    value = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for index in range(x[0].numel()):
        unit = torch.zeros_like(x)
        unit.flatten(1)[:, index] = 1
        value += product(unit).flatten(1)[:, index]
    return Trace(value, torch.zeros_like(value))


class Hutchinson:
    """The mean of v^T J v over vectors v of random signs, unbiased; every trace draws its own.

    E v^T J v = tr J, as E v v^T = I, and signs have the least variance among independent entries. With new signs for
    each trace the errors along a walk average out; kept ones would add up.

    Args:
        probes: vectors a trace, at least 2, as their spread tells the variance.
        seeds: one for each row, so that batches change no row.

    Raises:
        ArgumentError: fewer than 2 probes.

    Hutchinson (1990); for flows, with one v a walk, Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud (2019).
    """

    def __init__(self, probes: int, seeds: Sequence[int]) -> None:
        if probes < 2:
            raise ArgumentError("at least 2 probes", str(probes), "their spread is the standard error")
        self._probes = probes
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, x: Tensor, product: Product) -> Trace:
        """The trace of J at x [B, ...]."""
        signs = (self._signs(x) for _ in range(self._probes))
        found = torch.stack([(v * product(v)).flatten(1).sum(1) for v in signs])
        return Trace(found.mean(0), found.var(0) / self._probes)

    def _signs(self, x: Tensor) -> Tensor:
        # As bytes, which are an eighth of what would be copied otherwise.
        rows = [torch.randint(2, x.shape[1:], generator=each, dtype=torch.int8) for each in self._generators]
        return 2 * to_device(torch.stack(rows), x.device).to(x.dtype) - 1
