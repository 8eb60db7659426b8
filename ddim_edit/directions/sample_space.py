"""Linear models on many more dimensions than samples, solved exactly in as many dimensions as there are samples."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from sklearn.preprocessing import StandardScaler

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Units:
    """Units u = (x - mean) / scale, in which a regularisation means the same for any width; mean and scale are [d]."""

    mean: Array
    scale: Array

    def plane(self, weights: Array, bias: float) -> tuple[Array, float]:
        """The weights and the bias that score x as these score u."""
        weights = weights / self.scale
        return weights, float(bias - self.mean @ weights)


@dataclass(frozen=True, eq=False)
class Scaled(Units):
    """Samples in `Units`, all in memory: rows [n, d] in float64, of mean squared length 1."""

    rows: Array

    @classmethod
    def of(cls, X: NDArray[np.floating], standardize: bool) -> "Scaled":
        """Centre X [n, d], give columns that vary the deviation 1 if asked to, then rows the mean squared length 1."""
        scaler = StandardScaler(with_std=standardize, copy=False)
        rows = scaler.fit_transform(np.array(X, dtype=np.float64))
        length = np.sqrt(np.vdot(rows, rows) / len(rows)) or 1.0
        rows /= length
        return cls(scaler.mean_, length * (scaler.scale_ if standardize else np.ones_like(scaler.mean_)), rows)

    def gram(self) -> Array:
        """The inner products of the rows, [n, n]."""
        return self.rows @ self.rows.T


def coordinates(rows: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Coordinates of `Scaled` rows [n, d], in at most n dimensions, with their inner products; and the way for weights.

    With R R^T = L L^T the rows of L are the rows of R in another orthonormal basis, so that every model that is linear
    and regularised by |w|^2 is the same there. Its weights w on L are weights R^T L^-T w on R.
    """
    n, d = rows.shape
    if n >= d:
        return rows, lambda weights: weights
    gram = rows @ rows.T
    # Centred or repeated rows leave the Gram matrix singular, and rounding can make it indefinite by about n eps. This
    # ridge is well above that and far below any regularisation. Cholesky is 10 times faster than eigh here.
    gram.flat[:: n + 1] += 1e-10
    lower = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    return lower, lambda weights: rows.T @ solve_triangular(lower, weights, trans="T", lower=True, check_finite=False)
