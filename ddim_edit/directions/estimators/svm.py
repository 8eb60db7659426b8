"""Linear support vector machine, as InterFaceGAN uses it; up to some 30,000 images."""

from collections.abc import Sequence
from typing import Self

from numpy.typing import ArrayLike
from sklearn.svm import SVC

from ddim_edit.directions.linear_models import BinaryDirection, fit_best, standardize_samples


class SVMDirection(BinaryDirection):
    """The normal of the linear support vector machine between two classes.

    min over w, b of |w|^2 / 2 + C sum c max(0, 1 - s (w.u + b)), s = +-1, over rows u that are centred, standardised
    and of mean squared length 1, by scikit-learn's SVC on their Gram matrix, of 8 n^2 bytes. The weights c let both
    classes count alike.

    Args:
        Cs: inverse regularisations; of several the best by AUC over folds is kept, ties and no folds give the least.
        C: a single one, which takes the place of all of Cs, for searches of scikit-learn's own.
        standardize: whether each column first gets the standard deviation 1.
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

    References:
        Cortes, Vapnik, "Support-Vector Networks", Machine Learning 20, 1995.
        Shen, Gu, Tang, Zhou, "Interpreting the Latent Space of GANs for Semantic Face Editing", CVPR 2020,
        arXiv:1907.10786.
    """

    regularization = ("C", "Cs", "C_")

    def __init__(
        self,
        Cs: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0),
        *,
        C: float | None = None,
        standardize: bool = True,
        cv: int = 3,
        tol: float = 1e-3,
        random_state: int | None = 0,
    ) -> None:
        self.Cs = Cs
        self.C = C
        self.standardize = standardize
        self.cv = cv
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit to samples X [n, d] and labels y [n] of two kinds; no fold divides one of the groups [n]."""
        X, y = self._validate(X, y)
        rows, units = standardize_samples(X, self.standardize)
        model = SVC(kernel="precomputed", tol=self.tol, class_weight="balanced")
        model = fit_best(model, "C", self.regularizations(), rows @ rows.T, y, groups, self.cv, self.random_state)
        self.C_ = model.C
        weights = rows[model.support_].T @ model.dual_coef_[0]
        self._set_hyperplane(*units.unscale(weights, model.intercept_[0]))
        return self


ESTIMATOR = SVMDirection
