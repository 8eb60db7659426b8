"""L2-regularised logistic regression, its strength chosen by cross-validation."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from ddim_edit.directions.linear_models import (
    Array,
    BinaryDirection,
    fit_best,
    sample_coordinates,
    standardize_samples,
)
from ddim_edit.directions.streaming import MomentFactor, RowStream


class LogisticDirection(BinaryDirection):
    """The normal of L2-regularised logistic regression between two classes.

    min over w, b of |w|^2 / 2 + C sum c log(1 + exp(-s (w.u + b))), s = +-1, over rows u that are centred, standardised
    and of mean squared length 1, by scikit-learn's LogisticRegression in sample space. The weights c let both classes
    count alike; otherwise a strong regularisation would always answer with the larger one.

    Args:
        Cs: inverse regularisations; of several the best by AUC over folds is kept, ties and no folds give the least.
        C: a single one, which takes the place of all of Cs, for searches of scikit-learn's own.
        standardize: whether each column first gets the standard deviation 1.
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

    References:
        Cox, "The Regression Analysis of Binary Sequences", Journal of the Royal Statistical Society B 20, 1958.
    """

    regularization = ("C", "Cs", "C_")

    def __init__(
        self,
        Cs: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0),
        *,
        C: float | None = None,
        standardize: bool = True,
        cv: int = 3,
        tol: float = 1e-5,
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
        z, to_rows = sample_coordinates(rows)
        # tol is of the mean loss, whose gradient rows of length 1 keep small: scikit-learn's 1e-4 would stop too early.
        model = LogisticRegression(tol=self.tol, max_iter=10_000, class_weight="balanced")
        model = fit_best(model, "C", self.regularizations(), z, y, groups, self.cv, self.random_state)
        self.C_ = model.C
        self._set_hyperplane(*units.unscale(to_rows(model.coef_[0]), model.intercept_[0]))
        return self

    def fit_stream(self, stream: RowStream, y: Array) -> Self:
        """Fit with a single C to the sample of a stream of rows; y [n] are the labels of all rows.

        By L-BFGS on v = L^T w, where L L^T = I + C S / 4 is the largest curvature that the loss can have: 4 passes for
        the strongest regularisation, some 20 for the weakest.

        References:
            Böhning, Lindsay, "Monotonicity of Quadratic-Approximation Algorithms", Annals of the Institute of
            Statistical Mathematics 40, 1988.
            Liu, Nocedal, "On the Limited Memory BFGS Method for Large Scale Optimization", Mathematical Programming 45,
            1989.
        """
        (C,) = self.regularizations()
        members = self._indicators(stream.used, y)
        n = members.sum()
        signs = members[:, 1] - members[:, 0]
        costs = C * (members * (n / (2 * members.sum(0)))).sum(1)
        factor = MomentFactor(stream.second_moments, C / 4, 1.0)
        bias_scale = np.sqrt(C * n / 4)

        def loss(v: Array) -> tuple[float, Array]:
            w, b = factor.solve(v[:-1], transposed=True), v[-1] / bias_scale
            losses, slopes = np.empty(len(y)), np.empty(len(y))

            def respond(where: slice, scores: Array) -> Array:
                margins = signs[where] * (scores[:, 0] + b)
                losses[where] = costs[where] * np.logaddexp(0, -margins)
                slopes[where] = -costs[where] * signs[where] * expit(-margins)
                return slopes[where, None]

            gradient = w + stream.gather(w[:, None], respond)[:, 0]
            return float(w @ w / 2 + losses.sum()), np.append(factor.solve(gradient), slopes.sum() / bias_scale)

        # gtol=0: in these coordinates the size of a gradient says little, the progress of the loss does.
        options = {"ftol": 1e-6, "gtol": 0.0}
        v = minimize(loss, np.zeros(stream.d + 1), jac=True, method="L-BFGS-B", options=options).x
        self.C_ = C
        self._set_hyperplane(*stream.units.unscale(factor.solve(v[:-1], transposed=True), v[-1] / bias_scale))
        return self


ESTIMATOR = LogisticDirection
