"""Difference of the two class means; ignores correlations, so it never overfits them."""

from typing import Self

from numpy.typing import ArrayLike

from ddim_edit.directions.linear_models import Array, BinaryDirection, standardize_samples
from ddim_edit.directions.streaming import RowStream


class MeanDifference(BinaryDirection):
    """The direction from the mean of one class to that of the other.

    w = m_1 - m_0, with the hyperplane through the midpoint. Standardised, the difference counts in deviations of each
    column: (m_1 - m_0) / sd^2 in the coordinates of X.

    Args:
        standardize: whether each column first gets the standard deviation 1.

    Attributes:
        direction_: unit vector [d] towards the second class.
        intercept_: X @ direction_ + intercept_ is the signed distance to the hyperplane.
        classes_: the two labels.

    Raises:
        ValueError: other than two classes, or equal means.

    Examples:
        >>> fitted = MeanDifference().fit([[0.0, 1.0], [3.0, 5.0]], [0, 1])
        >>> fitted.direction_
        array([0.6, 0.8])
        >>> fitted.decision_function([[0.0, 1.0], [3.0, 5.0]])
        array([-2.5,  2.5])
    """

    def __init__(self, *, standardize: bool = False) -> None:
        self.standardize = standardize

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to samples X [n, d] and labels y [n] of two kinds."""
        X, y = self._validate(X, y)
        rows, units = standardize_samples(X, self.standardize)
        low, high = rows[y == 0].mean(0), rows[y == 1].mean(0)
        self._set_hyperplane(*units.unscale(high - low, (low @ low - high @ high) / 2))
        return self

    def fit_stream(self, stream: RowStream, y: Array) -> Self:
        """Fit to the sample of a stream of rows, in one pass; y [n] are the labels of all rows."""
        members = self._indicators(stream.used, y)
        low, high = (stream.weighted_sums(members) / members.sum(0)).T
        self._set_hyperplane(*stream.units.unscale(high - low, (low @ low - high @ high) / 2))
        return self


ESTIMATOR = MeanDifference
