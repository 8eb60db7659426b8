"""What is said of a fit: its labels in numbers, and how often the larger label has the larger projection."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

from ddim_edit.errors import ArgumentError, DirectionError

Floats = npt.NDArray[np.float64]
Measured = dict[str, float | int | None]

NOT_MEASURED: Measured = {
    "auc": None,
    "auc_sd": None,
    "permuted_auc": None,
    "permuted_sd": None,
    "folds": 0,
}


class Trial(NamedTuple):
    """How to measure a fit: at most so many folds, shuffles for the baseline, and the seed of both."""

    folds: int
    permutations: int
    seed: int


class Found(NamedTuple):
    """A direction [d] with its intercept, the projections [n] of the codes it was fitted to, and how well it holds."""

    direction: Floats
    intercept: float
    projections: Floats
    measured: Measured


def summary(aucs: Sequence[float], permuted: Sequence[float], folds: int) -> Measured:
    """Means and standard deviations of the AUC and of its baseline."""
    return {
        "auc": float(np.mean(aucs)),
        "auc_sd": float(np.std(aucs)),
        "permuted_auc": float(np.mean(permuted)) if permuted else None,
        "permuted_sd": float(np.std(permuted)) if permuted else None,
        "folds": folds,
    }


def check_labels(labels: Floats, n: int, continuous: bool) -> Floats:
    """Labels [n] as float64.

    Raises:
        ArgumentError: another number of labels, some that are not finite, or more than two values for a classifier.
        DirectionError: labels all alike.
    """
    y = np.asarray(labels, dtype=np.float64)
    if y.shape != (n,) or not np.isfinite(y).all():
        raise ArgumentError(f"{n} finite labels, one for each picture", f"labels of shape {y.shape}", "pair them up")
    values = np.unique(y)
    if len(values) < 2:
        raise DirectionError("labels that differ", f"{n} of one kind", "add pictures of the other kind")
    if len(values) > 2 and not continuous:
        given = f"{len(values)} different ones"
        raise ArgumentError("labels of two classes", given, "say which are positive, or fit a ridge direction")
    return y


def of_labels(y: Floats, projections: Floats, continuous: bool) -> dict[str, Any]:
    """How many pictures of each kind, and how far apart their projections are on average."""
    if continuous:
        return {"n": len(y), "label_mean": float(y.mean()), "label_sd": float(y.std())}
    positive = y == y.max()
    gap = float(projections[positive].mean() - projections[~positive].mean())
    return {"n": len(y), "positive": int(positive.sum()), "negative": int((~positive).sum()), "gap": gap}


def concordance(labels: Floats, scores: Floats) -> float:
    """The chance that the larger label has the larger score, ties counting half: ROC AUC where labels are two classes.

    (1 + D) / 2 with Somers' D = tau_b sqrt(pairs untied in score / pairs untied in label); 1/2 where all are tied.

    Somers (1962).
    """
    untied_labels, untied_scores = _untied(labels), _untied(scores)
    if not untied_labels or not untied_scores:
        return 0.5
    tau = kendalltau(labels, scores).statistic
    return float((1 + tau * np.sqrt(untied_scores / untied_labels)) / 2)


def _untied(values: Floats) -> float:
    counts = np.unique(values, return_counts=True)[1]
    n = len(values)
    return float(n * (n - 1) - (counts * (counts - 1)).sum())
