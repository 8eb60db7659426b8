"""From codes and labels to a direction that says how well it was found."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import kendalltau
from sklearn.base import clone, is_regressor
from sklearn.model_selection import KFold, StratifiedKFold

from ddim_edit.codes import Codes
from ddim_edit.directions.direction import Direction, unit
from ddim_edit.directions.estimators import (
    LDADirection,
    LogisticDirection,
    MeanDifference,
    RidgeDirection,
    SVMDirection,
)
from ddim_edit.directions.principal import PrincipalDirections
from ddim_edit.errors import ArgumentError, DirectionError

Floats = npt.NDArray[np.float64]


class DirectionEstimator(Protocol):
    """A scikit-learn estimator that fits one direction: `fit(X, y)`, then `direction_` [d] and `intercept_`."""

    direction_: Floats
    intercept_: float

    def fit(self, X: Any, y: Any) -> "DirectionEstimator":
        """Fit to codes [n, d] and labels [n]."""
        ...


METHODS: Mapping[str, type[DirectionEstimator]] = {
    "logistic": LogisticDirection,
    "svm": SVMDirection,
    "mean": MeanDifference,
    "lda": LDADirection,
    "ridge": RidgeDirection,
}
"""Estimators by the names that the command line and the cards use."""


_NOT_MEASURED: dict[str, float | int | None] = {
    "auc": None,
    "auc_sd": None,
    "permuted_auc": None,
    "permuted_sd": None,
    "folds": 0,
}


def fit_direction(
    name: str,
    codes: Codes,
    labels: Floats,
    estimator: DirectionEstimator | None = None,
    *,
    folds: int = 5,
    permutations: int = 5,
    seed: int = 0,
) -> Direction:
    """Fit a direction to codes of one space and measure it by cross-validation; knows nothing of causes.

    AUC is the chance that of two pictures the one with the larger label has the larger projection, held out fold by
    fold; the permutation baseline is the same with shuffled labels, one fold for each shuffle, so about 0.5 is
    nothing. Both come with their standard deviation. The regularisation is chosen once, on all pictures, which
    flatters the AUC a little.

    Args:
        name: of the attribute.
        codes: of n pictures, from `Editor.codes`.
        labels: [n], 0 and 1, or numbers for an estimator that regresses.
        estimator: one with a `direction_`; logistic regression when left out.
        folds: at most so many, fewer where a class is smaller.
        permutations: shuffles for the baseline.
        seed: of folds and shuffles.

    Raises:
        DirectionError: fewer than two pictures, labels all alike, or codes all alike.
        ArgumentError: labels that do not pair up with codes, or are not two classes where the estimator wants that.
    """
    estimator = METHODS["logistic"]() if estimator is None else estimator
    X, continuous = codes.values.flatten(1).numpy(), is_regressor(estimator)
    y = _checked(labels, len(X), continuous)
    fitted = _fitted(estimator, X, y)
    projections = X.astype(np.float64) @ fitted.direction_
    report = {"method": _name_of(estimator), "d": X.shape[1], **_of_labels(y, projections, continuous)}
    return Direction(
        name,
        unit(torch.from_numpy(fitted.direction_).view(codes.values.shape[1:])),
        intercept=float(fitted.intercept_),
        mean=float(projections.mean()),
        sd=float(projections.std()),
        recipe=codes.recipe,
        times=codes.times,
        report=report | _validated(_settled(fitted), X, y, folds, permutations, seed),
    )


def principal_directions(codes: Codes, k: int = 10, seed: int = 0) -> list[Direction]:
    """The k directions along which codes vary most, the first most of all; nobody has said what they mean.

    Each is of length 1 and orthogonal to the others, its sd that of the training projections. They are named pc1, pc2
    and so on; the sign is arbitrary.

    Raises:
        DirectionError: more directions than the pictures vary along.

    Halko, Martinsson, Tropp (2011); for latents Härkönen, Hertzmann, Lehtinen, Paris (2020).
    """
    X = codes.values.flatten(1).numpy()
    fitted = PrincipalDirections(k, random_state=seed).fit(X)
    means = fitted.directions_ @ fitted.mean_
    report = {"method": "principal", "d": X.shape[1], "n": len(X), **_NOT_MEASURED}
    return [
        Direction(
            f"pc{index}",
            unit(torch.from_numpy(vector).view(codes.values.shape[1:])),
            intercept=-float(mean),
            mean=float(mean),
            sd=float(sd),
            recipe=codes.recipe,
            times=codes.times,
            report=report,
        )
        for index, (vector, mean, sd) in enumerate(zip(fitted.directions_, means, fitted.sds_, strict=True), 1)
    ]


def _checked(labels: Floats, n: int, continuous: bool) -> Floats:
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


def _fitted(estimator: DirectionEstimator, X: Any, y: Floats) -> DirectionEstimator:
    try:
        return clone(estimator).fit(X, y)  # type: ignore[no-any-return]
    except ValueError as error:  # the estimators' own, as scikit-learn has it
        given = f"{len(y)} in which no direction tells the labels apart"
        raise DirectionError("codes that differ with the label", given, "add other pictures") from error


def _of_labels(y: Floats, projections: Floats, continuous: bool) -> dict[str, Any]:
    """How many pictures of each kind, and how far apart their projections are on average."""
    if continuous:
        return {"n": len(y), "label_mean": float(y.mean()), "label_sd": float(y.std())}
    positive = y == y.max()
    gap = float(projections[positive].mean() - projections[~positive].mean())
    return {"n": len(y), "positive": int(positive.sum()), "negative": int((~positive).sum()), "gap": gap}


def _name_of(estimator: DirectionEstimator) -> str:
    return next((name for name, kind in METHODS.items() if kind is type(estimator)), type(estimator).__name__)


def _settled(fitted: DirectionEstimator) -> DirectionEstimator:
    """The estimator with the regularisation that it chose, so that no fold pays for the choice again."""
    searched = {"Cs": "C_", "alphas": "alpha_"}
    chosen = {grid: (getattr(fitted, found),) for grid, found in searched.items() if hasattr(fitted, found)}
    settled: DirectionEstimator = clone(fitted).set_params(**chosen)
    return settled


def _validated(
    estimator: DirectionEstimator, X: Any, y: Floats, folds: int, permutations: int, seed: int
) -> dict[str, float | int | None]:
    continuous = is_regressor(estimator)
    smallest = len(y) // 2 if continuous else int(np.unique(y, return_counts=True)[1].min())
    k = min(folds, smallest)
    if k < 2:  # a handful: too few to hold any out
        return _NOT_MEASURED
    splitter = (KFold if continuous else StratifiedKFold)(k, shuffle=True, random_state=seed)
    rng = np.random.default_rng(seed)
    aucs = [_held_out_auc(estimator, X, y, *split) for split in splitter.split(X, y)]
    # Folds are made anew for each shuffle, so that both classes are on both sides however few pictures there are.
    shuffles = [rng.permutation(y) for _ in range(permutations)]
    permuted = [_held_out_auc(estimator, X, z, *list(splitter.split(X, z))[i % k]) for i, z in enumerate(shuffles)]
    return {
        "auc": float(np.mean(aucs)),
        "auc_sd": float(np.std(aucs)),
        "permuted_auc": float(np.mean(permuted)) if permuted else None,
        "permuted_sd": float(np.std(permuted)) if permuted else None,
        "folds": k,
    }


def _held_out_auc(estimator: DirectionEstimator, X: Any, y: Floats, train: Any, test: Any) -> float:
    try:
        fitted = _fitted(estimator, X[train], y[train])
    except DirectionError:  # what learns nothing from its pictures knows nothing of others
        return 0.5
    return concordance(y[test], X[test] @ fitted.direction_)


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
