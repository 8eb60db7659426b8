"""scikit-learn's own checks of `LatentEncoder`, and what its pipelines and searches ask of it."""

from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from ddim_edit import LatentEncoder, Model, encoder, load_model
from ddim_edit.directions import LogisticDirection, RidgeDirection, SVMDirection

from .. import tiny

LOOKS_AT_NOTHING = "fit looks at nothing: what is no image is refused by transform"
TAKES_IMAGES = "images have no number of features, which a table must keep"
EXPECTED = {
    "check_complex_data": LOOKS_AT_NOTHING,
    "check_estimator_sparse_tag": LOOKS_AT_NOTHING,
    "check_estimators_empty_data_messages": LOOKS_AT_NOTHING,
    "check_estimators_nan_inf": LOOKS_AT_NOTHING,
    "check_fit1d": LOOKS_AT_NOTHING,
    "check_fit2d_predict1d": TAKES_IMAGES,
    "check_n_features_in": TAKES_IMAGES,
    "check_n_features_in_after_fitting": TAKES_IMAGES,
}
"""The checks of tables that an encoder of images fails, and why."""


@cache
def tiny_model() -> Model:
    with TemporaryDirectory() as folder:
        return load_model(tiny.save_model(Path(folder)), "cpu", "float32")


class _TinyModel(encoder._SharedModel):
    def get(self, *chosen: object) -> Model:
        return tiny_model()


class TableEncoder(LatentEncoder):
    """An encoder of pictures that are made of the rows of a table, the only input that the checks know."""

    @cached_property
    def _shared(self) -> encoder._SharedModel:
        return _TinyModel()

    def transform(self, X: Any) -> Any:
        rows = np.tanh(np.asarray(X, dtype=np.float64))
        pixels = [np.resize([row, -row], (3, tiny.SIZE, tiny.SIZE)) for row in rows]
        return super().transform(np.stack(pixels))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


# In batches of one, since in others the network rounds differently.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [TableEncoder(steps=1, dequantise=None, batch_size=1)], expected_failed_checks=lambda estimator: EXPECTED
)
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The models that encoders load."""
    names: list[object] = []

    def load(name: object, *options: Any) -> Model:
        names.append(name)
        return tiny_model()

    monkeypatch.setattr(encoder, "load_model", load)
    return names


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([tiny.pixels(seed) for seed in range(8)])


LABELS = np.arange(8) % 2


def test_a_search_over_level_and_regularisation_loads_one_network(loads: list[object], images: np.ndarray) -> None:
    pipeline = make_pipeline(LatentEncoder(steps=2), LogisticDirection())
    grid = {"latentencoder__level": ["0.2T", "0.6T"], "logisticdirection__C": [0.1, 10.0]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(images, LABELS)
    assert set(search.best_params_) == set(grid)
    assert len(search.cv_results_["params"]) == 4
    assert len(loads) == 1
    clone(pipeline).set_params(latentencoder__model="another").fit(images, LABELS)
    assert loads == [None, "another"]


def test_tables_have_named_columns(loads: list[object], images: np.ndarray) -> None:
    pandas = pytest.importorskip("pandas")
    made = LatentEncoder(steps=2).set_output(transform="pandas")
    with pytest.raises(NotFittedError, match="Transform some"):
        made.get_feature_names_out()
    table = clone(made).fit_transform(images)
    assert isinstance(table, pandas.DataFrame)
    width = 3 * tiny.SIZE**2
    assert list(table.columns) == list(made.get_feature_names_out()) == [f"latent{i}" for i in range(width)]
    np.testing.assert_array_equal(table.to_numpy(), LatentEncoder(steps=2).transform(images))
    at_h = clone(made).set_params(level="h")
    assert len(at_h.fit_transform(images).columns) == len(at_h.get_feature_names_out()) != width


@pytest.mark.parametrize(("kind", "chosen"), [(LogisticDirection, "C"), (SVMDirection, "C"), (RidgeDirection, "alpha")])
def test_one_regularisation_is_a_list_of_one(kind: Any, chosen: str) -> None:
    X = np.random.default_rng(0).standard_normal((30, 45))
    y = X[:, 0] > 0
    one, listed = kind(**{chosen: 3.0}).fit(X, y), kind([3.0]).fit(X, y)
    np.testing.assert_array_equal(one.direction_, listed.direction_)
    assert getattr(one, f"{chosen}_") == 3.0
    assert {getattr(each, chosen) for each in kind([10.0, 1.0]).candidates()} == {1.0, 10.0}
    searched = kind([10.0, 1.0]).fit(X, y)
    assert getattr(searched.settled(), chosen) == getattr(searched, f"{chosen}_")
