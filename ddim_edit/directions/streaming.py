"""Rows that do not fit in memory: passes over them in blocks, their second moments, and linear systems in these."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import ssyrk
from scipy.sparse.linalg import LinearOperator, cg
from sklearn.preprocessing import StandardScaler

from ddim_edit.directions.linear_models import Array, Standardization
from ddim_edit.errors import ArgumentError, DirectionError

Block = NDArray[np.float32]
BLOCK_SIZE = 2**24
"""Numbers in a block: 64 MiB of float32."""
NOT_FINITE = "Some of the latents hold numbers that are not finite. Leave their images out."
WIDEST = 20_000
"""Numbers of a latent whose second moments and their factor, 8 d^2 bytes, still leave room in 4 GB."""


class LatentRows(Protocol):
    """Latents of n images that are read a slice at a time.

    A `numpy.memmap` of shape [n, ...] is one, and so are the rows of a latent store.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""
        ...

    def __len__(self) -> int:
        """Return n."""
        ...

    def __getitem__(self, where: slice, /) -> NDArray[np.float32]:
        """Return consecutive latents, [m, ...]."""
        ...


class RowStream:
    """Standardised rows, read from disk anew in each pass, and a growing sample of them that models are fitted to.

    Holds two blocks and a few numbers for each row; `second_moments` takes 4 d^2 bytes more. Rows are centred, given
    columns of standard deviation 1 if asked to, and the mean squared length 1, in float32. Mean and scale are those of
    all rows, whichever the sample has: they do not depend on labels.

    Args:
        rows: latents of n images.
        standardize: whether columns that vary get the standard deviation 1.
        block_size: numbers in a block.

    Attributes:
        units: the standardisation.
        used: which rows the sample has, bool [n]; at first none.

    Raises:
        DirectionError: numbers that are not finite.
    """

    def __init__(self, rows: LatentRows, standardize: bool, block_size: int = BLOCK_SIZE) -> None:
        self._rows = rows
        self._height = max(1, block_size * len(rows) // max(1, int(np.prod(rows.shape, dtype=np.int64))))
        scaler = StandardScaler()
        for _, block in self._raw_blocks():
            if not np.isfinite(block).all():
                raise DirectionError(NOT_FINITE)
            scaler.partial_fit(block)
        scale = scaler.scale_ if standardize else np.ones_like(scaler.mean_)
        length = np.sqrt((scaler.var_ / scale**2).sum()) or 1.0
        self.units = Standardization(scaler.mean_, length * scale)
        self.used: NDArray[np.bool_] = np.zeros(len(rows), bool)
        self._summed = self.used
        self._moments: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def d(self) -> int:
        """Numbers of a row."""
        return len(self.units.mean)

    def use(self, more: NDArray[np.bool_]) -> None:
        """Add rows to the sample."""
        self.used = self.used | more

    def _raw_blocks(self) -> Iterator[tuple[slice, Block]]:
        for start in range(0, len(self._rows), self._height):
            block = self._rows[start : start + self._height]
            yield slice(start, start + len(block)), block.reshape(len(block), -1)

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """Yield where each block lies, and its rows [m, d], which the next block overwrites."""
        mean, rate = self.units.mean.astype(np.float32), (1 / self.units.scale).astype(np.float32)
        buffer = np.empty((self._height, self.d), np.float32)
        for where, block in self._raw_blocks():
            scaled = np.subtract(block, mean, out=buffer[: len(block)])
            scaled *= rate
            yield where, scaled

    def gather(self, weights: Array, respond: Callable[[slice, Array], Array]) -> Array:
        """Return the sum over blocks U of U^T respond(where, U weights), [d, j], in one pass.

        Args:
            weights: [d, k].
            respond: from where a block lies and its scores [m, k] to what its rows are weighted with, [m, j].
        """
        single = weights.astype(np.float32)
        total = None
        for where, block in self.blocks():
            responses = respond(where, (block @ single).astype(np.float64))
            # Within a block float32 is exact enough, and twice as fast; over many blocks it would not be.
            part = (block.T @ responses.astype(np.float32)).astype(np.float64)
            total = part if total is None else total + part
        assert total is not None
        return total

    def weighted_sums(self, weights: ArrayLike) -> Array:
        """Return sums of all rows [d, j] with weights [n, j], in one pass."""
        everywhere = np.asarray(weights)
        return self.gather(np.empty((self.d, 0)), lambda where, _: everywhere[where])

    def project(self, directions: Array) -> Array:
        """Return the projections [n, k] of the rows, as they lie on disk, on directions [k, d]."""
        offset = directions @ self.units.mean
        weights = (directions * self.units.scale).T.astype(np.float32)
        return np.concatenate([(block @ weights).astype(np.float64) for _, block in self.blocks()]) + offset

    @property
    def second_moments(self) -> NDArray[np.float32]:
        """S, the sum of u u^T over the sample, [d, d], its lower triangle alone.

        One pass over the rows that are new to the sample, so that growing it costs no row twice.

        Raises:
            ArgumentError: rows too wide for it.
        """
        if self.d > WIDEST:
            raise ArgumentError(
                f"Only latents of at most {WIDEST} numbers can be fitted from disk by this estimator, not of {self.d}. "
                "The mean difference has no such limit."
            )
        fresh = self.used & ~self._summed
        moments = np.zeros((self.d, self.d), np.float32, order="F") if self._moments is None else self._moments
        if fresh.any():
            for where, block in self.blocks():
                if fresh[where].any():
                    moments = ssyrk(1.0, block[fresh[where]].T, 1.0, moments, lower=1, overwrite_c=1)
        self._moments = moments
        self._summed = self.used
        return moments

    def squared_moments(self) -> float:
        """Return |S|^2, the sum of all squares of the second moments."""
        lower = self.second_moments
        diagonal = lower.diagonal().astype(np.float64)
        return float(2 * np.einsum("ij,ij->", lower, lower, dtype=np.float64) - diagonal @ diagonal)

    def apply_moments(self, vector: Array) -> Array:
        """Return S vector [d], computed from the rows themselves, in one pass."""
        used = self.used[:, None]
        product: Array = self.gather(vector[:, None], lambda where, scores: scores * used[where])[:, 0]
        return product

    def solve(self, matrix: Callable[[Array], Array], right: Array, weight: float, shift: float) -> Array:
        """Return the x [d] with matrix(x) = right, by preconditioned conjugate gradients in two to five passes.

        The second moments are rounded to float32, so they only precondition; what is solved is the matrix, which is
        exact because it is applied to the rows.

        Args:
            matrix: from a vector [d] to its product.
            right: [d].
            weight: see shift.
            shift: the matrix is weight S + shift I but for little, or but for a few directions.

        References:
            Hestenes, Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", Journal of Research of the
            National Bureau of Standards 49, 1952.
        """
        factor = MomentFactor(self.second_moments, weight, shift)
        operator = LinearOperator((self.d, self.d), matrix, dtype=np.float64)
        inverse = LinearOperator(
            (self.d, self.d), lambda x: factor.solve(factor.solve(x.ravel()), transposed=True), dtype=np.float64
        )
        solved: Array = cg(operator, right, M=inverse, rtol=1e-5, maxiter=50)[0]
        return solved


class MomentFactor:
    """Lower Cholesky factor L [d, d] of about weight S + shift I, in float32: a preconditioner, not a solution.

    Args:
        moments: the lower triangle of S.
        weight, shift: the numbers.
    """

    def __init__(self, moments: NDArray[np.float32], weight: float, shift: float) -> None:
        matrix = moments * np.float32(weight)
        d = len(matrix)
        # Moments summed in float32 are off by some 1e-5 of their mean eigenvalue, which must not make them indefinite.
        matrix.flat[:: d + 1] += shift + 1e-4 * float(np.trace(matrix, dtype=np.float64)) / d
        self.lower = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)

    def solve(self, x: Array, transposed: bool = False) -> Array:
        """Return L^-1 x, or L^-T x."""
        trans = "T" if transposed else "N"
        solved = solve_triangular(self.lower, x.astype(np.float32), trans=trans, lower=True, check_finite=False)
        exact: Array = solved.astype(np.float64)
        return exact
