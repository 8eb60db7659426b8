import json
from dataclasses import replace
from itertools import pairwise
from statistics import mean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB

from ddim_edit.directions import LogisticDirection
from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.probing import RESAMPLES, ProbeReport, probe, random_projection

from .gaussians import apart, best_accuracy, best_auc, classes, logistic


@pytest.mark.parametrize("distance", [0.5, 1.5, 3.0])
def test_with_many_labels_the_interval_covers_the_best_possible_accuracy(distance: float) -> None:
    labels = classes(8000)
    (row,) = probe({"codes": apart(labels, distance)}, labels, sizes=[None], estimator=logistic()).rows
    assert row.low < best_accuracy(distance) < row.high
    assert row.auc == pytest.approx(best_auc(distance), abs=0.03)


def test_the_interval_of_one_fixed_probe_has_the_width_of_its_binomials() -> None:
    labels = classes(8000, positives=0.3)
    report = probe({"codes": apart(labels, 1.5)}, labels, sizes=[None], estimator=GaussianNB(priors=[0.5, 0.5]))
    p, (row,) = best_accuracy(1.5), report.rows
    ones = report.positives * report.test
    deviation = (p * (1 - p) * (1 / ones + 1 / (report.test - ones)) / 4) ** 0.5
    assert row.high - row.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_the_interval_holds_another_draw_on_another_test_set() -> None:
    """What 95 % means: of single probes on independent data, about that many land inside."""
    labels = classes(1000)
    report = probe({"codes": apart(labels, 2.0)}, labels, sizes=[20], draws=40, estimator=logistic())
    (row,) = report.rows
    others = [apart(classes(270, seed), 2.0, seed=seed + 1000) for seed in range(200)]
    scores = [_score(codes, classes(270, seed)) for seed, codes in enumerate(others)]
    assert 0.9 <= mean(row.low <= score <= row.high for score in scores) <= 0.99


def _score(codes: np.ndarray, labels: np.ndarray) -> float:
    ones, zeros = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    train, test = np.r_[ones[:10], zeros[:10]], np.r_[ones[10:], zeros[10:]]
    return float(
        balanced_accuracy_score(labels[test], logistic().fit(codes[train], labels[train]).predict(codes[test]))
    )


def test_more_labels_are_better() -> None:
    labels = classes(3000)
    rows = probe({"codes": apart(labels, 2.0, d=100)}, labels, sizes=[10, 50, 250, None], estimator=logistic()).rows
    assert [row.n for row in rows] == [10, 50, 250, 2250]
    accuracies = [row.balanced_accuracy for row in rows]
    assert all(more > fewer + 0.02 for fewer, more in pairwise(accuracies))
    assert accuracies[-1] < best_accuracy(2.0) + 0.03


@pytest.mark.parametrize("positives", [0.5, 0.2])
def test_shuffled_labels_leave_chance(positives: float) -> None:
    labels = classes(2000, positives=positives)
    codes = {"shuffled": apart(classes(2000, seed=7), 3.0), "noise": apart(labels, 0.0)}
    for row in probe(codes, labels, sizes=[10, 100, None], estimator=logistic()).rows:
        assert row.low < 0.5 < row.high
        assert row.auc == pytest.approx(0.5, abs=0.06)


@settings(max_examples=5)
@given(st.integers(0, 2**31))
def test_noise_in_any_order_stays_at_chance(seed: int) -> None:
    labels = classes(2000)
    noise = np.random.default_rng(seed).permutation(apart(labels, 0.0))
    (row,) = probe({"noise": noise}, labels, sizes=[50], draws=20, estimator=logistic()).rows
    assert row.balanced_accuracy == pytest.approx(0.5, abs=0.04)
    assert row.low < 0.5 < row.high


def test_a_probe_that_always_answers_the_same_is_at_chance_without_doubt() -> None:
    labels = classes(400, positives=0.1)
    (row,) = probe({"codes": apart(labels, 3)}, labels, sizes=[None], estimator=DummyClassifier()).rows
    assert (row.balanced_accuracy, row.low, row.high, row.auc) == pytest.approx((0.5, 0.5, 0.5, 0.5))


def test_the_figures_are_those_of_scikit_learn() -> None:
    labels = classes(800, positives=0.3)
    codes = apart(labels, 1.5)
    (row,) = probe({"codes": codes}, labels, sizes=[None], seed=3, estimator=logistic()).rows
    train, test = train_test_split(np.arange(800), test_size=0.25, stratify=labels, random_state=3)
    fitted = logistic().fit(codes[train], labels[train])
    assert row.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels[test], fitted.predict(codes[test])))
    assert row.auc == pytest.approx(roc_auc_score(labels[test], fitted.decision_function(codes[test])))


def test_one_seed_gives_one_report_and_another_another() -> None:
    labels = classes(400)
    codes = {"codes": apart(labels, 1.0)}
    first, second, other = (probe(codes, labels, [20], seed=seed, estimator=logistic()) for seed in (5, 5, 6))
    assert first == second
    assert first.rows != other.rows


def test_neither_the_order_nor_the_company_of_representations_matters() -> None:
    labels = classes(400)
    codes = {"a": apart(labels, 1.0), "b": apart(labels, 2.0, seed=2), "c": apart(labels, 0.0, seed=3)}
    there, back, alone = (
        probe({name: codes[name] for name in names}, labels, [20, None], estimator=logistic()).rows
        for names in ("abc", "cba", "b")
    )
    assert set(there) == set(back)
    assert set(alone) < set(there)


def test_a_representation_probed_under_two_names_gives_the_same_figures() -> None:
    labels = classes(400)
    codes = apart(labels, 1.0)
    one, other = probe({"one": codes, "other": codes.copy()}, labels, [20], estimator=logistic()).rows
    assert replace(other, representation="one") == one


def test_labels_may_be_any_two_values() -> None:
    labels = classes(400)
    codes = {"codes": apart(labels, 1.0)}
    reports = [probe(codes, given, [20, None], estimator=logistic()) for given in (labels, labels == 1, 7 * labels - 3)]
    reports.append(probe(codes, np.where(labels == 1, "young", "old"), [20, None], estimator=logistic()))
    assert all(report == reports[0] for report in reports)


class Watcher(DummyClassifier):
    """Remembers in one list for all clones what it was fitted on."""

    seen: list[tuple[np.ndarray, np.ndarray]] = []  # noqa: RUF012

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: None = None) -> "Watcher":
        self.seen.append((X[:, 0].astype(int), y))
        return super().fit(X, y)


@given(st.floats(0.05, 0.95), st.integers(0, 100))
@settings(max_examples=20)
def test_training_sets_are_nested_stratified_and_apart_from_the_test(positives: float, seed: int) -> None:
    labels, Watcher.seen = classes(200, positives=positives), []
    report = probe({"rows": np.arange(200.0)[:, None]}, labels, [2, 10, 60, None], 3, seed=seed, estimator=Watcher())
    drawn = [[set(rows) for rows, _ in Watcher.seen[i : i + 3]] for i in (0, 3, 6)]
    assert [len(rows) for rows, _ in Watcher.seen] == [2, 2, 2, 10, 10, 10, 60, 60, 60, 150]
    for small, middle, large in zip(*drawn, strict=True):
        assert small < middle < large < set(Watcher.seen[-1][0])
    for rows, y in Watcher.seen:
        assert (labels[rows] == y).all()
        assert abs(y.sum() - len(y) * positives) <= 1.5
        assert 0 < y.sum() < len(y)
    assert [(row.n, row.draws) for row in report.rows] == [(2, 3), (10, 3), (60, 3), (150, 1)]


def test_sizes_beyond_the_training_pictures_are_left_out_and_all_is_one_of_them() -> None:
    labels = classes(100)
    rows = probe({"codes": apart(labels, 1.0)}, labels, (75, 10, None, 1000), estimator=logistic()).rows
    assert [(row.n, row.draws) for row in rows] == [(10, 10), (75, 1)]


def test_the_report_is_json_and_text_and_knows_its_best() -> None:
    labels = classes(400)
    codes = {"near": apart(labels, 0.5), "far": apart(labels, 3.0, d=8)}
    report = probe(codes, labels, [20, None], estimator=logistic())
    told = json.loads(json.dumps(report.as_json()))
    assert (told["train"], told["test"], told["positives"], told["resamples"]) == (300, 100, 0.5, RESAMPLES)
    assert told["rows"][0]["representation"] == "near"
    assert [report.best(n).representation for n in (20, 300, None)] == ["far"] * 3
    assert report.best().n == 300
    assert report.best().dim == 8
    titles, *lines = report.table().splitlines()
    assert len({len(line) for line in [titles, *lines]}) == 1
    assert [line.split()[:4] for line in lines] == [
        [row.representation, str(row.dim), str(row.n), str(row.draws)] for row in report.rows
    ]
    with pytest.raises(ArgumentError, match="no probes of 21 labels, only of 20, 300"):
        report.best(21)


def test_a_projection_keeps_distances_as_its_theorem_says() -> None:
    pixels = np.random.default_rng(0).standard_normal((40, 3000)).astype(np.float32)
    codes = random_projection(pixels, 1500, seed=4)
    assert codes.dtype == np.float32
    ratios = ((codes[:20] - codes[20:]) ** 2).sum(1) / ((pixels[:20] - pixels[20:]) ** 2).sum(1)
    assert np.abs(ratios - 1).max() < 5 * (2 / 1500) ** 0.5
    assert (codes == random_projection(pixels, 1500, seed=4)).all()
    assert (codes != random_projection(pixels, 1500, seed=5)).any()
    assert np.allclose(random_projection(2 * pixels, 1500, seed=4), 2 * codes, atol=1e-4)


CODES, LABELS = np.ones((8, 2)), np.array([0, 1] * 4)
REFUSED = {
    "three classes": ({"a": CODES}, np.arange(8) % 3, {}, "list of two values, not 3 values"),
    "one class": ({"a": CODES}, np.ones(8), {}, "list of two values, not 1 values"),
    "a table of labels": ({"a": CODES}, CODES, {}, "must be a list of two values"),
    "other rows": ({"a": CODES[1:]}, LABELS, {}, r"'a' must have shape \[8, d\].*not \[7, 2\]"),
    "pictures": ({"a": np.ones((8, 3, 4, 4))}, LABELS, {}, r"not \[8, 3, 4, 4\]\. Flatten"),
    "codes of no values": ({"a": np.ones((8, 0))}, LABELS, {}, r"not \[8, 0\]"),
    "NaN": ({"a": CODES * np.nan}, LABELS, {}, "'a' has NaN"),
    "a class of one": ({"a": CODES}, np.arange(8) == 0, {}, "1 images of one class and 7"),
    "a test of one": ({"a": CODES}, LABELS, {"test_fraction": 0.01}, "4 images of one class and 4"),
    "a test of one class": (
        {"a": np.ones((30, 2))},
        np.arange(30) < 2,
        {"test_fraction": 0.1},
        "2 images of one class",
    ),
    "a test of all": ({"a": CODES}, LABELS, {"test_fraction": 1.0}, "between 0 and 1"),
    "size 1": ({"a": CODES}, LABELS, {"sizes": [1]}, "must be at least 2"),
    "large sizes": ({"a": CODES}, LABELS, {"sizes": [100]}, "one up to 6, .*: 100"),
    "no sizes": ({"a": CODES}, LABELS, {"sizes": []}, "training images: none"),
    "no draws": ({"a": CODES}, LABELS, {"draws": 0}, "at least 1 draw"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_probed_is_refused(case: str) -> None:
    codes, labels, options, message = REFUSED[case]
    with pytest.raises(ArgumentError, match=message):
        probe(codes, labels, estimator=logistic(), **options)


@pytest.mark.parametrize(("pixels", "dim"), [(CODES, 0), (CODES, 3), (np.ones(8), 1), (np.float64(1), 1)])
def test_impossible_projections_are_refused(pixels: np.ndarray, dim: int) -> None:
    with pytest.raises(ArgumentError):
        random_projection(pixels, dim)


def test_a_report_without_rows_has_no_best() -> None:
    with pytest.raises(ArgumentError, match="only of none"):
        ProbeReport((), train=3, test=1, positives=0.5, seed=0).best()


def test_by_default_the_probe_is_the_logistic_direction() -> None:
    labels = classes(300)
    codes = {"codes": apart(labels, 3.0, d=500)}
    assert probe(codes, labels, [30], 3) == probe(codes, labels, [30], 3, estimator=LogisticDirection())
