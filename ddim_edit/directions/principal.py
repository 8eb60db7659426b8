"""Directions of largest variance, without labels."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh, qr
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted, validate_data

from ddim_edit.directions.linear_models import DTYPES, Array
from ddim_edit.directions.streaming import RowStream


class PrincipalDirections(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The orthogonal directions of largest variance, by randomised PCA; their signs are arbitrary.

    Args:
        n_components: how many, fewer where there are fewer samples or dimensions.
        random_state: of the random projection.

    Attributes:
        directions_: unit vectors [k, d], largest variance first.
        sds_: standard deviations [k] of the training projections.
        mean_: of the training samples, [d].

    References:
        Halko, Martinsson, Tropp, "Finding Structure with Randomness", SIAM Review 53, 2011, arXiv:0909.4061.
        Härkönen, Hertzmann, Lehtinen, Paris, "GANSpace: Discovering Interpretable GAN Controls", NeurIPS 2020,
        arXiv:2004.02546.
    """

    def __init__(self, n_components: int = 10, *, random_state: int | None = 0) -> None:
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Fit to samples X [n, d]; y is ignored."""
        rows = validate_data(self, X, dtype=DTYPES, ensure_min_samples=2)
        kept = min(self.n_components, *rows.shape)
        pca = PCA(kept, svd_solver="randomized", random_state=self.random_state).fit(rows)
        self.directions_, self.mean_ = pca.components_, pca.mean_
        self.sds_ = np.sqrt(pca.explained_variance_)
        return self

    def fit_stream(self, stream: RowStream) -> Self:
        """Fit to all rows of a stream that is not standardised, in ten passes.

        Subspace iteration Q <- orth(U^T U Q) from random Q [d, k + 10], then the eigenvectors of Q^T U^T U Q. Memory is
        three blocks and k + 10 directions.
        """
        # Ten spare directions and eight rounds, where randomised PCA in memory has ten and up to seven.
        width = min(self.n_components + 10, len(stream), stream.d)
        products = np.random.default_rng(self.random_state).standard_normal((stream.d, width))
        for _ in range(8):
            basis, _ = qr(products, mode="economic")
            products = stream.gather(basis, lambda _, scores: scores)
        variances, turn = eigh(basis.T @ products)
        largest_first = slice(-1, -min(self.n_components, width) - 1, -1)
        self.directions_ = (basis @ turn[:, largest_first]).T
        # Rounding can leave a variance of zero slightly negative.
        self.sds_ = np.sqrt(variances[largest_first].clip(0) / (len(stream) - 1)) * stream.units.scale[0]
        self.mean_ = stream.units.mean
        return self

    def transform(self, X: ArrayLike) -> Array:
        """Return the projections [n, k] of X [n, d], measured from the mean."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=DTYPES)
        projections: Array = (rows - self.mean_) @ self.directions_.T
        return projections

    @property
    def _n_features_out(self) -> int:
        return len(self.directions_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
