"""The second moments of rows on disk, and linear systems in them that the rows themselves have the last word on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import ssyrk
from scipy.sparse.linalg import LinearOperator, cg

from ddim_edit.directions.rows import Stream
from ddim_edit.directions.sample_space import Array
from ddim_edit.errors import ArgumentError

WIDEST = 20_000
"""Numbers of a code whose second moments and their factor, 8 d^2 bytes, still leave room in 4 GB."""
# Second moments in float32 are off by some 1e-5 of their mean eigenvalue, which must not make them indefinite. Whatever
# this adds is taken back by conjugate gradients, or never seen: the factor only ever guides another method.
_FLOOR = 1e-4


@dataclass(frozen=True, eq=False)
class Factor:
    """The lower Cholesky factor L of a matrix near the one that is meant, in float32; a guide, not a solution."""

    lower: NDArray[np.float32]

    @classmethod
    def of(cls, scatter: NDArray[np.float32], weight: float, shift: float) -> Self:
        """L with L L^T = about weight S + shift I, for S [d, d] given by its lower triangle."""
        matrix = scatter * np.float32(weight)
        d = len(matrix)
        matrix.flat[:: d + 1] += shift + _FLOOR * float(np.trace(matrix, dtype=np.float64)) / d
        return cls(cholesky(matrix, lower=True, overwrite_a=True, check_finite=False))

    def inner(self, x: Array) -> Array:
        """L^-1 x."""
        return self._solve(x, "N")

    def outer(self, x: Array) -> Array:
        """L^-T x."""
        return self._solve(x, "T")

    def _solve(self, x: Array, trans: str) -> Array:
        solved = solve_triangular(self.lower, x.astype(np.float32), trans=trans, lower=True, check_finite=False)
        exact: Array = solved.astype(np.float64)
        return exact


class Sample:
    """Some of the rows of a stream, which may become more; what needs their second moments pays for each row once.

    Attributes:
        stream: all rows.
        kept: which of them are in the sample, bool [n].
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.kept: NDArray[np.bool_] = np.zeros(len(stream.rows), bool)
        self._counted = self.kept
        self._scatter: NDArray[np.float32] | None = None

    def add(self, more: NDArray[np.bool_]) -> None:
        """Take in further rows."""
        self.kept = self.kept | more

    @property
    def scatter(self) -> NDArray[np.float32]:
        """The sum of u u^T over the rows kept, [d, d], its lower triangle alone; in one pass over what is new.

        Raises:
            ArgumentError: codes too wide for it.
        """
        fresh = self.kept & ~self._counted
        scatter = self._room() if self._scatter is None else self._scatter
        if fresh.any():
            for where, block in self.stream.blocks():
                if fresh[where].any():
                    scatter = ssyrk(1.0, block[fresh[where]].T, 1.0, scatter, lower=1, overwrite_c=1)
        self._scatter, self._counted = scatter, self.kept
        return scatter

    def _room(self) -> NDArray[np.float32]:
        d = self.stream.d
        if d > WIDEST:
            wanted = f"codes of at most {WIDEST} numbers, whose second moments fit in memory"
            raise ArgumentError(wanted, f"ones of {d}", "fit a mean difference, which needs none")
        return np.zeros((d, d), np.float32, order="F")

    def square(self) -> float:
        """|S|^2, the sum of all squares of S."""
        lower, diagonal = self.scatter, self.scatter.diagonal().astype(np.float64)
        return float(2 * np.einsum("ij,ij->", lower, lower, dtype=np.float64) - diagonal @ diagonal)

    def times(self, vector: Array) -> Array:
        """S vector, from the rows themselves, in one pass."""
        kept = self.kept[:, None]
        product: Array = self.stream.gather(vector[:, None], lambda where, scores: scores * kept[where])[:, 0]
        return product

    def solve(self, times: Callable[[Array], Array], right: Array, weight: float, shift: float) -> Array:
        """The x with times(x) = right, for a matrix that is weight S + shift I but for little, or few directions.

        By conjugate gradients, guided by the factor of the latter: two to five passes.

        Hestenes, Stiefel (1952).
        """
        factor, d = Factor.of(self.scatter, weight, shift), self.stream.d
        matrix = LinearOperator((d, d), times, dtype=np.float64)
        guide = LinearOperator((d, d), lambda x: factor.outer(factor.inner(x.ravel())), dtype=np.float64)
        solved: Array = cg(matrix, right, M=guide, rtol=1e-5, maxiter=50)[0]
        return solved
