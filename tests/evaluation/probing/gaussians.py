"""Two classes of which the best possible probe is known."""

import numpy as np
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def classes(n: int, seed: int = 0, positives: float = 0.5) -> np.ndarray:
    """Labels [n] of 0 and 1."""
    labels = np.zeros(n)
    labels[: round(positives * n)] = 1
    return np.random.default_rng(seed).permutation(labels)


def apart(labels: np.ndarray, distance: float, d: int = 20, seed: int = 1) -> np.ndarray:
    """Codes N(0, I) [n, d], those of class 1 moved by the distance along the diagonal."""
    noise = np.random.default_rng(seed).standard_normal((len(labels), d))
    return noise + distance * labels[:, None] / d**0.5


def best_accuracy(distance: float) -> float:
    """Of the hyperplane half way between the means, on either class."""
    return float(norm.cdf(distance / 2))


def best_auc(distance: float) -> float:
    """Chance that a sample of class 1 lies further along than one of class 0."""
    return float(norm.cdf(distance / 2**0.5))


def logistic() -> Pipeline:
    """A quick probe that minds both classes alike, however rare one is."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced"))
