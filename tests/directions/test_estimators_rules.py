"""scikit-learn's own rules for estimators, all of them, with no exceptions claimed."""

from typing import Any

import pytest
from sklearn.utils.estimator_checks import check_estimator

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
@pytest.mark.parametrize("estimator", EVERY, ids=str)
def test_estimator_follows_scikit_learn_rules(estimator: Any) -> None:
    check_estimator(estimator)
