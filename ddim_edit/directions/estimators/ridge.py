"""Ridge regression, for labels that are numbers such as an age."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.utils.validation import validate_data

from ddim_edit.directions.linear_models import DTYPES, Array, Hyperplane, fit_best, standardize_samples
from ddim_edit.directions.streaming import RowStream


class RidgeDirection(RegressorMixin, Hyperplane):  # type: ignore[misc]
    """The direction along which a continuous label grows, by ridge regression.

    min over w of sum (y - mean y - w.u)^2 + alpha |w|^2 over rows u that are centred, standardised and of mean squared
    length 1, by scikit-learn's Ridge, or its KernelRidge on the Gram matrix where d > n.

    Args:
        alphas: regularisations; of several the best by squared error over folds is kept, ties give the largest.
        alpha: a single one, which takes the place of all of alphas, for searches of scikit-learn's own.
        standardize: whether each column first gets the standard deviation 1.
        cv: at most this many shuffled folds, fewer where there are fewer samples.
        random_state: of the shuffle.

    Attributes:
        direction_: unit vector [d] towards larger labels.
        intercept_: minus the mean projection of X.
        mean_label_, slope_: predict(X) = mean_label_ + slope_ (X @ direction_ + intercept_).
        alpha_: the one chosen.

    Raises:
        ValueError: labels that do not vary.

    References:
        Hoerl, Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems", Technometrics 12, 1970.
    """

    regularization = ("alpha", "alphas", "alpha_")

    def __init__(
        self,
        alphas: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
        *,
        alpha: float | None = None,
        standardize: bool = True,
        cv: int = 3,
        random_state: int | None = 0,
    ) -> None:
        self.alphas = alphas
        self.alpha = alpha
        self.standardize = standardize
        self.cv = cv
        self.random_state = random_state

    @staticmethod
    def strongest_first(values: Sequence[float]) -> list[float]:
        """Return regularisations with the strongest, the largest, first."""
        return sorted(values)[::-1]

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit to samples X [n, d] and labels y [n]; no fold divides one of the groups [n]."""
        rows, labels = validate_data(self, X, y, dtype=DTYPES, y_numeric=True, ensure_min_samples=2)
        labels = labels.astype(np.float64)
        rows, units = standardize_samples(rows, self.standardize)
        self.mean_label_ = float(labels.mean())
        wide = rows.shape[1] > len(labels)
        model = KernelRidge(kernel="precomputed") if wide else Ridge(fit_intercept=False)
        samples = rows @ rows.T if wide else rows
        alphas = self.regularizations()
        model = fit_best(model, "alpha", alphas, samples, labels - self.mean_label_, groups, self.cv, self.random_state)
        self.alpha_ = model.alpha
        weights = rows.T @ model.dual_coef_ if wide else model.coef_
        self.slope_ = self._set_hyperplane(*units.unscale(weights, 0.0))
        return self

    def fit_stream(self, stream: RowStream, y: Array) -> Self:
        """Fit with a single alpha to the sample of a stream of rows; y [n] are the labels of all rows.

        (S + alpha I) w = U^T (y - mean y), with S = U^T U the second moments.
        """
        (alpha,) = self.regularizations()
        self.mean_label_ = float(y[stream.used].mean())
        residuals = np.where(stream.used, y - self.mean_label_, 0)
        right = stream.weighted_sums(residuals[:, None])[:, 0]
        weights = stream.solve(lambda w: stream.apply_moments(w) + alpha * w, right, 1.0, alpha)
        self.alpha_ = alpha
        self.slope_ = self._set_hyperplane(*stream.units.unscale(weights, 0.0))
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Return the labels [n] expected of X [n, d]."""
        distances = self._distances(X)  # first, as it asks whether there is a fit
        labels: Array = self.mean_label_ + self.slope_ * distances
        return labels


ESTIMATOR = RidgeDirection
