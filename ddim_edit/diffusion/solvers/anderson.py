"""Fixed points z = g(z) under Anderson acceleration, one independent problem per row of a batch."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]

PATIENCE = 3
"""Iterations in which the best residual of a row must halve, or the row has stalled."""


class FixedPoint(NamedTuple):
    """The best iterate of every row.

    Attributes:
        outputs: what g returned along with the best iterates, [B, ...] each.
        residual: largest |g(z) - z| of them [B].
        evaluations: number of evaluations of g [B].
    """

    outputs: Tensors
    residual: Tensor
    evaluations: Tensor


@dataclass
class AndersonAccelerator:
    """Type-II Anderson mixing for the rows of one batch, as a source of next iterates.

        z_next = z + b f - (dZ + b dF) c,  c = argmin ||f - dF c||,  f = g(z) - z

    with the last m differences of z and f as the columns of dZ and dF.

    Args:
        mixing: b, the relaxation of the residual; with no history the step is plain relaxed iteration.
        memory: m; 0 is plain iteration.

    References:
        Anderson, "Iterative Procedures for Nonlinear Integral Equations", Journal of the ACM 12, 1965.
        Walker, Ni, "Anderson Acceleration for Fixed-Point Iterations", SIAM Journal on Numerical Analysis 49, 2011.
    """

    mixing: float = 1.0
    memory: int = 3
    _last: Tensors = field(default=(), init=False)
    """The last iterate and its residual, [B, D] each."""
    _residual_changes: deque[Tensor] = field(init=False)
    """Columns of dF, [B, D] each."""
    _iterate_changes: deque[Tensor] = field(init=False)
    """Columns of dZ + b dF, [B, D] each."""

    def __post_init__(self) -> None:
        self._residual_changes = deque(maxlen=self.memory)
        self._iterate_changes = deque(maxlen=self.memory)

    def next(self, z: Tensor, residual: Tensor) -> Tensor:
        """Return the iterate [B, ...] to try after z, whose residual is g(z) - z."""
        flat_z = z.flatten(1)
        flat_residual = residual.flatten(1)
        if self._last:
            last_z, last_residual = self._last
            change = flat_residual - last_residual
            self._residual_changes.append(change)
            self._iterate_changes.append(flat_z - last_z + self.mixing * change)
        self._last = flat_z, flat_residual
        relaxed = z + self.mixing * residual
        if not self._residual_changes:
            return relaxed
        weights = _least_squares(torch.stack(tuple(self._residual_changes), 1), flat_residual)
        correction = torch.einsum("bmd,bm->bd", torch.stack(tuple(self._iterate_changes), 1), weights)
        return relaxed - correction.view_as(z)

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these (indices)."""
        self._last = tuple(each[rows] for each in self._last)
        self._residual_changes = deque((column[rows] for column in self._residual_changes), self.memory)
        self._iterate_changes = deque((column[rows] for column in self._iterate_changes), self.memory)


def _least_squares(columns: Tensor, target: Tensor) -> Tensor:
    """Return the coefficients [B, m] with which columns [B, m, D] best match target [B, D], lightly regularised."""
    gram = columns @ columns.mT
    diagonal = gram.diagonal(dim1=1, dim2=2)
    # In place: `diagonal` is a view of `gram`. The smallest float keeps a matrix of zeros regular.
    diagonal += 1e-12 * diagonal.mean(-1, keepdim=True) + torch.finfo(gram.dtype).tiny
    # `solve` would wait for a GPU to raise an error; here a row whose matrix is singular becomes NaN or Inf and stalls.
    solution: Tensor = torch.linalg.solve_ex(gram, columns @ target[:, :, None]).result
    return solution[:, :, 0]


class _BestIterates:
    """The best iterates so far of the rows that are still iterated, and whether each row makes progress."""

    def __init__(self, residual: Tensor, outputs: Tensors) -> None:
        """Begin with one evaluation of every row, its residual [b] and its outputs [b, ...]."""
        self.outputs = outputs
        self.residual = residual
        # An infinite residual has no half; the first finite one is then progress.
        self.goal = (residual / 2).clamp(max=torch.finfo(residual.dtype).max)
        self.iterations_without_progress = residual.isinf().long()

    def update(self, residual: Tensor, outputs: Tensors) -> None:
        """Take in one more evaluation of every row."""
        better = residual < self.residual
        chosen = []
        for new, best in zip(outputs, self.outputs, strict=True):
            whole_rows = better.view(-1, *(1 for _ in new.shape[1:]))
            chosen.append(torch.where(whole_rows, new, best))
        self.outputs = tuple(chosen)
        self.residual = torch.minimum(residual, self.residual)
        halved = self.residual <= self.goal
        self.goal = torch.where(halved, self.residual / 2, self.goal)
        self.iterations_without_progress = torch.where(halved, 0, self.iterations_without_progress + 1)

    def unfinished(self, tol: float) -> Tensor:
        """Return the indices of the rows that have neither converged nor stalled; the host waits for the device."""
        return ((self.residual > tol) & (self.iterations_without_progress < PATIENCE)).nonzero().flatten()

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these (indices)."""
        self.outputs = tuple(output[rows] for output in self.outputs)
        self.residual = self.residual[rows]
        self.goal = self.goal[rows]
        self.iterations_without_progress = self.iterations_without_progress[rows]

    def write_into(self, result: FixedPoint | None, rows: Tensor, evaluations: int) -> FixedPoint:
        """Write the rows (indices) into the result of all rows, which is made when it is None and these are all."""
        counts = torch.full_like(rows, evaluations)
        if result is None:
            return FixedPoint(tuple(output.clone() for output in self.outputs), self.residual, counts)
        for whole, some in zip(result.outputs, self.outputs, strict=True):
            whole[rows] = some
        result.residual[rows] = self.residual
        result.evaluations[rows] = counts
        return result


def fixed_point(
    g: Callable[[Tensor, Tensor], tuple[Tensor, Tensors]],
    z: Tensor,
    tol: float,
    accelerator: AndersonAccelerator,
    limit: int,
) -> FixedPoint:
    """Solve z = g(z) row by row; a row that converges costs no more, one that stalls keeps its best iterate.

    A row has converged when max |g(z) - z| <= tol and has stalled when `PATIENCE` iterations did not halve it. The host
    waits for the device once per iteration, to learn which rows go on.

    Args:
        g: called with iterates [b, ...] and the rows they belong to, ascending indices [b]; returns g(z) and the
            outputs that are to be kept of the best iterate, each [b, ...], all on the device of z.
        z: [B, ...], where to start.
        tol: in units of z.
        accelerator: a fresh one.
        limit: largest number of evaluations per row, at least 1.
    """
    rows = torch.arange(len(z), device=z.device)
    image, outputs = g(z, rows)
    residual = image - z
    best = _BestIterates(max_norm(residual), outputs)
    result: FixedPoint | None = None
    for evaluations in range(1, limit):
        unfinished = best.unfinished(tol)
        if not len(unfinished):
            return best.write_into(result, rows, evaluations)
        z = accelerator.next(z, residual)
        if len(unfinished) < len(rows):
            # What is written here of the rows that go on is overwritten when they end.
            result = best.write_into(result, rows, evaluations)
            z = z[unfinished]
            rows = rows[unfinished]
            accelerator.keep(unfinished)
            best.keep(unfinished)
        image, outputs = g(z, rows)
        residual = image - z
        best.update(max_norm(residual), outputs)
    return best.write_into(result, rows, limit)


def max_norm(x: Tensor) -> Tensor:
    """Return the largest absolute value of each row of x [B, ...], infinite where the row has a NaN."""
    return x.flatten(1).abs().amax(1).nan_to_num(torch.inf, torch.inf)
