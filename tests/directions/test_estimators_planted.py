"""A direction planted in white noise of 12,288 dimensions is found in 500 samples as well as theory allows."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from ddim_edit.directions import (
    LDADirection,
    LogisticDirection,
    MeanDifference,
    PrincipalDirections,
    RidgeDirection,
    SVMDirection,
)

from .samples import planted

N, D = 500, 12_288
CLASSIFIERS = [LogisticDirection, SVMDirection, MeanDifference, LDADirection]

# Two means of N / 2 samples each differ by the shift and by noise of squared length 4 D / N, which no estimator can
# tell apart where the covariance is I: the best cosine is shift / sqrt(shift^2 + 4 D / N), here 0.9706.
SHIFT = 40.0
BEST = SHIFT / np.sqrt(SHIFT**2 + 4 * D / N)


@pytest.fixture(scope="module")
def halves() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    return planted(N, D, np.tile([-0.5, 0.5], N // 2) * SHIFT)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_direction_between_two_classes_is_found_as_well_as_it_can_be(kind, halves) -> None:
    X, pushes, u = halves
    cosine = kind().fit(X, pushes > 0).direction_ @ u
    assert cosine > 0.95
    assert cosine == pytest.approx(BEST, abs=8e-3)


def test_the_direction_of_a_growing_label_is_found_as_well_as_it_can_be() -> None:
    # Regressing each column on a label of deviation 1 leaves noise of squared length D / N beside a slope of 30. Ridge
    # does so at its strongest; what predicts best shrinks less, and pays for scale with some of the direction.
    X, pushes, u = planted(N, D, np.random.default_rng(5).standard_normal(N) * 30)
    best = 30 / np.sqrt(30**2 + D / N)
    assert RidgeDirection([1e5], standardize=False).fit(X, pushes).direction_ @ u == pytest.approx(best, abs=5e-3)
    assert 0.95 < RidgeDirection().fit(X, pushes).direction_ @ u < best


def test_the_direction_of_a_planted_variance_is_found_as_well_as_it_can_be() -> None:
    # Johnstone and Lu (2009): a spike of variance v beside D / N = g has cos^2 = (1 - g / v^2) / (1 + g / v).
    X, pushes, u = planted(N, D, np.random.default_rng(6).standard_normal(N) * 20)
    ratio, spike = D / N, pushes.var()
    cosine = abs(PrincipalDirections(3).fit(X).directions_[0] @ u)
    assert cosine > 0.95
    assert cosine == pytest.approx(np.sqrt((1 - ratio / spike**2) / (1 + ratio / spike)), abs=5e-3)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_auc_on_fresh_samples_is_that_of_two_gaussians(kind) -> None:
    X, pushes, _ = planted(20_000, 4, np.tile([-0.5, 0.5], 10_000) * 1.5)
    fitted = kind().fit(X[:1_000], pushes[:1_000] > 0)
    auc = roc_auc_score(pushes[1_000:] > 0, fitted.decision_function(X[1_000:]))
    assert auc == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.01)
