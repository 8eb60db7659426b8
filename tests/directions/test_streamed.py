"""Directions of rows on disk: those of the in-memory estimators, in blocks, by a bounded number of passes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.base import clone

from ddim_edit import (
    ArgumentError,
    DirectionError,
    LatentArray,
    LDADirection,
    LogisticDirection,
    MeanDifference,
    PrincipalDirections,
    RidgeDirection,
    SVMDirection,
    fit_direction,
    principal_directions,
)
from ddim_edit.directions import fitting, scatter
from ddim_edit.directions.measuring import Trial
from ddim_edit.directions.principal import leading_of_rows
from ddim_edit.directions.rows import Picked, Stream
from ddim_edit.directions.scatter import Factor, Sample
from ddim_edit.directions.streamed import find

from .homes import X_HOME
from .on_disk import CountedRows
from .samples import planted, two_clouds

SENTENCE = r"^[^\n]+$"
UNMEASURED = Trial(0, 0, 0)
SHAPES = [(300, 20), (60, 90)]
"""More samples than dimensions, and fewer."""
SETTLED = [
    (MeanDifference(), 1 - 1e-9),
    (MeanDifference(standardize=True), 1 - 1e-9),
    (RidgeDirection([1e-3]), 1 - 1e-6),
    (RidgeDirection([1.0], standardize=False), 1 - 1e-6),
    (LDADirection(), 1 - 1e-6),
    (LDADirection(0.05, standardize=False), 1 - 1e-6),
    (LogisticDirection([0.01], tol=1e-9), 1 - 1e-4),
    (LogisticDirection([10.0], tol=1e-9), 1 - 1e-3),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("estimator", "cosine"), SETTLED, ids=repr)
def test_the_streamed_direction_is_the_one_of_the_estimator_in_memory(
    estimator: Any, cosine: float, shape: tuple[int, int]
) -> None:
    X, y = two_clouds(*shape)
    wanted = clone(estimator).fit(X, y)
    found = find(estimator, CountedRows(X), y.astype(float), UNMEASURED, room=500)
    assert found.direction @ wanted.direction_ > cosine
    assert np.linalg.norm(found.direction) == pytest.approx(1)
    spread = found.projections.std()
    np.testing.assert_allclose(found.projections, X @ found.direction, atol=1e-4 * spread)
    assert found.intercept == pytest.approx(wanted.intercept_, abs=2 * np.sqrt(1 - cosine) * spread + 1e-5)


@pytest.mark.parametrize(("estimator", "cosine"), SETTLED, ids=repr)
def test_the_size_of_the_blocks_changes_nothing_beyond_rounding(estimator: Any, cosine: float) -> None:
    X, y = two_clouds(300, 20)
    small, large = (find(estimator, CountedRows(X), y.astype(float), UNMEASURED, room) for room in (60, 10_000))
    assert small.direction @ large.direction > cosine


@pytest.mark.parametrize("kind", [MeanDifference, RidgeDirection, LDADirection, LogisticDirection])
def test_no_more_than_a_block_is_ever_asked_for(kind: Any) -> None:
    """With the search for a regularisation and the measuring included."""
    X, y = two_clouds(400, 20)
    rows = CountedRows(X)
    find(kind(), rows, y.astype(float), Trial(5, 2, 0), room=20 * 30)
    assert max(rows.read) == 30
    assert rows.passes == round(rows.passes)
    assert rows.passes < 300


def test_a_mean_difference_takes_five_passes_and_one_for_each_shuffle() -> None:
    X, y = two_clouds(400, 20)
    rows = CountedRows(X)
    find(MeanDifference(), rows, y.astype(float), Trial(5, 3, 0), room=600)
    assert rows.passes == 5 + 3


def test_a_sample_that_grows_counts_each_row_once() -> None:
    """One pass over the rows for what is new, and the scatter of all that was kept."""
    X, _ = two_clouds(90, 7)
    rows = CountedRows(X)
    stream = Stream.of(rows, standardize=True, room=70)
    sample, first = Sample(stream), np.arange(90) % 3 == 0
    units = np.concatenate([block.copy() for _, block in stream.blocks()]).astype(float)
    for kept in (first, ~first):
        sample.add(kept)
        expected = units[sample.kept].T @ units[sample.kept]
        np.testing.assert_allclose(sample.scatter, np.tril(expected), atol=1e-5)
    before = rows.passes
    assert sample.square() == pytest.approx(np.square(units.T @ units).sum(), rel=1e-5)
    assert rows.passes == before
    lower = Factor.of(sample.scatter, 2.0, 3.0).lower.astype(float)
    floor = 1e-4 * 2 * np.square(units).sum() / 7
    np.testing.assert_allclose(lower @ lower.T, 2 * units.T @ units + (3 + floor) * np.eye(7), atol=1e-4)


def test_a_stream_has_the_units_of_the_estimators_in_memory() -> None:
    from ddim_edit.directions.sample_space import Scaled

    X, _ = two_clouds(90, 7)
    X = np.insert(X, 3, 0.1, axis=1)
    for standardize in (False, True):
        stream = Stream.of(CountedRows(X), standardize, room=40)
        wanted = Scaled.of(X.astype(np.float32), standardize)
        np.testing.assert_allclose(np.concatenate([b.copy() for _, b in stream.blocks()]), wanted.rows, atol=1e-5)
        np.testing.assert_allclose(stream.scale, wanted.scale, rtol=1e-6)


# As in test_estimators_planted: the means differ by the shift and by noise of squared length 4 D / N. LDA has to learn
# the covariance too, which that many rows tell well enough.
@pytest.mark.parametrize("kind", [MeanDifference, LDADirection])
def test_a_planted_direction_is_found_as_well_as_it_can_be(kind: Any) -> None:
    n, d, shift = 4_000, 200, 1.5
    X, pushes, u = planted(n, d, np.tile([-0.5, 0.5], n // 2) * shift)
    found = find(kind(), CountedRows(X), (pushes > 0).astype(float), Trial(5, 5, 0), room=2**14)
    best = shift / np.sqrt(shift**2 + 4 * d / n)
    assert found.direction @ u == pytest.approx(best, abs=0.02)
    # Nine tenths to learn from, one tenth, 400 rows, to be measured on.
    learnt = shift / np.sqrt(shift**2 + 4 * d / (0.9 * n))
    assert found.measured["auc"] == pytest.approx(norm.cdf(shift * learnt / np.sqrt(2)), abs=3 * 0.02)


@pytest.mark.parametrize("kind", [MeanDifference, RidgeDirection, LDADirection, LogisticDirection])
def test_what_is_held_out_is_never_learnt_from(kind: Any) -> None:
    """Noise in more dimensions than samples is told apart by heart, and held out by chance alone."""
    X = np.random.default_rng(0).standard_normal((400, 600))
    y = np.arange(400) % 2.0
    measured = find(kind(), CountedRows(X), y, Trial(4, 30, 0), room=2**14).measured
    assert measured["auc"] == pytest.approx(0.5, abs=3 * 0.092)  # of 20 against 20
    assert measured["permuted_auc"] == pytest.approx(0.5, abs=3 * 0.092 / np.sqrt(30) + 0.02)
    assert measured["folds"] == 1


def test_the_regularisation_is_chosen_for_rows_that_were_not_learnt_from() -> None:
    X, _ = two_clouds(600, 12)
    rng, passes = np.random.default_rng(3), []
    noise, line = rng.standard_normal(600), X[:, 0]
    for y, alpha in ((noise, 1e4), (line, 1e-3)):
        found = find(RidgeDirection([1e-3, 1.0, 1e4]), CountedRows(X), y, UNMEASURED, room=2**12)
        wanted = RidgeDirection([alpha]).fit(X, y).direction_
        passes.append(found.direction @ wanted)
    assert min(passes) > 1 - 1e-6


def test_a_rare_class_is_fitted_with_the_most_regularisation_and_not_measured() -> None:
    X, _ = two_clouds(200, 20)
    y = (np.arange(200) < 7).astype(float)
    found = find(LogisticDirection([10.0, 0.1]), CountedRows(X), y, Trial(5, 5, 0), room=2**10)
    wanted = LogisticDirection([0.1], tol=1e-9).fit(X, y).direction_
    assert found.direction @ wanted > 0.999
    assert found.measured["auc"] is None
    assert found.measured["folds"] == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_principal_directions_of_rows_are_the_singular_vectors(shape: tuple[int, int]) -> None:
    X, _ = two_clouds(*shape)
    rows = CountedRows(X)
    found = leading_of_rows(rows, 3, seed=0, room=500)
    _, spread, vectors = np.linalg.svd(X - X.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(found.directions * vectors[:3], 1)), 1, atol=1e-3)
    np.testing.assert_allclose(found.sds, spread[:3] / np.sqrt(len(X) - 1), rtol=1e-4)
    np.testing.assert_allclose(found.mean, X.mean(0), atol=1e-5)
    assert max(rows.read) <= 500 // shape[1]


def on_disk(folder: Path, values: NDArray[Any]) -> LatentArray:
    """Codes whose values are a mapped file."""
    file = np.lib.format.open_memmap(folder / "codes.npy", "w+", np.float32, values.shape)
    file[:] = values
    file.flush()
    return LatentArray(np.load(folder / "codes.npy", mmap_mode="r"), X_HOME)  # type: ignore[arg-type]


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes few codes count as many."""
    monkeypatch.setattr(fitting, "IN_MEMORY", 1000)


@pytest.mark.parametrize("kind", [MeanDifference, RidgeDirection, LDADirection, LogisticDirection])
def test_codes_on_disk_are_fitted_like_any_others(kind: Any, many: None, tmp_path: Path) -> None:
    X, y = two_clouds(300, 48)
    codes = on_disk(tmp_path, X.reshape(300, 3, 4, 4))
    found = fit_direction("a", codes, y.astype(float), kind())
    wanted = fit_direction("a", codes._replace(values=torch.tensor(codes.values)), y.astype(float), kind())
    assert found.vector.shape == (3, 4, 4)
    assert found.recipe == X_HOME
    assert (found.report["folds"], wanted.report["folds"]) == (1, 5)
    assert set(found.report) == set(wanted.report)
    for name in ("method", "d", "n"):
        assert found.report[name] == wanted.report[name]
    assert found.report["auc"] == pytest.approx(wanted.report["auc"], abs=0.15)
    if kind in (MeanDifference, LDADirection):  # the others choose their regularisation on other rows
        assert float((found.vector * wanted.vector).sum()) > 0.99999
        assert (found.mean, found.sd) == pytest.approx((wanted.mean, wanted.sd), rel=1e-3, abs=1e-3)
        assert found.report["gap"] == pytest.approx(wanted.report["gap"], rel=1e-3)


def test_few_codes_on_disk_are_fitted_in_memory(tmp_path: Path) -> None:
    X, y = two_clouds(60, 48)
    codes = on_disk(tmp_path, X.reshape(60, 3, 4, 4))
    whole = codes._replace(values=torch.tensor(codes.values))
    for estimator in (SVMDirection(), LogisticDirection()):
        found, wanted = (fit_direction("a", each, y.astype(float), estimator) for each in (codes, whole))
        assert torch.equal(found.vector, wanted.vector)
        assert found.report == wanted.report
    pairs = zip(principal_directions(codes, 3), principal_directions(whole, 3), strict=True)
    assert all(torch.equal(found.vector, wanted.vector) for found, wanted in pairs)


def test_principal_directions_of_many_codes_are_found_by_passes(many: None, tmp_path: Path) -> None:
    X, _ = two_clouds(300, 48)
    found = principal_directions(on_disk(tmp_path, X.reshape(300, 3, 4, 4)), 2)
    wanted = PrincipalDirections(2).fit(X)
    for direction, vector, sd in zip(found, wanted.directions_, wanted.sds_, strict=True):
        assert abs(direction.vector.flatten().numpy() @ vector) > 0.999
        assert direction.sd == pytest.approx(sd, rel=1e-3)
        assert direction.report["n"] == 300


def test_what_cannot_be_streamed_is_refused_in_one_sentence(
    many: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = two_clouds(60, 48)
    codes, labels = on_disk(tmp_path, X), y.astype(float)
    with pytest.raises(ArgumentError, match=SENTENCE):
        fit_direction("a", codes, labels, SVMDirection())
    with pytest.raises(DirectionError, match=SENTENCE):
        fit_direction("a", LatentArray(CountedRows(np.ones((60, 48))), X_HOME), labels)  # type: ignore[arg-type]
    with pytest.raises(DirectionError, match="finite"):
        fit_direction("a", LatentArray(CountedRows(np.where(X > 3, np.nan, X)), X_HOME), labels)  # type: ignore[arg-type]
    monkeypatch.setattr(scatter, "WIDEST", 40)
    with pytest.raises(ArgumentError, match="at most 40 numbers"):
        fit_direction("a", codes, labels)
    assert fit_direction("a", codes, labels, MeanDifference()).report["d"] == 48


@pytest.mark.parametrize("some", [[0, 1, 2], [3, 4, 7, 9, 10, 11], [19], [0, 19], []])
def test_picked_rows_are_those_of_their_indices(some: list[int]) -> None:
    values = np.arange(20 * 6, dtype=np.float32).reshape(20, 6)
    rows = CountedRows(values)
    picked = Picked(rows, np.array(some, dtype=np.intp), (1, 2, 3))
    assert picked.shape == (len(some), 1, 2, 3)
    np.testing.assert_array_equal(picked[0 : len(some)], values[some].reshape(-1, 1, 2, 3))
    assert sum(rows.read) == len(some)
    np.testing.assert_array_equal(picked[1:3], values[some[1:3]].reshape(-1, 1, 2, 3))
