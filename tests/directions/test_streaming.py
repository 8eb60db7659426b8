"""Fits to rows on disk: the optimum of the fit in memory, from bounded blocks and a bounded number of passes."""

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
from ddim_edit.directions import PickedRows, fitting, streaming
from ddim_edit.directions.linear_models import standardize_samples
from ddim_edit.directions.streaming import MomentFactor, RowStream
from ddim_edit.directions.validation import Validation, fit_on_disk

from .homes import X_HOME
from .samples import planted, two_clouds

SENTENCE = r"^[^\n]+$"
NO_VALIDATION = Validation(0, 0, 0)
SHAPES = [(300, 20), (60, 90)]
"""More samples than dimensions, and fewer."""
FITS = [
    (MeanDifference(), (300, 20), 1 - 1e-9),
    (MeanDifference(standardize=True), (60, 90), 1 - 1e-9),
    (RidgeDirection([1e-3]), (60, 90), 1 - 1e-6),
    (RidgeDirection([1e-3]), (300, 20), 1 - 1e-6),
    (RidgeDirection([1.0], standardize=False), (300, 20), 1 - 1e-6),
    (LDADirection(), (300, 20), 1 - 1e-6),
    (LDADirection(), (60, 90), 1 - 1e-6),
    (LDADirection(0.05, standardize=False), (60, 90), 1 - 1e-6),
    (LogisticDirection([0.01], tol=1e-9), (60, 90), 1 - 1e-4),
    (LogisticDirection([10.0], tol=1e-9), (60, 90), 1 - 1e-3),
    (LogisticDirection([10.0], tol=1e-9), (300, 20), 1 - 1e-3),
]
STREAMED = [MeanDifference, RidgeDirection, LDADirection, LogisticDirection]


class CountedRows:
    """Rows in memory that remember every slice that was read."""

    def __init__(self, values: NDArray[np.floating]) -> None:
        self.values = values.astype(np.float32)
        self.shape = self.values.shape
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, where: slice, /) -> NDArray[np.float32]:
        assert isinstance(where, slice)
        found = self.values[where]
        self.read.append(len(found))
        return found

    @property
    def passes(self) -> float:
        return sum(self.read) / len(self)


@pytest.mark.parametrize(("estimator", "shape", "cosine"), FITS, ids=repr)
def test_streamed_fit_equals_fit_in_memory(estimator: Any, shape: tuple[int, int], cosine: float) -> None:
    """For blocks of any size."""
    X, y = two_clouds(*shape)
    wanted = clone(estimator).fit(X, y)
    for block_size in (500, 100_000):
        found = fit_on_disk(estimator, CountedRows(X), y.astype(float), np.arange(len(X)), NO_VALIDATION, block_size)
        direction = found.estimator.direction_
        assert direction @ wanted.direction_ > cosine
        assert np.linalg.norm(direction) == pytest.approx(1)
        spread = found.projections.std()
        np.testing.assert_allclose(found.projections, X @ direction, atol=1e-4 * spread)
        tolerance = 2 * np.sqrt(1 - cosine) * spread + 1e-5
        assert found.estimator.intercept_ == pytest.approx(wanted.intercept_, abs=tolerance)


@pytest.mark.parametrize("kind", STREAMED)
def test_only_whole_passes_in_blocks_are_read(kind: Any) -> None:
    """With the choice of a regularisation and the validation included."""
    X, y = two_clouds(400, 20)
    rows = CountedRows(X)
    fit_on_disk(kind(), rows, y.astype(float), np.arange(len(X)), Validation(5, 2, 0), block_size=20 * 30)
    assert max(rows.read) == 30
    assert rows.passes == round(rows.passes)
    assert rows.passes < 300
    if kind is MeanDifference:
        assert rows.passes == 5 + 2  # one for each shuffle


def test_second_moments_of_a_growing_sample_read_each_row_once() -> None:
    X, _ = two_clouds(90, 7)
    rows = CountedRows(X)
    stream = RowStream(rows, standardize=True, block_size=70)
    units = np.concatenate([block.copy() for _, block in stream.blocks()]).astype(float)
    first = np.arange(90) % 3 == 0
    for some in (first, ~first):
        stream.use(some)
        expected = units[stream.used].T @ units[stream.used]
        np.testing.assert_allclose(stream.second_moments, np.tril(expected), atol=1e-5)
    before = rows.passes
    assert stream.squared_moments() == pytest.approx(np.square(units.T @ units).sum(), rel=1e-5)
    assert rows.passes == before
    lower = MomentFactor(stream.second_moments, 2.0, 3.0).lower.astype(float)
    floor = 1e-4 * 2 * np.square(units).sum() / 7
    np.testing.assert_allclose(lower @ lower.T, 2 * units.T @ units + (3 + floor) * np.eye(7), atol=1e-4)


@pytest.mark.parametrize("standardize", [False, True])
def test_streams_are_standardised_as_samples_in_memory(standardize: bool) -> None:
    X, _ = two_clouds(90, 7)
    X = np.insert(X, 3, 0.1, axis=1)
    stream = RowStream(CountedRows(X), standardize, block_size=40)
    rows, units = standardize_samples(X.astype(np.float32), standardize)
    np.testing.assert_allclose(np.concatenate([block.copy() for _, block in stream.blocks()]), rows, atol=1e-5)
    np.testing.assert_allclose(stream.units.scale, units.scale, rtol=1e-6)


# As in test_estimators_planted: the means differ by the shift and by noise of squared length 4 D / N. LDA has to learn
# the covariance too, which that many rows tell well enough.
@pytest.mark.parametrize("kind", [MeanDifference, LDADirection])
def test_a_planted_direction_is_found_as_well_as_possible(kind: Any) -> None:
    n, d, shift = 4_000, 200, 1.5
    X, pushes, u = planted(n, d, np.tile([-0.5, 0.5], n // 2) * shift)
    found = fit_on_disk(
        kind(), CountedRows(X), (pushes > 0).astype(float), np.arange(len(X)), Validation(5, 5, 0), block_size=2**14
    )
    best = shift / np.sqrt(shift**2 + 4 * d / n)
    assert found.estimator.direction_ @ u == pytest.approx(best, abs=0.02)
    # Nine tenths to learn from, one tenth, 400 rows, to be measured on.
    learnt = shift / np.sqrt(shift**2 + 4 * d / (0.9 * n))
    assert found.scores["auc"] == pytest.approx(norm.cdf(shift * learnt / np.sqrt(2)), abs=3 * 0.02)


@pytest.mark.parametrize("kind", STREAMED)
def test_held_out_rows_are_never_learnt_from(kind: Any) -> None:
    """Noise in more dimensions than samples is told apart by heart, and held out by chance alone."""
    X = np.random.default_rng(0).standard_normal((400, 600))
    y = np.arange(400) % 2.0
    scores = fit_on_disk(kind(), CountedRows(X), y, np.arange(len(X)), Validation(4, 30, 0), block_size=2**14).scores
    assert scores["auc"] == pytest.approx(0.5, abs=3 * 0.092)  # of 20 against 20
    assert scores["permuted_auc"] == pytest.approx(0.5, abs=3 * 0.092 / np.sqrt(30) + 0.02)
    assert scores["folds"] == 1


def test_the_regularisation_is_chosen_on_other_rows() -> None:
    X, _ = two_clouds(600, 12)
    noise, line = np.random.default_rng(3).standard_normal(600), X[:, 0]
    for y, alpha in ((noise, 1e4), (line, 1e-3)):
        estimator = RidgeDirection([1e-3, 1.0, 1e4])
        found = fit_on_disk(estimator, CountedRows(X), y, np.arange(len(X)), NO_VALIDATION, block_size=2**12)
        assert found.estimator.direction_ @ RidgeDirection([alpha]).fit(X, y).direction_ > 1 - 1e-6


def test_a_rare_class_gets_the_strongest_regularisation_and_no_score() -> None:
    X, _ = two_clouds(200, 20)
    y = (np.arange(200) < 7).astype(float)
    estimator = LogisticDirection([10.0, 0.1])
    found = fit_on_disk(estimator, CountedRows(X), y, np.arange(len(X)), Validation(5, 5, 0), block_size=2**10)
    assert found.estimator.direction_ @ LogisticDirection([0.1], tol=1e-9).fit(X, y).direction_ > 0.999
    assert found.scores["auc"] is None
    assert found.scores["folds"] == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_streamed_principal_directions_are_singular_vectors(shape: tuple[int, int]) -> None:
    X, _ = two_clouds(*shape)
    rows = CountedRows(X)
    found = PrincipalDirections(3).fit_stream(RowStream(rows, standardize=False, block_size=500))
    _, spread, vectors = np.linalg.svd(X - X.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(found.directions_ * vectors[:3], 1)), 1, atol=1e-3)
    np.testing.assert_allclose(found.sds_, spread[:3] / np.sqrt(len(X) - 1), rtol=1e-4)
    np.testing.assert_allclose(found.mean_, X.mean(0), atol=1e-5)
    assert max(rows.read) <= 500 // shape[1]


def on_disk(folder: Path, values: NDArray[Any]) -> LatentArray:
    """Return latents whose values are a mapped file."""
    file = np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float32, values.shape)
    file[:] = values
    file.flush()
    return LatentArray(np.load(folder / "latents.npy", mmap_mode="r"), X_HOME)  # type: ignore[arg-type]


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "IN_MEMORY", 1000)


@pytest.mark.parametrize("kind", STREAMED)
def test_latents_on_disk_give_the_direction_of_those_in_memory(kind: Any, little_memory: None, tmp_path: Path) -> None:
    X, y = two_clouds(300, 48)
    latents = on_disk(tmp_path, X.reshape(300, 3, 4, 4))
    found = fit_direction("a", latents, y.astype(float), kind())
    wanted = fit_direction("a", latents._replace(values=torch.tensor(latents.values)), y.astype(float), kind())
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


def test_few_latents_on_disk_are_fitted_in_memory(tmp_path: Path) -> None:
    X, y = two_clouds(60, 48)
    latents = on_disk(tmp_path, X.reshape(60, 3, 4, 4))
    whole = latents._replace(values=torch.tensor(latents.values))
    found, wanted = (fit_direction("a", each, y.astype(float), "svm") for each in (latents, whole))
    assert torch.equal(found.vector, wanted.vector)
    assert found.report == wanted.report
    pairs = zip(principal_directions(latents, 3), principal_directions(whole, 3), strict=True)
    assert all(torch.equal(found.vector, wanted.vector) for found, wanted in pairs)


def test_principal_directions_of_many_latents_are_found_in_passes(little_memory: None, tmp_path: Path) -> None:
    X, _ = two_clouds(300, 48)
    found = principal_directions(on_disk(tmp_path, X.reshape(300, 3, 4, 4)), 2)
    wanted = PrincipalDirections(2).fit(X)
    for direction, vector, sd in zip(found, wanted.directions_, wanted.sds_, strict=True):
        assert abs(direction.vector.flatten().numpy() @ vector) > 0.999
        assert direction.sd == pytest.approx(sd, rel=1e-3)
        assert direction.report["n"] == 300


def test_fits_that_cannot_be_streamed_are_refused(
    little_memory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = two_clouds(60, 48)
    latents, labels = on_disk(tmp_path, X), y.astype(float)
    with pytest.raises(ArgumentError, match="choose one of lda, logistic, mean, ridge"):
        fit_direction("a", latents, labels, SVMDirection())
    with pytest.raises(DirectionError, match=SENTENCE):
        fit_direction("a", LatentArray(CountedRows(np.ones((60, 48))), X_HOME), labels)  # type: ignore[arg-type]
    with pytest.raises(DirectionError, match="finite"):
        fit_direction("a", LatentArray(CountedRows(np.where(X > 3, np.nan, X)), X_HOME), labels)  # type: ignore[arg-type]
    monkeypatch.setattr(streaming, "WIDEST", 40)
    with pytest.raises(ArgumentError, match="at most 40 numbers"):
        fit_direction("a", latents, labels)
    assert fit_direction("a", latents, labels, MeanDifference()).report["d"] == 48


@pytest.mark.parametrize("some", [[0, 1, 2], [3, 4, 7, 9, 10, 11], [0, 19], []])
def test_picked_rows_are_those_of_their_indices(some: list[int]) -> None:
    values = np.arange(20 * 6, dtype=np.float32).reshape(20, 6)
    rows = CountedRows(values)
    picked = PickedRows(rows, np.array(some, dtype=np.intp), (1, 2, 3))
    assert picked.shape == (len(some), 1, 2, 3)
    np.testing.assert_array_equal(picked[0 : len(some)], values[some].reshape(-1, 1, 2, 3))
    assert sum(rows.read) == len(some)
    np.testing.assert_array_equal(picked[1:3], values[some[1:3]].reshape(-1, 1, 2, 3))
