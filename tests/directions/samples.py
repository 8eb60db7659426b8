"""Samples with a known direction in them."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def planted(n: int, d: int, pushes: Array, seed: int = 0) -> tuple[Array, Array, Array]:
    """White noise [n, d] with row i pushed by pushes[i] along a random unit vector u; the samples, the pushes, u."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal(d)
    u /= np.linalg.norm(u)
    return rng.standard_normal((n, d)) + np.outer(pushes, u), pushes, u


def two_clouds(n: int, d: int, seed: int = 0) -> tuple[Array, NDArray[np.int64]]:
    """Correlated samples [n, d] of uneven columns, off the origin, in two overlapping classes of unequal size."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 5 < 2).astype(np.int64)
    X = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / np.sqrt(d) + np.outer(y, rng.standard_normal(d)) / 2
    return X * rng.uniform(0.5, 2, d) + rng.standard_normal(d), y
