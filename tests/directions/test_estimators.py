"""Fitted directions against scikit-learn's own fits, closed forms and the symmetries that they must have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ddim_edit.directions import (
    LDADirection,
    LogisticDirection,
    MeanDifference,
    PrincipalDirections,
    RidgeDirection,
    SVMDirection,
)

from .samples import two_clouds

SHAPES = [(30, 45), (60, 12)]
"""More dimensions than samples, and fewer."""

# One regularisation each, and tolerances at which two solvers of one problem must agree.
KINDS = [
    LogisticDirection([3.0], tol=1e-11),
    SVMDirection([3.0], tol=1e-9),
    MeanDifference(standardize=True),
    LDADirection(),
    LDADirection(0.2),
    RidgeDirection([0.1]),
]
PLAIN = [each.__class__(**{**each.get_params(), "standardize": False}) for each in KINDS]
KINDS_AND_SHAPES = [(kind, SHAPES[index % 2]) for index, kind in enumerate([*KINDS, *PLAIN, *KINDS[-2:]])]
PLAIN_AND_SHAPES = [(kind, SHAPES[index % 2]) for index, kind in enumerate(PLAIN)]
STANDARDIZED_AND_SHAPES = [(kind, SHAPES[index % 2]) for index, kind in enumerate(KINDS)]
"""A cover of pairs instead of the full product."""


def rows(X: np.ndarray) -> np.ndarray:
    """Standardised columns, then rows of mean squared length 1."""
    return StandardScaler().fit_transform(X) / np.sqrt(X.shape[1])


def distances(estimator, X: np.ndarray) -> np.ndarray:
    return X @ estimator.direction_ + estimator.intercept_


def primal(X: np.ndarray, coef: np.ndarray, bias: float) -> np.ndarray:
    """Distances of X to the hyperplane that scores rows(X) by coef and bias."""
    weights = coef / X.std(0) / np.sqrt(X.shape[1])
    return (rows(X) @ coef + bias) / np.linalg.norm(weights)


@pytest.mark.parametrize("shape", SHAPES)
def test_logistic_equals_scikit_learn(shape) -> None:
    X, y = two_clouds(*shape)
    theirs = LogisticRegression(C=3.0, tol=1e-11, solver="newton-cg", class_weight="balanced").fit(rows(X), y)
    ours = LogisticDirection([3.0], tol=1e-11).fit(X, y)
    np.testing.assert_allclose(ours.decision_function(X), primal(X, theirs.coef_[0], theirs.intercept_[0]), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_svm_equals_scikit_learn(shape) -> None:
    X, y = two_clouds(*shape)
    theirs = SVC(kernel="linear", C=3.0, tol=1e-9, class_weight="balanced").fit(rows(X), y)
    ours = SVMDirection([3.0], tol=1e-9).fit(X, y)
    np.testing.assert_allclose(ours.decision_function(X), primal(X, theirs.coef_[0], theirs.intercept_[0]), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_ridge_equals_scikit_learn(shape) -> None:
    X, _ = two_clouds(*shape)
    y = np.random.default_rng(1).standard_normal(len(X)) + 40
    theirs = Ridge(alpha=0.1, solver="svd").fit(rows(X), y)
    ours = RidgeDirection([0.1]).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(rows(X)), rtol=1e-9)
    assert ours.intercept_ == pytest.approx(-(X @ ours.direction_).mean())
    assert ours.mean_label_ == pytest.approx(y.mean())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shrinkage", [0.03, 0.5, 1.0])
def test_lda_equals_scikit_learn_at_equal_shrinkage(shape, shrinkage) -> None:
    X, y = two_clouds(*shape)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, y)
    ours = LDADirection(shrinkage, standardize=False).fit(X, y)
    expected = theirs.decision_function(X) / np.linalg.norm(theirs.coef_)
    np.testing.assert_allclose(ours.decision_function(X), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_lda_shrinkage_is_that_of_ledoit_and_wolf(shape) -> None:
    X, y = two_clouds(*shape)
    within = X - np.stack([X[y == label].mean(0) for label in (0, 1)])[y]
    expected = ledoit_wolf_shrinkage(within, assume_centered=True)
    assert 0 < expected < 1
    assert LDADirection(standardize=False).fit(X, y).shrinkage_ == pytest.approx(expected, rel=1e-6)


def test_mean_difference_and_its_midpoint() -> None:
    X, y = two_clouds(30, 45)
    low, high = X[y == 0].mean(0), X[y == 1].mean(0)
    fitted = MeanDifference().fit(X, y)
    np.testing.assert_allclose(fitted.direction_, (high - low) / np.linalg.norm(high - low), atol=1e-12)
    half = np.linalg.norm(high - low) / 2
    np.testing.assert_allclose(fitted.decision_function([low, high]), [-half, half], atol=1e-12)


def test_standardised_mean_difference_is_divided_by_variances() -> None:
    X, y = two_clouds(30, 45)
    expected = (X[y == 1].mean(0) - X[y == 0].mean(0)) / X.var(0)
    fitted = MeanDifference(standardize=True).fit(X, y)
    np.testing.assert_allclose(fitted.direction_, expected / np.linalg.norm(expected), atol=1e-12)


def test_strong_regularisation_gives_the_mean_difference() -> None:
    X, y = two_clouds(40, 60)
    X, y = np.concatenate([X[y == 0][:10], X[y == 1][:10]]), np.repeat([0, 1], 10)
    expected = MeanDifference(standardize=True).fit(X, y).direction_
    for kind in (LogisticDirection([1e-7], tol=1e-12), SVMDirection([1e-7])):
        np.testing.assert_allclose(kind.fit(X, y).direction_, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [LogisticDirection, SVMDirection])
@pytest.mark.parametrize("shape", SHAPES)
def test_regularisation_is_chosen_by_held_out_auc(kind, shape) -> None:
    X, y = two_clouds(*shape)
    models = {
        LogisticDirection: LogisticRegression(tol=1e-9, max_iter=1000, class_weight="balanced"),
        SVMDirection: SVC(kernel="linear", class_weight="balanced"),
    }
    model = models[kind]
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    theirs = GridSearchCV(model, {"C": [0.01, 1.0, 100.0]}, scoring="roc_auc", cv=cv).fit(rows(X), y)
    assert theirs.best_params_["C"] == kind([100.0, 0.01, 1.0]).fit(X, y).C_


def test_ridge_shrinks_noise_most_and_a_clean_line_least() -> None:
    X, _ = two_clouds(60, 12)
    noise = np.random.default_rng(3).standard_normal(60)
    assert RidgeDirection([1e-3, 1.0, 1e3]).fit(X, noise).alpha_ == 1e3
    assert RidgeDirection([1e-3, 1.0, 1e3]).fit(X, X[:, 0]).alpha_ == 1e-3


@pytest.mark.parametrize("kind", [LogisticDirection, SVMDirection])
def test_a_class_of_one_is_fitted_with_the_most_regularisation(kind) -> None:
    X, _ = two_clouds(8, 20)
    y = np.arange(8) == 3
    fitted = kind([0.1, 10.0]).fit(X, y)
    assert fitted.C_ == 0.1
    assert fitted.decision_function(X).argmax() == 3


@pytest.mark.parametrize(("kind", "shape"), KINDS_AND_SHAPES, ids=repr)
def test_swapped_labels_negate_the_direction(kind, shape) -> None:
    X, y = two_clouds(*shape)
    there = distances(kind.fit(X, y), X)
    np.testing.assert_allclose(distances(kind.fit(X, 1 - y), X), -there, atol=1e-6)


@pytest.mark.parametrize(("kind", "shape"), KINDS_AND_SHAPES, ids=repr)
def test_moved_and_scaled_samples_have_scaled_distances(kind, shape) -> None:
    X, y = two_clouds(*shape)
    before = distances(kind.fit(X, y), X)
    np.testing.assert_allclose(distances(kind.fit(7 * X + 3, y), 7 * X + 3), 7 * before, atol=1e-5)


@pytest.mark.parametrize(("kind", "shape"), PLAIN_AND_SHAPES, ids=repr)
def test_unstandardised_fits_are_rotation_equivariant(kind, shape) -> None:
    X, y = two_clouds(*shape)
    turn = ortho_group.rvs(X.shape[1], random_state=0)
    direction = kind.fit(X, y).direction_
    np.testing.assert_allclose(kind.fit(X @ turn, y).direction_, direction @ turn, atol=1e-6)


@pytest.mark.parametrize(("kind", "shape"), STANDARDIZED_AND_SHAPES, ids=repr)
def test_standardised_distances_do_not_depend_on_the_units_of_a_column(kind, shape) -> None:
    X, y = two_clouds(*shape)
    units = np.random.default_rng(2).uniform(0.1, 10, X.shape[1])
    before, after = distances(kind.fit(X, y), X), distances(kind.fit(X * units, y), X * units)
    np.testing.assert_allclose(after / np.abs(after).max(), before / np.abs(before).max(), atol=1e-6)


@pytest.mark.parametrize(("kind", "shape"), KINDS_AND_SHAPES, ids=repr)
def test_constant_columns_have_weight_zero(kind, shape) -> None:
    X, y = two_clouds(*shape)
    wider = np.insert(X, 4, 0.1, axis=1)
    fitted = kind.fit(wider, y)
    assert abs(fitted.direction_[4]) < 1e-12
    assert np.linalg.norm(fitted.direction_) == pytest.approx(1)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), copies=st.integers(2, 4))
def test_repeated_samples_count_repeatedly(seed, copies) -> None:
    X, y = two_clouds(8, 40, seed)
    once = LogisticDirection([float(copies)], tol=1e-11).fit(X, y).direction_
    often = LogisticDirection([1.0], tol=1e-11).fit(np.tile(X, (copies, 1)), np.tile(y, copies)).direction_
    np.testing.assert_allclose(often, once, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_single_precision_samples_give_the_direction_of_double_ones(kind) -> None:
    X, y = two_clouds(30, 45)
    there = kind.fit(X.astype(np.float32), y).direction_
    np.testing.assert_allclose(there, kind.fit(X, y).direction_, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_samples_are_not_modified(kind) -> None:
    X, y = two_clouds(30, 45)
    copy = X.copy()
    kind.fit(X, y)
    np.testing.assert_array_equal(X, copy)


@pytest.mark.parametrize("kind", [MeanDifference(), LDADirection(), RidgeDirection([1.0])], ids=repr)
def test_samples_that_do_not_differ_have_no_direction(kind) -> None:
    with pytest.raises(ValueError, match="No direction"):
        kind.fit(np.ones((6, 9)), [0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize("shrinkage", [0, 1.5, "oas"])
def test_a_shrinkage_outside_its_range_is_refused(shrinkage) -> None:
    with pytest.raises(ValueError, match="shrinkage"):
        LDADirection(shrinkage).fit(*two_clouds(30, 45))


@pytest.mark.parametrize("shape", SHAPES)
def test_principal_directions_are_the_singular_vectors(shape) -> None:
    X, _ = two_clouds(*shape)
    fitted = PrincipalDirections(3).fit(X)
    _, spread, vectors = np.linalg.svd(X - X.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(fitted.directions_ * vectors[:3], 1)), 1, atol=1e-3)
    np.testing.assert_allclose(fitted.sds_, spread[:3] / np.sqrt(len(X) - 1), rtol=1e-3)
    np.testing.assert_allclose(fitted.transform(X).std(0, ddof=1), fitted.sds_, rtol=1e-3)
    np.testing.assert_allclose(fitted.directions_ @ fitted.directions_.T, np.eye(3), atol=1e-10)
