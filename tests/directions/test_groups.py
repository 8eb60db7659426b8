"""Copies of an image, and images of one person, stay on one side of every split."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from ddim_edit import ArgumentError, InputWarning, fit_direction, probe
from ddim_edit.directions import ESTIMATORS, fitting
from ddim_edit.directions.groups import (
    are_trivial,
    count_units,
    find_groups,
    join_groups,
    number_groups,
    same_rows,
    split_folds,
)

from .homes import latents_of
from .samples import planted

PARTS = st.lists(st.integers(0, 6), min_size=12, max_size=12)


def people(pairs: int = 20, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any]]:
    """Return two similar images of each person [2 pairs, 48], a random label per person, and the person."""
    rng = np.random.default_rng(seed)
    faces = np.repeat(rng.standard_normal((pairs, 48)), 2, axis=0)
    labels = np.repeat(rng.permutation(np.arange(pairs) % 2.0), 2)
    images = faces + 0.2 * rng.standard_normal(faces.shape)
    return images.astype(np.float32), labels, np.repeat(np.arange(pairs), 2)


def fit(rows: NDArray[Any], labels: NDArray[Any], name: str = "logistic", **options: Any) -> dict[str, Any]:
    latents = latents_of(torch.from_numpy(rows).view(-1, 3, 4, 4))
    return dict(fit_direction("a", latents, labels, name, **options).report)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_random_labels_of_persons_are_not_learnt_with_groups(name: str) -> None:
    """Without groups they are: the other image of the same person gives the answer away."""
    plain, grouped = [], []
    for seed in range(12):
        rows, labels, persons = people(seed=seed)
        plain.append(fit(rows, labels, name, permutations=0)["auc"])
        report = fit(rows, labels, name, groups=persons)
        grouped.append(report["auc"])
        assert report["groups"] == 20
    assert np.mean(plain) > 0.75
    # 20 persons: a standard deviation of 0.13 for one seed, and of 0.04 for their mean.
    assert np.mean(grouped) == pytest.approx(0.5, abs=0.12)


def test_random_labels_of_persons_are_not_learnt_from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "IN_MEMORY", 0)
    plain, grouped = [], []
    for seed in range(6):
        rows, labels, persons = people(60, seed)
        latents = latents_of(torch.zeros(1, 3, 4, 4))._replace(values=rows.reshape(-1, 3, 4, 4))  # type: ignore[arg-type]
        plain.append(fit_direction("a", latents, labels).report["auc"])
        grouped.append(fit_direction("a", latents, labels, groups=persons).report["auc"])
    assert np.mean(plain) > 0.7
    assert np.mean(grouped) == pytest.approx(0.5, abs=0.2)


def test_random_labels_of_persons_are_not_probed_with_groups() -> None:
    plain, grouped = [], []
    for seed in range(12):
        rows, labels, persons = people(40, seed)
        for found, groups in ((plain, None), (grouped, persons)):
            found.append(probe({"a": rows}, labels, [None], seed=seed, groups=groups).rows[0].auc)
    assert np.mean(plain) > 0.7
    assert np.mean(grouped) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_repeated_rows_change_no_score(name: str) -> None:
    """Twelve images and the same twelve twice: once 0.6, and not 0.6 and 1.0."""
    rows = np.random.default_rng(3).standard_normal((12, 48)).astype(np.float32)
    labels = np.arange(12) % 2.0
    once = fit(rows, labels, name)
    twice = fit(np.concatenate([rows, rows]), np.concatenate([labels, labels]), name)
    if name == "mean":  # the regularisation of the others depends on the number of rows
        assert twice["auc"] == pytest.approx(once["auc"], abs=1e-6)
    assert twice["auc"] < 0.9
    assert (twice["groups"], twice["folds"]) == (12, once["folds"])


def test_repeated_rows_of_a_probe_are_on_one_side() -> None:
    rows = np.random.default_rng(3).standard_normal((100, 48))
    labels = np.arange(100) % 2
    twice = probe({"a": np.concatenate([rows, rows])}, np.concatenate([labels, labels]), [None])
    assert (twice.train, twice.test) == (150, 50)
    assert twice.rows[0].auc < 0.75
    assert twice.rows[0].low < 0.5 < twice.rows[0].high


def test_copies_are_known_by_their_digests_whatever_their_latents() -> None:
    """Dequantised copies of other files, or in batches of another size, have other latents."""
    rows, labels, persons = people()
    latents = latents_of(torch.from_numpy(rows).view(-1, 3, 4, 4))._replace(images=tuple(map(str, persons)))
    assert fit_direction("a", latents, labels).report["groups"] == 20
    with pytest.raises(ArgumentError, match="Images 0 and 1, counted from 0, are the same, but one has the label"):
        fit_direction("a", latents, np.arange(40) % 2.0)


def test_one_image_with_two_labels_is_named() -> None:
    rows = np.random.default_rng(0).standard_normal((40, 48)).astype(np.float32)
    labels = np.arange(40) % 2.0
    rows[31] = rows[4]
    with pytest.raises(ArgumentError, match=r"Images 4 and 31, .* one has the label 0.0 and the other 1.0"):
        fit(rows, labels)
    with pytest.raises(ArgumentError, match="Images 4 and 31"):
        probe({"a": rows, "b": rows[:, :3]}, labels)
    with pytest.raises(ArgumentError, match="Images 4 and 31"):
        fit(rows, np.arange(40.0), "ridge")


@pytest.mark.parametrize("wide", [8, 200])
def test_rows_of_one_image_are_known_up_to_rounding_where_chance_cannot_do_it(wide: int) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((300, wide))
    rows[[10, 20, 290]] = rows[5]
    near = rows + 1e-6 * rng.standard_normal(rows.shape)
    same = same_rows(rows)
    assert set(np.flatnonzero(same == same[5])) == {5, 10, 20, 290}
    assert len(np.unique(same)) == 297
    assert len(np.unique(same_rows(near))) == (297 if wide == 200 else 300)
    assert are_trivial(same_rows(rng.standard_normal((500, wide)).astype(np.float32)))


@given(PARTS, PARTS)
def test_joined_groups_are_the_finest_that_contain_both(first: list[int], second: list[int]) -> None:
    a, b = number_groups(first), number_groups(second)
    joined = join_groups(a, b)
    assert are_trivial(join_groups(np.arange(12), np.arange(12)))
    for part in (a, b):
        assert all(len(set(joined[part == value])) == 1 for value in set(part.tolist()))
    chain = np.eye(12, dtype=bool) | (a[:, None] == a) | (b[:, None] == b)
    reach = np.linalg.matrix_power(chain.astype(float), 12) > 0
    assert ((joined[:, None] == joined) == reach).all()
    assert (joined == number_groups(joined.tolist())).all()


def test_groups_that_are_unknown_stand_alone() -> None:
    labels = np.array([0, 1, 0, 1, 0])
    assert find_groups(labels, np.eye(5), None, ["a", None, "a", float("nan"), None]).tolist() == [0, 1, 0, 2, 3]
    with pytest.raises(ArgumentError, match="5 images need 5 groups, not 2"):
        find_groups(labels, np.eye(5), None, ["a", "b"])


@given(st.lists(st.integers(0, 15), min_size=20, max_size=60), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_no_fold_divides_a_group_and_all_have_both_classes(
    keys: list[int], seed: int, pure: bool, continuous: bool
) -> None:
    groups = number_groups(keys)
    rng = np.random.default_rng(seed)
    labels = (rng.integers(0, 2, 61)[groups] if pure else rng.integers(0, 2, len(groups))).astype(float)
    if len(np.unique(labels)) < 2:
        return
    splits = split_folds(labels, groups, 5, continuous, 0)
    assert len(splits) != 1
    seen: list[int] = []
    for train, test in splits:
        assert not set(groups[train]) & set(groups[test])
        assert sorted([*train, *test]) == list(range(len(groups)))
        seen += test.tolist()
        if not continuous:
            assert set(labels[train]) == set(labels[test]) == {0, 1}
    assert len(seen) == len(set(seen))
    if pure and not continuous:
        units = count_units(labels, groups, False)
        assert len(splits) == (min(5, units) if units > 1 else 0)


def test_mixed_groups_are_measured_too() -> None:
    """Persons with and without a smile: every person has both labels."""
    y = np.arange(80) % 2.0
    X, _, _ = planted(80, 48, 4 * y)
    report = fit(X.astype(np.float32), y, groups=np.arange(80) // 4)
    assert (report["folds"], report["groups"]) == (5, 20)
    assert report["auc"] > 0.9
    assert probe({"a": X}, y, [None], groups=np.arange(80) // 4).rows[0].auc > 0.9


def test_an_estimator_that_chooses_by_folds_gets_the_groups() -> None:
    seen: list[Any] = []

    class Chooser(BaseEstimator):
        def fit(self, X: Any, y: Any, groups: Any = None) -> "Chooser":
            seen.append(groups)
            self.direction_, self.intercept_ = np.eye(X.shape[1])[0], 0.0
            return self

    rows, labels, persons = people()
    latents = latents_of(torch.from_numpy(rows).view(-1, 3, 4, 4))
    fit_direction("a", latents, labels, Chooser(), groups=persons, permutations=0)  # type: ignore[arg-type]
    assert [len(np.unique(groups)) for groups in seen] == [20, 16, 16, 16, 16, 16]
    seen.clear()
    fit_direction("a", latents, labels, Chooser(), permutations=0)  # type: ignore[arg-type]
    assert all(groups is None for groups in seen)


@pytest.mark.parametrize(("n", "groups"), [(58, None), (80, 29)])
def test_few_images_of_a_class_are_warned_of(n: int, groups: int | None) -> None:
    y = (np.arange(n) % 2).astype(float)
    X, _, _ = planted(n, 48, 3 * y)
    persons = None if groups is None else np.arange(n) % (2 * groups)
    with pytest.warns(InputWarning, match=r"smaller class has only 29 .*Label at least 30 of each class"):
        fit(X.astype(np.float32), y, groups=persons)
