"""Directions in which samples vary most, without labels."""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh, qr
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted, validate_data

from ddim_edit.directions.rows import ROOM, Rows, Stream
from ddim_edit.directions.sample_space import Array

_SPARE, _ROUNDS = 10, 8


class PrincipalDirections(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The orthogonal directions of largest variance, by randomised PCA; what they mean, and their signs, are chance.

    Args:
        n_components: how many, fewer where there are fewer samples or dimensions.
        random_state: of the random projection.

    Attributes:
        directions_: unit vectors [k, d], largest variance first.
        sds_: standard deviations [k] of the training projections.
        mean_: of the training samples, [d].

    Halko, Martinsson, Tropp (2011); for latents Härkönen, Hertzmann, Lehtinen, Paris (2020).
    """

    def __init__(self, n_components: int = 10, *, random_state: int | None = 0) -> None:
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Fit to samples X [n, d]; y is not looked at."""
        rows = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        kept = min(self.n_components, *rows.shape)
        pca = PCA(kept, svd_solver="randomized", random_state=self.random_state).fit(rows)
        self.directions_, self.mean_ = pca.components_, pca.mean_
        self.sds_ = np.sqrt(pca.explained_variance_)
        return self

    def transform(self, X: ArrayLike) -> Array:
        """The projections [n, k] of X [n, d], measured from the mean."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        projections: Array = (rows - self.mean_) @ self.directions_.T
        return projections

    @property
    def _n_features_out(self) -> int:
        return len(self.directions_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class Leading(NamedTuple):
    """Directions of largest variance: unit vectors [k, d], their standard deviations [k], and the mean [d]."""

    directions: Array
    sds: Array
    mean: Array


def leading_of_rows(rows: Rows, k: int, seed: int, room: int = ROOM) -> Leading:
    """What `PrincipalDirections` finds, in rows on disk, by ten passes; memory is three blocks and k + 10 directions.

    Subspace iteration Q <- orth(U^T U Q) from random Q [d, k + 10], then the eigenvectors of Q^T U^T U Q.

    Halko, Martinsson, Tropp (2011).
    """
    stream = Stream.of(rows, False, room)
    width = min(k + _SPARE, len(rows), stream.d)
    images = np.random.default_rng(seed).standard_normal((stream.d, width))
    for _ in range(_ROUNDS):
        basis, _ = qr(images, mode="economic")
        images = stream.gather(basis, lambda _, scores: scores)
    variances, turn = eigh(basis.T @ images)
    kept = slice(-1, -min(k, width) - 1, -1)
    sds = np.sqrt(variances[kept].clip(0) / (len(rows) - 1)) * stream.scale[0]
    return Leading((basis @ turn[:, kept]).T, sds, stream.mean)
