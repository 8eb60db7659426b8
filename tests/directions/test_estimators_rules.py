"""scikit-learn's own rules for estimators, all of them, with no exceptions claimed."""

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from ddim_edit.directions import (
    LDADirection,
    LogisticDirection,
    MeanDifference,
    PrincipalDirections,
    RidgeDirection,
    SVMDirection,
)

EVERY = [
    LogisticDirection(),
    SVMDirection(),
    MeanDifference(),
    MeanDifference(standardize=True),
    RidgeDirection(),
    LDADirection(),
    PrincipalDirections(),
]


# What scikit-learn skips for want of pandas, it says in a warning.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(EVERY)
def test_estimators_keep_the_rules_of_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)
