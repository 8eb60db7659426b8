"""What estimators of directions share: standardised samples, the fitted hyperplane, the choice of a regularisation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky, solve_triangular
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_regressor
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ddim_edit.directions.groups import number_groups, split_folds

Array = NDArray[np.float64]
DTYPES = [np.float64, np.float32]


@dataclass(frozen=True, eq=False)
class Standardization:
    """The map u = (x - mean) / scale, under which a regularisation means the same at any width.

    Args:
        mean: of the samples, [d].
        scale: per column, [d]: it makes the mean squared length of the rows 1.
    """

    mean: Array
    scale: Array

    def unscale(self, weights: Array, bias: float) -> tuple[Array, float]:
        """Return the weights [d] and bias that score x as the given ones score u."""
        weights = weights / self.scale
        return weights, float(bias - self.mean @ weights)


def standardize_samples(X: NDArray[np.floating], unit_columns: bool) -> tuple[Array, Standardization]:
    """Return samples X [n, d] centred and with rows of mean squared length 1, in float64, and the map that did it.

    Args:
        X: the samples.
        unit_columns: whether columns that vary first get the standard deviation 1.
    """
    scaler = StandardScaler(with_std=unit_columns, copy=False)
    rows = scaler.fit_transform(np.array(X, dtype=np.float64))
    length = np.sqrt(np.vdot(rows, rows) / len(rows)) or 1.0
    rows /= length
    scale = scaler.scale_ if unit_columns else np.ones_like(scaler.mean_)
    return rows, Standardization(scaler.mean_, length * scale)


def sample_coordinates(rows: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Return coordinates of standardised rows [n, d] in at most n dimensions, and the way back for weights.

    With R R^T = L L^T, the rows of L are the rows of R in another orthonormal basis, so that every model that is linear
    and regularised by |w|^2 is the same there. Its weights w on L are the weights R^T L^-T w on R.
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


class Hyperplane(BaseEstimator):  # type: ignore[misc]
    """Base class of estimators: a unit vector, and the intercept that makes its projections signed distances.

    An estimator that also has `fit_stream(stream, y)`, for a `RowStream` and labels of all its rows, can be fitted to
    latents that do not fit in memory.
    """

    regularization: ClassVar[tuple[str, str, str] | None] = None
    """The parameter for one regularisation, the one that lists several to choose from, and the attribute that holds the
    one chosen; None for estimators without any."""
    direction_: Array
    intercept_: float

    @staticmethod
    def strongest_first(values: Sequence[float]) -> list[float]:
        """Return regularisations with the strongest first."""
        return sorted(values)

    def regularizations(self) -> list[float]:
        """Return the regularisations to choose from, the strongest first; the one parameter comes before the list."""
        if self.regularization is None:
            return []
        one, several, _ = self.regularization
        value = getattr(self, one)
        return self.strongest_first(getattr(self, several)) if value is None else [value]

    def candidates(self) -> list[Self]:
        """Return unfitted copies with one regularisation each, the strongest first."""
        if self.regularization is None:
            return [clone(self)]
        return [clone(self).set_params(**{self.regularization[0]: value}) for value in self.regularizations()]

    def settled(self) -> Self:
        """Return an unfitted copy with the regularisation that this fit chose."""
        if self.regularization is None:
            return clone(self)  # type: ignore[no-any-return]
        one, _, chosen = self.regularization
        return clone(self).set_params(**{one: getattr(self, chosen)})  # type: ignore[no-any-return]

    def _distances(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=DTYPES)
        distances: Array = rows @ self.direction_ + self.intercept_
        return distances

    def _set_hyperplane(self, weights: Array, bias: float) -> float:
        """Store the hyperplane of these weights; return their length, the slope across it."""
        length = float(np.linalg.norm(weights))
        if not length > 0:
            raise ValueError("No direction tells the labels apart: give samples that differ with the label.")
        self.direction_, self.intercept_ = weights / length, bias / length
        return length


class BinaryDirection(ClassifierMixin, Hyperplane):  # type: ignore[misc]
    """Base class of estimators of a direction from the first of two classes to the second."""

    def decision_function(self, X: ArrayLike) -> Array:
        """Return signed distances [n] of X [n, d] to the hyperplane, positive on the side of the second class."""
        return self._distances(X)

    def predict(self, X: ArrayLike) -> Array:
        """Return the class [n] on whose side each row of X [n, d] lies."""
        second = self._distances(X) > 0
        classes: Array = self.classes_[second.astype(int)]
        return classes

    def _validate(self, X: ArrayLike, y: ArrayLike) -> tuple[Array, NDArray[np.intp]]:
        """Return X as floats and y as 0 and 1."""
        rows, labels = validate_data(self, X, y, dtype=DTYPES, ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, sides = np.unique(labels, return_inverse=True)
        if len(self.classes_) > 2:
            raise ValueError("Only binary classification is supported. The type of the target is multiclass.")
        if len(self.classes_) < 2:
            raise ValueError("Two classes are needed, but the labels contain one class only.")
        return rows, sides

    def _indicators(self, used: NDArray[np.bool_], y: Array) -> Array:
        """Return the class of each used row as 0 and 1 in two columns [n, 2]; rows not used have two zeros."""
        self.classes_ = np.unique(y)
        members: NDArray[np.bool_] = (y[:, None] == self.classes_[[0, -1]]) & used[:, None]
        if not members.any(0).all():
            raise ValueError("Two classes are needed, but the labels contain one class only.")
        return members.astype(np.float64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def fit_best(
    model: Any,
    parameter: str,
    values: list[float],
    X: Array,
    y: NDArray[Any],
    groups: ArrayLike | None,
    cv: int,
    random_state: int | None,
) -> Any:
    """Return a scikit-learn model fitted with the regularisation that does best over shuffled folds.

    Classifiers are judged by AUC over stratified folds, regressors by squared error.

    Args:
        model: the model.
        parameter: name of its regularisation.
        values: candidates; ties, and samples too few for two folds, give the first.
        X: samples [n, d], or a precomputed Gram matrix [n, n].
        y: labels [n], of classes as 0 and 1.
        groups: [n], which no fold divides; None where every sample is its own.
        cv: at most this many folds, fewer where a class has fewer samples.
        random_state: of the shuffle.
    """
    check_consistent_length(y, groups)
    numbered = np.arange(len(y)) if groups is None else number_groups(np.asarray(groups).tolist())
    splits = split_folds(y, numbered, cv, is_regressor(model), random_state) if len(values) > 1 else []
    if not splits:
        return model.set_params(**{parameter: values[0]}).fit(X, y)
    scoring = "neg_mean_squared_error" if is_regressor(model) else "roc_auc"
    return GridSearchCV(model, {parameter: values}, scoring=scoring, cv=splits).fit(X, y).best_estimator_
