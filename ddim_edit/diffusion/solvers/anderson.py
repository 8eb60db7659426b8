"""Fixed points z = g(z) under Anderson acceleration, one independent problem per row of a batch."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

Parts = tuple[Tensor, ...]
PATIENCE = 3
"""Iterations in which the best residual of a row must halve, or the row has stalled."""


class Root(NamedTuple):
    """The best iterates of a solve: what g gave along with them, their residual [B] and evaluations spent [B]."""

    parts: Parts
    residual: Tensor
    spent: Tensor


@dataclass
class AndersonAccelerator:
    """Type-II Anderson mixing for the rows of one batch, as a source of next iterates.

    z_next = z + b f - (dZ + b dF) c with c = argmin ||f - dF c||, f = g(z) - z, over the last m differences.

    Args:
        mixing: b, the relaxation of the residual; with no history the step is plain relaxed iteration.
        memory: m, how many differences are kept; 0 is plain iteration.

    Anderson (1965); Walker and Ni (2011).
    """

    mixing: float = 1.0
    memory: int = 3
    _last: Parts = field(default=(), init=False)
    """The last iterate and its residual, [B, D] each."""
    _changes: deque[Tensor] = field(init=False)
    """Columns of dF, [B, D] each."""
    _moves: deque[Tensor] = field(init=False)
    """Columns of dZ + b dF, [B, D] each."""

    def __post_init__(self) -> None:
        self._changes, self._moves = deque(maxlen=self.memory), deque(maxlen=self.memory)

    def next(self, z: Tensor, residual: Tensor) -> Tensor:
        """Return the iterate [B, ...] to try after z, whose residual is g(z) - z."""
        point, rest = z.flatten(1), residual.flatten(1)
        if self._last:
            last_point, last_rest = self._last
            change = rest - last_rest
            self._changes.append(change)
            self._moves.append(point - last_point + self.mixing * change)
        self._last = point, rest
        plain = z + self.mixing * residual
        if not self._changes:
            return plain
        weights = _least_squares(torch.stack(tuple(self._changes), 1), rest)
        return plain - torch.einsum("bmd,bm->bd", torch.stack(tuple(self._moves), 1), weights).view_as(z)

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these (indices)."""
        self._last = tuple(each[rows] for each in self._last)
        self._changes = deque((column[rows] for column in self._changes), self.memory)
        self._moves = deque((column[rows] for column in self._moves), self.memory)


def _least_squares(columns: Tensor, target: Tensor) -> Tensor:
    """Return the coefficients [B, m] with which columns [B, m, D] best match target [B, D], lightly regularised."""
    gram = columns @ columns.mT
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal += 1e-12 * diagonal.mean(-1, keepdim=True) + torch.finfo(gram.dtype).tiny
    # `solve` would wait for a GPU to raise an error; here a row whose matrix is singular becomes NaN or Inf and stalls.
    solution: Tensor = torch.linalg.solve_ex(gram, columns @ target[:, :, None]).result
    return solution[:, :, 0]


class _Best:
    """The best iterates so far of the rows that are still iterated, and whether each row makes progress."""

    def __init__(self, residual: Tensor, parts: Parts) -> None:
        """Begin with one evaluation of every row, its residual [b] and its parts [b, ...]."""
        self.parts, self.residual = parts, residual
        self.goal = (residual / 2).clamp(max=torch.finfo(residual.dtype).max)
        self.since = residual.isinf().long()

    def update(self, residual: Tensor, parts: Parts) -> None:
        """Take in one more evaluation of every row."""
        better = residual < self.residual
        pairs = zip(parts, self.parts, strict=True)
        self.parts = tuple(torch.where(_as_column(better, part), part, best) for part, best in pairs)
        self.residual = torch.minimum(residual, self.residual)
        halved = self.residual <= self.goal
        self.goal = torch.where(halved, self.residual / 2, self.goal)
        self.since = torch.where(halved, 0, self.since + 1)

    def going(self, tol: float) -> Tensor:
        """Return the indices of the rows that have neither converged nor stalled; the host waits for the device."""
        return ((self.residual > tol) & (self.since < PATIENCE)).nonzero().flatten()

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these (indices)."""
        self.parts = tuple(part[rows] for part in self.parts)
        self.residual, self.goal, self.since = self.residual[rows], self.goal[rows], self.since[rows]

    def store(self, root: Root | None, rows: Tensor, spent: int) -> Root:
        """Write the rows (indices) into the result of all rows, which is made when it is None and these are all."""
        counts = torch.full_like(rows, spent)
        if root is None:
            return Root(tuple(part.clone() for part in self.parts), self.residual, counts)
        for whole, some in zip(root.parts, self.parts, strict=True):
            whole[rows] = some
        root.residual[rows] = self.residual
        root.spent[rows] = counts
        return root


def _as_column(mask: Tensor, x: Tensor) -> Tensor:
    """Return a mask [b] in the shape that selects whole rows of x [b, ...]."""
    return mask.view(-1, *(1 for _ in x.shape[1:]))


def fixed_point(
    g: Callable[[Tensor, Tensor], tuple[Tensor, Parts]], z: Tensor, tol: float, method: AndersonAccelerator, limit: int
) -> Root:
    """Solve z = g(z) row by row; a row that converges costs no more, one that stalls keeps its best iterate.

    A row has converged when max |g(z) - z| <= tol and has stalled when `PATIENCE` iterations did not halve it. The host
    waits for the device once per iteration, to learn which rows go on.

    Args:
        g: called with iterates [b, ...] and the rows they belong to, ascending indices [b]; answers with their images
            and with whatever should be kept of the best iterate, each [b, ...], all on the device of z.
        z: [B, ...], where to start.
        tol: in units of z.
        method: a fresh accelerator.
        limit: at most so many evaluations per row, at least 1.
    """
    rows = torch.arange(len(z), device=z.device)
    image, parts = g(z, rows)
    change = image - z
    best = _Best(max_norm(change), parts)
    root: Root | None = None
    for spent in range(1, limit):
        going = best.going(tol)
        if not len(going):
            return best.store(root, rows, spent)
        z = method.next(z, change)
        if len(going) < len(rows):
            # What is written here of the rows that go on is overwritten when they end.
            root = best.store(root, rows, spent)
            z, rows = z[going], rows[going]
            method.keep(going)
            best.keep(going)
        image, parts = g(z, rows)
        change = image - z
        best.update(max_norm(change), parts)
    return best.store(root, rows, limit)


def max_norm(x: Tensor) -> Tensor:
    """Return the largest absolute value of each row of x [B, ...], infinite where the row has a NaN."""
    return x.flatten(1).abs().amax(1).nan_to_num(torch.inf, torch.inf)
