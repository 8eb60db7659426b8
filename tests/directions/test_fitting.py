import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold

from ddim_edit import (
    ArgumentError,
    DirectionError,
    LatentArray,
    LogisticDirection,
    MeanDifference,
    RidgeDirection,
    SVMDirection,
    fit_direction,
    principal_directions,
)
from ddim_edit.directions import ESTIMATORS, concordance, make_estimator

from .homes import H_HOME, H_TIMES, X_HOME, latents_of, randn
from .samples import planted

SENTENCE = r"^[^\n]+$"
LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=25)


def two_classes(n: int = 80, gap: float = 3.0, seed: int = 0) -> tuple[LatentArray, NDArray[Any], NDArray[Any]]:
    """Return latents [n, 3, 4, 4] of two classes with a direction between them, their labels, and the direction."""
    y = (np.arange(n) % 3 == 0).astype(float)
    X, _, u = planted(n, 48, gap * y, seed)
    return latents_of(torch.from_numpy(X + 1).view(n, 3, 4, 4)), y, u


def by_pairs(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    pairs = [(i, j) for i in range(len(labels)) for j in range(len(labels)) if labels[i] > labels[j]]
    wins = [(scores[i] > scores[j]) + (scores[i] == scores[j]) / 2 for i, j in pairs]
    return float(np.mean(wins)) if pairs else 0.5


@given(LABELS, st.integers(0, 2**31), st.integers(1, 6))
def test_concordance_counts_pairs_and_half_of_ties(labels: list[int], seed: int, kinds: int) -> None:
    """Ties in either, all of them included."""
    y = np.array(labels, dtype=float)
    scores = np.random.default_rng(seed).integers(0, kinds, len(y)).astype(float)
    assert concordance(y, scores) == pytest.approx(by_pairs(y, scores), abs=1e-12)
    assert concordance(y, scores) + concordance(y, -scores) == pytest.approx(1)


@given(st.integers(0, 2**31), st.integers(2, 40), st.booleans())
def test_concordance_of_two_classes_is_scikit_learns_auc(seed: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    y, scores = (np.arange(n) % 2).astype(float), rng.standard_normal(n)
    scores = scores.round() if ties else scores
    assert concordance(y, scores) == pytest.approx(roc_auc_score(y, scores), abs=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_planted_direction_is_found_and_measured(name: str) -> None:
    latents, y, u = two_classes(200)
    found = fit_direction("planted", latents, y, name)
    assert float(found.vector.flatten() @ torch.from_numpy(u)) > 0.8
    assert found.vector.shape == (3, 4, 4)
    assert found.report["auc"] > 0.9
    assert found.report["method"] == name
    assert (found.name, found.recipe, found.times) == ("planted", X_HOME, ())


def test_estimator_is_logistic_regression_by_default() -> None:
    latents, y, _ = two_classes()
    assert fit_direction("a", latents, y).report["method"] == "logistic"
    assert fit_direction("a", latents, y, MeanDifference(standardize=True)).report["method"] == "mean"


def test_the_given_estimator_stays_unfitted() -> None:
    latents, y, _ = two_classes()
    estimator = MeanDifference()
    fit_direction("a", latents, y, estimator)
    assert not hasattr(estimator, "direction_")


def test_vector_intercept_mean_and_sd_are_those_of_the_fit() -> None:
    latents, y, _ = two_classes()
    X = latents.values.flatten(1).numpy()
    for estimator in (MeanDifference(), SVMDirection(Cs=(1.0,)), LogisticDirection()):
        fitted, found = clone(estimator).fit(X, y), fit_direction("a", latents, y, estimator)
        projections = X.astype(float) @ fitted.direction_
        assert found.vector.flatten().tolist() == pytest.approx(fitted.direction_.tolist(), abs=1e-9)
        assert found.intercept == pytest.approx(fitted.intercept_, abs=1e-12)
        assert found.mean == pytest.approx(projections.mean(), abs=1e-9)
        assert found.sd == pytest.approx(np.std(projections), rel=1e-9)
        scores = found.score(latents.values)
        assert (float(scores.mean()), float(scores.std(correction=0))) == pytest.approx((0, 1), abs=1e-9)
        side = found.score(latents.values) * found.sd + found.mean + found.intercept > 0
        assert side.tolist() == (fitted.predict(X) == 1).tolist()


def test_the_gap_is_between_the_means_of_the_projections() -> None:
    latents, y, _ = two_classes()
    found = fit_direction("a", latents, y, MeanDifference())
    x = latents.values.double()
    difference = x[y == 1].mean(0) - x[y == 0].mean(0)
    assert found.report["gap"] == pytest.approx(float(difference.norm()), rel=1e-9)
    torch.testing.assert_close(found.report["gap"] * found.vector, difference, rtol=0, atol=1e-9)
    assert (found.report["n"], found.report["positive"], found.report["negative"]) == (80, 27, 53)


@pytest.mark.parametrize("name", ["logistic", "svm", "mean", "lda"])
@pytest.mark.parametrize("seed", [0, 4])
def test_the_auc_is_scikit_learns_on_the_same_folds(name: str, seed: int) -> None:
    """With the regularisation that the fit to all pictures chose."""
    latents, y, _ = two_classes(gap=1.5)
    X, estimator = latents.values.flatten(1).numpy(), make_estimator(name)
    found, chosen = fit_direction("a", latents, y, estimator, folds=4, seed=seed), clone(estimator).fit(X, y)
    if hasattr(chosen, "C_"):
        estimator = estimator.set_params(Cs=[chosen.C_])
    aucs = []
    for train, test in StratifiedKFold(4, shuffle=True, random_state=seed).split(X, y):
        held_out = clone(estimator).fit(X[train], y[train])
        aucs.append(roc_auc_score(y[test], held_out.decision_function(X[test])))
    assert found.report["auc"] == pytest.approx(np.mean(aucs), abs=1e-9)
    assert found.report["auc_sd"] == pytest.approx(np.std(aucs), abs=1e-9)
    assert found.report["folds"] == 4


def test_a_continuous_label_is_measured_by_pairs_held_out() -> None:
    ages = np.random.default_rng(1).integers(20, 60, 90).astype(float)
    X, _, u = planted(90, 48, (ages - 40) / 3)
    latents = latents_of(torch.from_numpy(X).view(90, 3, 4, 4))
    found = fit_direction("age", latents, ages, RidgeDirection(alphas=(0.1,)))
    rows, aucs = latents.values.flatten(1).numpy(), []
    for train, test in KFold(5, shuffle=True, random_state=0).split(rows):
        held_out = RidgeDirection(alphas=(0.1,)).fit(rows[train], ages[train])
        aucs.append(by_pairs(ages[test], held_out.predict(rows[test])))
    assert found.report["auc"] == pytest.approx(np.mean(aucs), abs=1e-9)
    assert float(found.vector.flatten() @ torch.from_numpy(u)) > 0.6
    assert found.report["label_mean"] == pytest.approx(ages.mean())
    assert found.report["label_sd"] == pytest.approx(ages.std())


@pytest.mark.parametrize("name", ["mean", "ridge", "lda"])
def test_shuffled_labels_have_auc_one_half(name: str) -> None:
    """Over many shuffles; a bias of the baseline would show in the attribute's own AUC as well."""
    latents, y, _ = two_classes(60, gap=4.0)
    report = fit_direction("a", latents, y, name, permutations=100).report
    assert report["permuted_auc"] == pytest.approx(0.5, abs=6 * report["permuted_sd"] / np.sqrt(100))
    assert report["permuted_auc"] == pytest.approx(0.5, abs=0.1)
    assert report["auc"] > report["permuted_auc"] + report["permuted_sd"]


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(("ones", "zeros"), [(1, 1), (1, 5), (2, 3), (4, 4)])
def test_few_samples_are_fitted_with_fewer_folds(name: str, ones: int, zeros: int) -> None:
    """No fold of shuffled labels may lack a class, and nothing is NaN, which JSON does not know."""
    y = np.repeat([1.0, 0.0], [ones, zeros])
    latents = latents_of(randn(len(y), 3, 4, 4, seed=ones + 7 * zeros))
    report = fit_direction("a", latents, y, name, permutations=20).report
    json.dumps(report, allow_nan=False)
    smallest = len(y) // 2 if name == "ridge" else min(ones, zeros)
    assert report["folds"] == (min(5, smallest) if smallest > 1 else 0)
    assert (report["auc"] is None) == (smallest < 2)
    assert report["auc"] is None or 0 <= report["auc"] <= 1


def test_the_same_call_gives_the_same_direction() -> None:
    latents, y, _ = two_classes()
    first, second = (fit_direction("a", latents, y) for _ in range(2))
    assert torch.equal(first.vector, second.vector)
    assert first.report == second.report
    assert fit_direction("a", latents, y, seed=1).report["auc_sd"] != first.report["auc_sd"]
    assert fit_direction("a", latents, y, permutations=0).report["permuted_auc"] is None


def test_bottlenecks_are_fitted_time_by_time_together() -> None:
    rows, y = randn(20, 2, 5, 2, 2), np.arange(20) % 2.0
    found = fit_direction("a", LatentArray(rows.float(), H_HOME, H_TIMES), y, MeanDifference())
    assert (found.vector.shape, found.times, found.level) == ((2, 5, 2, 2), H_TIMES, "h")
    difference = rows[y == 1].mean(0) - rows[y == 0].mean(0)
    torch.testing.assert_close(found.report["gap"] * found.vector, difference, rtol=0, atol=1e-6)


def test_labels_of_any_two_values_are_two_classes() -> None:
    latents, y, _ = two_classes()
    wanted = fit_direction("a", latents, y)
    other = fit_direction("a", latents, 5 * y - 2)
    assert torch.equal(other.vector, wanted.vector)
    assert other.report == wanted.report
    assert torch.equal(fit_direction("a", latents, (y == 1)).vector, wanted.vector)


def test_bad_labels_and_latents_are_refused() -> None:
    latents, y, _ = two_classes(12)
    alike = latents_of(torch.ones(12, 3, 4, 4))
    refusals: list[tuple[LatentArray, NDArray[Any], Any, type[Exception]]] = [
        (latents, y[:-1], None, ArgumentError),
        (latents, y[:, None], None, ArgumentError),
        (latents, np.where(y, np.nan, y), None, ArgumentError),
        (latents, np.arange(12.0), None, ArgumentError),
        (latents, np.arange(12.0), SVMDirection(), ArgumentError),
        (latents, np.ones(12), None, DirectionError),
        (latents, np.ones(12), RidgeDirection(), DirectionError),
        (latents_of(torch.ones(1, 3, 4, 4)), np.ones(1), None, DirectionError),
        *((alike, y, name, DirectionError) for name in ESTIMATORS),
        (latents, y, "pca", ArgumentError),
        (latents, np.array(["old", "young"] * 6), None, ArgumentError),
    ]
    for given_latents, labels, estimator, kind in refusals:
        with pytest.raises(kind, match=SENTENCE):
            fit_direction("a", given_latents, labels, estimator or "logistic")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_latents_that_are_not_finite_are_refused(value: float) -> None:
    latents, y, _ = two_classes(12)
    latents.values[3, 0, 1, 1] = value
    for fit in (lambda: fit_direction("a", latents, y, "mean"), lambda: principal_directions(latents, 2)):
        with pytest.raises(DirectionError, match="hold numbers that are not finite"):
            fit()


def test_principal_directions_have_the_largest_variance() -> None:
    """Planted deviations of 5 and 3 along two axes of the code, against 1 along all others."""
    values = torch.randn(400, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    values[:, 0, 0, 0] *= 5
    values[:, 2, 1, 3] *= 3
    first, second, third = principal_directions(latents_of(values), 3)
    assert abs(float(first.vector[0, 0, 0])) > 0.99
    assert abs(float(second.vector[2, 1, 3])) > 0.98
    assert (first.name, second.name, third.name) == ("pc1", "pc2", "pc3")
    for direction in (first, second):  # the third is one of many alike, which randomised PCA only comes close to
        projections = values.double().flatten(1) @ direction.vector.flatten()
        assert direction.sd == pytest.approx(float(projections.std()), rel=1e-4)
        assert direction.mean == pytest.approx(float(projections.mean()), abs=1e-5)
        assert direction.intercept == -direction.mean
        assert direction.report["auc"] is None


def test_names_of_images_that_do_not_pair_up_are_refused() -> None:
    latents = latents_of(torch.randn(4, 3, 4, 4))._replace(images=("a", "b"))
    with pytest.raises(ArgumentError, match=r"^The latents name 2 images, but there are 4 labels\. [^\n]+$"):
        fit_direction("a", latents, np.array([0, 1, 0, 1]))
