"""Fisher's linear discriminant with a shrunk covariance; best for two Gaussians and many images."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve

from ddim_edit.directions.linear_models import Array, BinaryDirection, sample_coordinates, standardize_samples
from ddim_edit.directions.streaming import RowStream

EPSILON = np.finfo(float).eps


class LDADirection(BinaryDirection):
    """Fisher's discriminant direction; optimal for two Gaussians of one covariance, if that is known well.

    w = ((1 - g) S + g (tr S / d) I)^-1 (m_1 - m_0), S [d, d] the covariance within classes, over rows that are centred
    and standardised; the hyperplane is half way between the means, moved by log(n_1 / n_0) against the rarer class.

    Args:
        shrinkage: g in (0, 1], or "auto" for Ledoit and Wolf's.
        standardize: whether each column first gets the standard deviation 1.

    Attributes:
        direction_: unit vector [d] towards the second class.
        intercept_: X @ direction_ + intercept_ is the signed distance to the hyperplane.
        classes_: the two labels.
        shrinkage_: the g used.

    Raises:
        ValueError: other than two classes, equal means, or a shrinkage outside its range.

    References:
        Fisher, "The Use of Multiple Measurements in Taxonomic Problems", Annals of Eugenics 7, 1936.
        Ledoit, Wolf, "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices", Journal of Multivariate
        Analysis 88, 2004.
    """

    def __init__(self, shrinkage: float | str = "auto", *, standardize: bool = True) -> None:
        self.shrinkage = shrinkage
        self.standardize = standardize

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to samples X [n, d] and labels y [n] of two kinds."""
        X, y = self._validate(X, y)
        n, d = X.shape
        rows, units = standardize_samples(X, self.standardize)
        z, to_rows = sample_coordinates(rows)
        means = np.stack([z[y == 0].mean(0), z[y == 1].mean(0)])
        within = z - means[y]
        covariance = within.T @ within / n
        trace = float(np.trace(covariance))
        fourth = float(np.mean(np.einsum("ij,ij->i", within, within) ** 2))
        g = self.shrinkage_ = self._find_shrinkage(trace, float(np.vdot(covariance, covariance)), fourth, n, d)
        # Without any scatter this is a multiple of I, so that the mean difference remains.
        shrunk = (1 - g) * covariance + g * max(trace / d, EPSILON) * np.identity(len(covariance))
        weights = solve(shrunk, means[1] - means[0], assume_a="pos")
        bias = np.log(np.mean(y) / np.mean(1 - y)) - means.mean(0) @ weights
        self._set_hyperplane(*units.unscale(to_rows(weights), bias))
        return self

    def fit_stream(self, stream: RowStream, y: Array) -> Self:
        """Fit to the sample of a stream of rows; y [n] are the labels of all rows.

        The covariance is S / n - sum_k p_k m_k m_k^T, with S the second moments and p_k, m_k the share and mean of
        class k.
        """
        members = self._indicators(stream.used, y)
        shares = members.sum(0) / members.sum()
        means = (stream.weighted_sums(members) / members.sum(0)).T
        n = int(members.sum())
        # |x - m|^2 of every row from |x|^2, x.m and |m|^2, in one pass.
        lengths = np.empty(len(y))
        scores = np.empty(members.shape)
        weights = means.T.astype(np.float32)
        for where, block in stream.blocks():
            lengths[where] = np.einsum("ij,ij->i", block, block)
            scores[where] = block @ weights
        grams = means @ means.T
        squares = stream.used * (lengths - 2 * (members * scores).sum(1) + members @ grams.diagonal())
        trace = float(squares.sum() / n)
        crossed = shares @ np.square(scores)[stream.used].mean(0)
        square = stream.squared_moments() / n**2 - 2 * crossed + shares @ grams**2 @ shares
        fourth = float(np.square(squares).sum() / n)
        g = self.shrinkage_ = self._find_shrinkage(trace, float(square), fourth, n, stream.d)
        shift = g * max(trace / stream.d, EPSILON)

        def shrunk(w: Array) -> Array:
            product: Array = (1 - g) * (stream.apply_moments(w) / n - (shares * (means @ w)) @ means) + shift * w
            return product

        solved = stream.solve(shrunk, means[1] - means[0], (1 - g) / n, shift)
        bias = float(np.log(shares[1] / shares[0]) - means.mean(0) @ solved)
        self._set_hyperplane(*stream.units.unscale(solved, bias))
        return self

    def _find_shrinkage(self, trace: float, square: float, fourth: float, n: int, d: int) -> float:
        """Return the shrinkage that was asked for, or for "auto" Ledoit and Wolf's.

        ((mean |x|^4 - |S|^2) / n) / (|S|^2 - (tr S)^2 / d), at most 1, as sklearn.covariance.ledoit_wolf_shrinkage has
        it in all d dimensions. That function takes d to be the number of coordinates, which are n here, and in all
        dimensions would need n d^2 steps.

        Args:
            trace: tr S of the covariance S within classes.
            square: |S|^2.
            fourth: mean |x|^4 of the rows about the means of their classes.
            n: samples.
            d: dimensions.
        """
        if self.shrinkage == "auto":
            noise, excess = (fourth - square) / n, square - trace**2 / d
            # Never 0, as the covariance may be singular.
            return 1.0 if noise >= excess else max(noise / excess, 1e-6)
        if isinstance(self.shrinkage, str) or not 0 < self.shrinkage <= 1:
            raise ValueError(f'shrinkage must be "auto" or a number in (0, 1], not {self.shrinkage!r}.')
        return float(self.shrinkage)


ESTIMATOR = LDADirection
