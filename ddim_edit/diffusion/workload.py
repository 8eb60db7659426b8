"""How many evaluations of a network an integration takes, known before it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim_edit.diffusion.integration import has_detail, invert
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level
from ddim_edit.diffusion.solvers.exact import CheckedSolver, ExactSolver
from ddim_edit.diffusion.solvers.solver import Solver, Spans
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser

# Where a tolerance decides, these are what faces64 takes for photographs (docs/numerics.md).
_ROUNDS = 2
_ITERATIONS = 3
_COUNTED_SPANS = 5
"""Steps that are counted; those of longer grids take as many as the last of these."""
_IMAGE = torch.zeros(1, 1, dtype=torch.float64)


@dataclass(frozen=True)
class Workload:
    """The evaluations that are ahead.

    Attributes:
        expected: how many there are; where a tolerance decides, as many as is usual.
        most: how many there can be; None where a tolerance decides and nothing bounds them.

    Examples:
        >>> Workload(20, 20) + 2 * Workload(19, 19)
        Workload(expected=58, most=58)
    """

    expected: int
    most: int | None

    @classmethod
    def exactly(cls, evaluations: int) -> Workload:
        """Return a known number of evaluations."""
        return cls(evaluations, evaluations)

    @property
    def known(self) -> bool:
        """Whether there are exactly as many as expected."""
        return self.most == self.expected

    def __add__(self, other: Workload) -> Workload:
        most = None if self.most is None or other.most is None else self.most + other.most
        return Workload(self.expected + other.expected, most)

    def __rmul__(self, factor: int) -> Workload:
        return Workload(factor * self.expected, None if self.most is None else factor * self.most)


def inversion_workload(solver: Solver, spans: Spans, noisy: bool = False) -> Workload:
    """Return what inverting one image takes.

    Args:
        solver: any solver that inverts.
        spans: `schedule.spans(grid)`.
        noisy: whether with noise at the first level, so that the detail below it may be found.
    """
    found = _solver_workload(solver, spans)
    if noisy and has_detail(spans):
        steps = spans[:_COUNTED_SPANS]
        with_detail = int(invert(_predict_nothing, _IMAGE, steps, solver, torch.zeros_like(_IMAGE)).nfe)
        found += Workload.exactly(with_detail - int(invert(_predict_nothing, _IMAGE, steps, solver).nfe))
    return found


def _solver_workload(solver: Solver, spans: Spans) -> Workload:
    """Return what the solver itself takes."""
    if isinstance(solver, CheckedSolver):
        return _solver_workload(solver.solver, spans) + decoding_workload(solver.solver, spans)
    if isinstance(solver, ExactSolver):
        once = _solver_workload(solver.solver, spans) + decoding_workload(solver.solver, spans)
        # A solver that solves its steps to a tolerance leaves little to the rounds.
        rounds = _ROUNDS if once.known else 1
        return Workload(round(rounds * once.expected), None if once.most is None else solver.limit * once.most)
    return _count(lambda denoiser, some: solver.invert(denoiser, _IMAGE, some), spans)


def decoding_workload(solver: Solver, spans: Spans) -> Workload:
    """Return what decoding one latent takes. Arguments as `inversion_workload`."""
    return _count(lambda denoiser, some: solver.decode(denoiser, (_IMAGE,), some), spans)


def _count(run: Callable[[TrackedDenoiser, Spans], object], spans: Spans) -> Workload:
    """Return what a run takes, counted with networks that cost nothing, so that it holds for any solver.

    The first of them is one that all equations of a step are solved for at once. Where the second one takes more
    evaluations, a tolerance decides.
    """
    counts: list[int] = []
    for network in (_predict_nothing, _predict_waves):
        lengths = []
        for length in (_COUNTED_SPANS - 1, _COUNTED_SPANS):
            denoiser = TrackedDenoiser.start(network, 1)
            run(denoiser, spans[:length])
            lengths.append(int(denoiser.nfe))
        shorter, longer = lengths
        counts.append(longer + (longer - shorter) * max(len(spans) - _COUNTED_SPANS, 0))
    least, other = counts
    return Workload.exactly(least) if least == other else Workload(_ITERATIONS * least, None)


def _predict_nothing(x: Tensor, level: Level) -> Prediction:
    return Prediction(torch.zeros_like(x), torch.zeros_like(x))


def _predict_waves(x: Tensor, level: Level) -> Prediction:
    return Prediction(torch.zeros_like(x), torch.sin(1e9 * x + 1))
