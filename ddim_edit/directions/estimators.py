"""Directions of labelled samples, as scikit-learn estimators made for many more dimensions than samples."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve
from sklearn.base import RegressorMixin
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.svm import SVC
from sklearn.utils.validation import validate_data

from ddim_edit.directions.hyperplane import BinaryDirection, Hyperplane, best, folds
from ddim_edit.directions.sample_space import Array, Scaled, coordinates


class LogisticDirection(BinaryDirection):
    """The normal of L2-regularised logistic regression; cannot tell more than two classes apart.

    min over w, b of |w|^2 / 2 + C sum c log(1 + exp(-s (w.u + b))), s = +-1, over rows u that are centred, standardised
    and of mean squared length 1, by scikit-learn's LogisticRegression in sample space. The weights c let both classes
    count alike, or else a strong regularisation would answer with the larger one.

    Args:
        Cs: inverse regularisations; of several the best by AUC over folds is kept, ties and no folds give the least.
        standardize: whether each column first gets the deviation 1.
        cv: at most this many stratified, shuffled folds, fewer where a class has fewer samples.
        tol: of the gradient per sample; the default leaves angles of some 0.003 to the optimum.
        random_state: of the shuffle.

    Attributes:
        direction_: unit vector [d] towards the second class.
        intercept_: X @ direction_ + intercept_ is the signed distance to the hyperplane.
        classes_: the two labels.
        C_: the one chosen.

    Raises:
        ValueError: other than two classes.

    Cox (1958); for latents Shen, Gu, Tang, Zhou (2020) use the margin instead.
    """

    def __init__(
        self,
        Cs: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0),
        *,
        standardize: bool = True,
        cv: int = 3,
        tol: float = 1e-5,
        random_state: int | None = 0,
    ) -> None:
        self.Cs = Cs
        self.standardize = standardize
        self.cv = cv
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to samples X [n, d] and labels y [n] of two kinds."""
        X, y = self._checked(X, y)
        scaled = Scaled.of(X, self.standardize)
        z, back = coordinates(scaled.rows)
        # tol is of the mean loss, whose gradient rows of length 1 keep small: scikit-learn's 1e-4 would stop too early.
        cv = folds(StratifiedKFold, self.cv, np.bincount(y).min(), self.random_state)
        model = LogisticRegression(tol=self.tol, max_iter=10_000, class_weight="balanced")
        model = best(model, "C", sorted(self.Cs), (z, y), cv, "roc_auc")
        self.C_ = model.C
        self._turn(*scaled.plane(back(model.coef_[0]), model.intercept_[0]))
        return self


class SVMDirection(BinaryDirection):
    """The normal of the linear support vector machine, InterFaceGAN's boundary; cannot hold over 30,000 samples or so.

    min over w, b of |w|^2 / 2 + C sum c max(0, 1 - s (w.u + b)), s = +-1, over rows u that are centred, standardised
    and of mean squared length 1, by scikit-learn's SVC on their Gram matrix, of 8 n^2 bytes. The weights c let both
    classes count alike.

    Args:
        Cs: inverse regularisations; of several the best by AUC over folds is kept, ties and no folds give the least.
        standardize: whether each column first gets the deviation 1.
        cv: at most this many stratified, shuffled folds, fewer where a class has fewer samples.
        tol: of the optimality conditions.
        random_state: of the shuffle.

    Attributes:
        direction_: unit vector [d] towards the second class.
        intercept_: X @ direction_ + intercept_ is the signed distance to the hyperplane.
        classes_: the two labels.
        C_: the one chosen.

    Raises:
        ValueError: other than two classes.

    Cortes, Vapnik (1995); for latents Shen, Gu, Tang, Zhou (2020).
    """

    def __init__(
        self,
        Cs: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0),
        *,
        standardize: bool = True,
        cv: int = 3,
        tol: float = 1e-3,
        random_state: int | None = 0,
    ) -> None:
        self.Cs = Cs
        self.standardize = standardize
        self.cv = cv
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to samples X [n, d] and labels y [n] of two kinds."""
        X, y = self._checked(X, y)
        scaled = Scaled.of(X, self.standardize)
        cv = folds(StratifiedKFold, self.cv, np.bincount(y).min(), self.random_state)
        model = SVC(kernel="precomputed", tol=self.tol, class_weight="balanced")
        model = best(model, "C", sorted(self.Cs), (scaled.gram(), y), cv, "roc_auc")
        self.C_ = model.C
        weights = scaled.rows[model.support_].T @ model.dual_coef_[0]
        self._turn(*scaled.plane(weights, model.intercept_[0]))
        return self


class MeanDifference(BinaryDirection):
    """The line from the mean of one class to that of the other; blind to correlations, and so never overfits them.

    m_1 - m_0, with the hyperplane through the midpoint; standardised, the difference counts in deviations of each
    column: (m_1 - m_0) / sd^2 in the coordinates of X.

    Args:
        standardize: whether each column first gets the deviation 1.

    Attributes:
        direction_: unit vector [d] towards the second class.
        intercept_: X @ direction_ + intercept_ is the signed distance to the hyperplane.
        classes_: the two labels.

    Raises:
        ValueError: other than two classes, or equal means.
    """

    def __init__(self, *, standardize: bool = False) -> None:
        self.standardize = standardize

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to samples X [n, d] and labels y [n] of two kinds."""
        X, y = self._checked(X, y)
        scaled = Scaled.of(X, self.standardize)
        low, high = (scaled.rows[y == label].mean(0) for label in (0, 1))
        self._turn(*scaled.plane(high - low, (low @ low - high @ high) / 2))
        return self


class LDADirection(BinaryDirection):
    """Fisher's direction with a shrunk covariance; the best for two Gaussians of one covariance, if that is known well.

    w = ((1 - g) S + g (tr S / d) I)^-1 (m_1 - m_0), S [d, d] the covariance within classes, over rows that are centred
    and standardised; the hyperplane is half way between the means, moved by log(n_1 / n_0) against the rarer class.

    Args:
        shrinkage: g in (0, 1], or "auto" for Ledoit and Wolf's.
        standardize: whether each column first gets the deviation 1.

    Attributes:
        direction_: unit vector [d] towards the second class.
        intercept_: X @ direction_ + intercept_ is the signed distance to the hyperplane.
        classes_: the two labels.
        shrinkage_: the g used.

    Raises:
        ValueError: other than two classes, equal means, or a shrinkage outside its range.

    Fisher (1936); Ledoit, Wolf (2004).
    """

    def __init__(self, shrinkage: float | str = "auto", *, standardize: bool = True) -> None:
        self.shrinkage = shrinkage
        self.standardize = standardize

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to samples X [n, d] and labels y [n] of two kinds."""
        X, y = self._checked(X, y)
        scaled = Scaled.of(X, self.standardize)
        z, back = coordinates(scaled.rows)
        means = np.stack([z[y == label].mean(0) for label in (0, 1)])
        within = z - means[y]
        scatter = within.T @ within / len(z)
        fourth = float(np.mean(np.einsum("ij,ij->i", within, within) ** 2))
        spread = Spread(float(np.trace(scatter)), float(np.vdot(scatter, scatter)), fourth, *X.shape)
        self.shrinkage_ = spread.shrinkage(self.shrinkage)
        weights = solve(_shrunk(scatter, self.shrinkage_, X.shape[1]), means[1] - means[0], assume_a="pos")
        bias = np.log(np.mean(y) / np.mean(1 - y)) - means.mean(0) @ weights
        self._turn(*scaled.plane(back(weights), bias))
        return self


class RidgeDirection(RegressorMixin, Hyperplane):  # type: ignore[misc]
    """The direction along which a continuous label grows, by ridge regression; cannot follow a label that bends.

    min over w of sum (y - mean y - w.u)^2 + alpha |w|^2 over rows u that are centred, standardised and of mean squared
    length 1, by scikit-learn's Ridge, or its KernelRidge on the Gram matrix where d > n.

    Args:
        alphas: regularisations; of several the best by squared error over folds is kept, ties give the largest.
        standardize: whether each column first gets the deviation 1.
        cv: at most this many shuffled folds, fewer where there are fewer samples.
        random_state: of the shuffle.

    Attributes:
        direction_: unit vector [d] towards larger labels.
        intercept_: minus the mean projection of X.
        mean_label_, slope_: predict(X) = mean_label_ + slope_ (X @ direction_ + intercept_).
        alpha_: the one chosen.

    Raises:
        ValueError: labels that do not vary.

    Hoerl, Kennard (1970).
    """

    def __init__(
        self,
        alphas: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
        *,
        standardize: bool = True,
        cv: int = 3,
        random_state: int | None = 0,
    ) -> None:
        self.alphas = alphas
        self.standardize = standardize
        self.cv = cv
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to samples X [n, d] and labels y [n]."""
        X, y = self._checked(X, y)
        scaled = Scaled.of(X, self.standardize)
        self.mean_label_ = float(y.mean())
        cv = folds(KFold, self.cv, len(y), self.random_state)
        wide = scaled.rows.shape[1] > len(y)
        model = KernelRidge(kernel="precomputed") if wide else Ridge(fit_intercept=False)
        data = scaled.gram() if wide else scaled.rows, y - self.mean_label_
        model = best(model, "alpha", sorted(self.alphas)[::-1], data, cv, "neg_mean_squared_error")
        self.alpha_ = model.alpha
        self.slope_ = self._turn(*scaled.plane(scaled.rows.T @ model.dual_coef_ if wide else model.coef_, 0.0))
        return self

    def predict(self, X: ArrayLike) -> Array:
        """The labels [n] expected of X [n, d]."""
        distances = self._distances(X)  # first, as it asks whether there is a fit
        labels: Array = self.mean_label_ + self.slope_ * distances
        return labels

    def _checked(self, X: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        dtypes = [np.float64, np.float32]
        rows, labels = validate_data(self, X, y, dtype=dtypes, y_numeric=True, ensure_min_samples=2)
        return rows, labels.astype(np.float64)


def _shrunk(scatter: Array, shrinkage: float, d: int) -> Array:
    """(1 - g) S + g (tr S / d) I; without any scatter a multiple of I, so that the mean difference remains."""
    size = max(float(np.trace(scatter)) / d, np.finfo(float).eps)
    shrunk: Array = (1 - shrinkage) * scatter + shrinkage * size * np.identity(len(scatter))
    return shrunk


class Spread(NamedTuple):
    """What says how well a covariance S [d, d] is known: tr S, |S|^2 and the mean |x|^4 of n centred rows x."""

    trace: float
    square: float
    fourth: float
    n: int
    d: int

    def shrinkage(self, asked: float | str) -> float:
        """The number asked for, or for "auto" what sklearn.covariance.ledoit_wolf_shrinkage gives in all d dimensions.

        ((mean |x|^4 - |S|^2) / n) / (|S|^2 - (tr S)^2 / d), at most 1. scikit-learn's own function takes d to be the
        number of coordinates, and n d^2 steps.

        Raises:
            ValueError: neither "auto" nor a number in (0, 1].

        Ledoit, Wolf (2004).
        """
        if asked == "auto":
            noise, excess = (self.fourth - self.square) / self.n, self.square - self.trace**2 / self.d
            return 1.0 if noise >= excess else max(noise / excess, 1e-6)  # never 0, as S may be singular
        if isinstance(asked, str) or not 0 < asked <= 1:
            raise ValueError(f'shrinkage must be "auto" or a number in (0, 1], not {asked!r}.')
        return float(asked)
