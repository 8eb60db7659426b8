"""How each estimator learns from rows on disk: the same optimum as in memory, reached by passes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from ddim_edit.directions.estimators import LDADirection, LogisticDirection, MeanDifference, RidgeDirection, Spread
from ddim_edit.directions.sample_space import Array
from ddim_edit.directions.scatter import Factor, Sample


class Plane(NamedTuple):
    """A hyperplane: x @ direction + intercept is the signed distance [n], slope times it what the model answers."""

    direction: Array
    intercept: float
    slope: float

    @classmethod
    def of(cls, sample: Sample, weights: Array, bias: float) -> "Plane":
        """That of weights in the units of the stream.

        Raises:
            ValueError: no weights.
        """
        weights, bias = sample.stream.plane(weights, bias)
        length = float(np.linalg.norm(weights))
        if not length > 0:
            raise ValueError("No direction tells the labels apart: give samples that differ with the label.")
        return cls(weights / length, bias / length, length)


Learn = Callable[[Any, Sample, Array], Plane]
"""From an estimator with one regularisation, the sample, and labels [n] of all rows, to its hyperplane."""


def _mean(estimator: MeanDifference, sample: Sample, labels: Array) -> Plane:
    low, high = _class_means(sample, _sides(sample, labels))
    return Plane.of(sample, high - low, (low @ low - high @ high) / 2)


def _ridge(estimator: RidgeDirection, sample: Sample, labels: Array) -> Plane:
    """(S + alpha I) w = U^T (y - mean y)."""
    (alpha,) = estimator.alphas
    gaps = np.where(sample.kept, labels - labels[sample.kept].mean(), 0)
    right = sample.stream.pull(gaps[:, None])[:, 0]
    return Plane.of(sample, sample.solve(lambda w: sample.times(w) + alpha * w, right, 1.0, alpha), 0.0)


def _lda(estimator: LDADirection, sample: Sample, labels: Array) -> Plane:
    """((1 - g) S_within + g (tr S_within / d) I) w = m_1 - m_0, S_within = S / n - sum_k p_k m_k m_k^T."""
    sides = _sides(sample, labels)
    shares, means = sides.sum(0) / sides.sum(), _class_means(sample, sides)
    spread = _within(sample, sides, shares, means)
    g, n = spread.shrinkage(estimator.shrinkage), spread.n
    shift = g * max(spread.trace / spread.d, np.finfo(float).eps)

    def times(w: Array) -> Array:
        product: Array = (1 - g) * (sample.times(w) / n - (shares * (means @ w)) @ means) + shift * w
        return product

    weights = sample.solve(times, means[1] - means[0], (1 - g) / n, shift)
    return Plane.of(sample, weights, float(np.log(shares[1] / shares[0]) - means.mean(0) @ weights))


def _logistic(estimator: LogisticDirection, sample: Sample, labels: Array) -> Plane:
    """By L-BFGS on v = L^T w, where L L^T = I + C S / 4 is the largest curvature that the loss can have.

    Böhning, Lindsay (1988) for the bound; Liu, Nocedal (1989).
    """
    (C,) = estimator.Cs
    sides = _sides(sample, labels)
    signs, n = sides[:, 1] - sides[:, 0], sides.sum()
    costs = C * (sides * (n / (2 * sides.sum(0)))).sum(1)
    factor, reach = Factor.of(sample.scatter, C / 4, 1.0), np.sqrt(C * n / 4)

    def loss(v: Array) -> tuple[float, Array]:
        w, b = factor.outer(v[:-1]), v[-1] / reach
        losses, pulls = np.empty(len(labels)), np.empty(len(labels))

        def respond(where: slice, scores: Array) -> Array:
            margins = signs[where] * (scores[:, 0] + b)
            losses[where] = costs[where] * np.logaddexp(0, -margins)
            pulls[where] = -costs[where] * signs[where] * expit(-margins)
            return pulls[where, None]

        slope = w + sample.stream.gather(w[:, None], respond)[:, 0]
        return float(w @ w / 2 + losses.sum()), np.append(factor.inner(slope), pulls.sum() / reach)

    start = np.zeros(sample.stream.d + 1)
    v = minimize(loss, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-6, "gtol": 0.0}).x
    return Plane.of(sample, factor.outer(v[:-1]), v[-1] / reach)


LEARN: Mapping[type, Learn] = {
    MeanDifference: _mean,
    RidgeDirection: _ridge,
    LDADirection: _lda,
    LogisticDirection: _logistic,
}
"""By the kind of estimator; what is not here can only learn in memory."""


def _sides(sample: Sample, labels: Array) -> Array:
    """Which rows kept are of the smaller and of the larger label, as 0 and 1: [n, 2]."""
    sides: NDArray[np.bool_] = np.stack([labels == labels.min(), labels == labels.max()], 1) & sample.kept[:, None]
    if not sides.any(0).all():
        raise ValueError("Two classes are needed, but the labels contain one class only.")
    return sides.astype(np.float64)


def _class_means(sample: Sample, sides: Array) -> Array:
    """[2, d]."""
    means: Array = (sample.stream.pull(sides) / sides.sum(0)).T
    return means


def _within(sample: Sample, sides: Array, shares: Array, means: Array) -> Spread:
    """Of the rows about the means of their classes."""
    lengths, scores = np.empty(len(sides)), np.empty(sides.shape)
    weights, kept = means.T.astype(np.float32), sides.any(1)
    for where, block in sample.stream.blocks():
        lengths[where], scores[where] = np.einsum("ij,ij->i", block, block), block @ weights
    n, grams = int(kept.sum()), means @ means.T
    squares = kept * (lengths - 2 * (sides * scores).sum(1) + sides @ grams.diagonal())
    crossed = shares @ np.square(scores)[kept].mean(0)
    square = sample.square() / n**2 - 2 * crossed + shares @ grams**2 @ shares
    fourth = np.square(squares).sum() / n
    return Spread(float(squares.sum() / n), float(square), float(fourth), n, sample.stream.d)
