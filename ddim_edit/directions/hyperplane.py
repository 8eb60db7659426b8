"""What the estimators of directions share: a fitted hyperplane, the two classes beside it, a regularisation chosen."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ddim_edit.directions.sample_space import Array


class Hyperplane(BaseEstimator):  # type: ignore[misc]
    """What every fitted direction is: a unit vector and the intercept that makes its projections signed distances."""

    direction_: Array
    intercept_: float

    def _distances(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        distances: Array = rows @ self.direction_ + self.intercept_
        return distances

    def _turn(self, weights: Array, bias: float) -> float:
        """Keep the hyperplane of these weights; returns their length, the slope across it."""
        length = float(np.linalg.norm(weights))
        if not length > 0:
            raise ValueError("No direction tells the labels apart: give samples that differ with the label.")
        self.direction_, self.intercept_ = weights / length, bias / length
        return length


class BinaryDirection(ClassifierMixin, Hyperplane):  # type: ignore[misc]
    """A direction from the first of two classes to the second."""

    def decision_function(self, X: ArrayLike) -> Array:
        """Signed distances [n] of X [n, d] to the hyperplane, positive on the side of the second class."""
        return self._distances(X)

    def predict(self, X: ArrayLike) -> Array:
        """The class on whose side each row of X [n, d] lies."""
        side = self._distances(X) > 0
        classes: Array = self.classes_[side.astype(int)]
        return classes

    def _checked(self, X: ArrayLike, y: ArrayLike) -> tuple[Array, NDArray[np.intp]]:
        """X as floats, y as 0 and 1."""
        rows, labels = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, sides = np.unique(labels, return_inverse=True)
        if len(self.classes_) > 2:
            raise ValueError("Only binary classification is supported. The type of the target is multiclass.")
        if len(self.classes_) < 2:
            raise ValueError("Two classes are needed, but the labels contain one class only.")
        return rows, sides

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def folds(kind: type[KFold] | type[StratifiedKFold], most: int, rarest: int, seed: int | None) -> Any:
    """At most so many shuffled folds, with one of the rarest kind of sample for each; None where that leaves one."""
    count = min(most, rarest)
    return kind(count, shuffle=True, random_state=seed) if count > 1 else None


def best(model: Any, name: str, values: list[float], data: tuple[Array, NDArray[Any]], cv: Any, scoring: str) -> Any:
    """The model fitted with the value that scores best over the folds, the first of equals."""
    if len(values) == 1 or cv is None:
        return model.set_params(**{name: values[0]}).fit(*data)
    return GridSearchCV(model, {name: values}, scoring=scoring, cv=cv).fit(*data).best_estimator_
