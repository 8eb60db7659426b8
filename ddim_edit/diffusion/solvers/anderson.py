"""Fixed points z = g(z) under Anderson acceleration, one independent problem per row of a batch."""

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
    _points: list[Tensor] = field(default_factory=list)
    _residuals: list[Tensor] = field(default_factory=list)

    def next(self, z: Tensor, residual: Tensor) -> Tensor:
        """The iterate [B, ...] to try after z, whose residual is g(z) - z."""
        self._points.append(z.flatten(1))
        self._residuals.append(residual.flatten(1))
        del self._points[: -self.memory - 1], self._residuals[: -self.memory - 1]
        plain = z + self.mixing * residual
        if len(self._points) == 1:
            return plain
        dz, df = _differences(self._points), _differences(self._residuals)
        weights = _least_squares(df, self._residuals[-1])
        return plain - torch.einsum("bmd,bm->bd", dz + self.mixing * df, weights).view_as(z)

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these (a mask)."""
        self._points = [point[rows] for point in self._points]
        self._residuals = [residual[rows] for residual in self._residuals]


def _differences(history: list[Tensor]) -> Tensor:
    return torch.stack(history[1:], 1) - torch.stack(history[:-1], 1)


def _least_squares(columns: Tensor, target: Tensor) -> Tensor:
    """Coefficients [B, m] with which columns [B, m, D] best match target [B, D], lightly regularised."""
    gram = columns @ columns.mT
    ridge = 1e-12 * gram.diagonal(dim1=1, dim2=2).mean(-1) + torch.finfo(gram.dtype).tiny
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    solution: Tensor = torch.linalg.solve(gram, columns @ target[:, :, None])
    return solution[:, :, 0]


class _Best:
    """The best iterate of each row so far, and whether the row still makes progress."""

    def __init__(self, z: Tensor) -> None:
        self.residual = torch.full((len(z),), torch.inf, dtype=z.dtype, device=z.device)
        self.goal = torch.full_like(self.residual, torch.finfo(z.dtype).max)
        self.spent = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        self.since = self.spent.clone()
        self.parts: Parts = ()

    def update(self, rows: Tensor, residual: Tensor, parts: Parts) -> None:
        """Take in one evaluation of these rows (indices)."""
        self.parts = self.parts or tuple(part.clone() for part in parts)
        better = residual < self.residual[rows]
        for best, part in zip(self.parts, parts, strict=True):
            best[rows[better]] = part[better]
        self.residual[rows[better]] = residual[better]
        halved = self.residual[rows] <= self.goal[rows]
        self.goal[rows] = torch.where(halved, self.residual[rows] / 2, self.goal[rows])
        self.since[rows] = torch.where(halved, 0, self.since[rows] + 1)
        self.spent[rows] += 1


def fixed_point(
    g: Callable[[Tensor, Tensor], tuple[Tensor, Parts]], z: Tensor, tol: float, method: AndersonAccelerator, limit: int
) -> Root:
    """Solve z = g(z) row by row; a row that converges costs no more, one that stalls keeps its best iterate.

    A row has converged when max |g(z) - z| <= tol and has stalled when `PATIENCE` iterations did not halve it.

    Args:
        g: called with iterates [b, ...] and the rows [b] they belong to; answers with their images and with
            whatever should be kept of the best iterate, each [b, ...].
        z: [B, ...], where to start.
        tol: in units of z.
        method: a fresh accelerator.
        limit: at most so many evaluations per row, at least 1.
    """
    best, rows = _Best(z), torch.arange(len(z), device=z.device)
    for left in reversed(range(limit)):
        image, parts = g(z, rows)
        best.update(rows, _max_norm(image - z), parts)
        going = (best.residual[rows] > tol) & (best.since[rows] < PATIENCE)
        if not left or not going.any():
            break
        z = method.next(z, image - z)[going]
        method.keep(going)
        rows = rows[going]
    return Root(best.parts, best.residual, best.spent)


def _max_norm(x: Tensor) -> Tensor:
    return x.flatten(1).abs().amax(1).nan_to_num(torch.inf, torch.inf)
