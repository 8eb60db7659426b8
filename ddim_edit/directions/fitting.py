"""From codes and labels to a direction that says how well it was found."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone, is_regressor
from sklearn.model_selection import KFold, StratifiedKFold
from torch import Tensor

from ddim_edit.directions import streamed
from ddim_edit.directions.direction import Direction, unit
from ddim_edit.directions.estimators import (
    LDADirection,
    LogisticDirection,
    MeanDifference,
    RidgeDirection,
    SVMDirection,
)
from ddim_edit.directions.measuring import (
    NOT_MEASURED,
    Floats,
    Found,
    Measured,
    Trial,
    check_labels,
    concordance,
    of_labels,
    summary,
)
from ddim_edit.directions.principal import Leading, PrincipalDirections, leading_of_rows
from ddim_edit.directions.rows import Rows
from ddim_edit.errors import DirectionError
from ddim_edit.latents.cache import LatentArray

IN_MEMORY = 2**26
"""Numbers in all that codes on disk are still read into memory for; above, they are fitted in passes."""


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


def fit_direction(
    name: str,
    codes: LatentArray,
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

    Codes whose `values` are `Rows` on disk, such as a `numpy.memmap` [n, C, H, W] or the rows of a store, are fitted in
    passes and bounded memory where they are many (over 2^26 numbers): there one tenth chooses the regularisation and
    another one, of which neither has been seen, gives the AUC, so that `folds` is 1 in the report.

    Args:
        name: of the attribute.
        codes: of n pictures, from `Editor.latents_at`, or on disk.
        labels: [n], 0 and 1, or numbers for an estimator that regresses.
        estimator: one with a `direction_`; logistic regression when left out.
        folds: at most so many, fewer where a class is smaller.
        permutations: shuffles for the baseline.
        seed: of folds and shuffles.

    Raises:
        DirectionError: fewer than two pictures, labels all alike, or codes all alike.
        ArgumentError: labels that do not pair up with codes, or are not two classes where the estimator wants that; an
            estimator that cannot fit in passes, or codes too wide for that.
    """
    estimator = METHODS["logistic"]() if estimator is None else estimator
    n, *shape = codes.values.shape
    continuous = is_regressor(estimator)
    y, trial = check_labels(labels, n, continuous), Trial(folds, permutations, seed)
    find, X = _way(codes)
    found = find(estimator, X, y, trial)
    report = {"method": _name_of(estimator), "d": math.prod(shape), **of_labels(y, found.projections, continuous)}
    return Direction(
        name,
        unit(torch.from_numpy(found.direction).view(shape)),
        intercept=float(found.intercept),
        mean=float(found.projections.mean()),
        sd=float(found.projections.std()),
        recipe=codes.recipe,
        times=codes.times,
        report=report | found.measured,
    )


def principal_directions(codes: LatentArray, k: int = 10, seed: int = 0) -> list[Direction]:
    """The k directions along which codes vary most, the first most of all; nobody has said what they mean.

    Each is of length 1 and orthogonal to the others, its sd that of the training projections. They are named pc1, pc2
    and so on; the sign is arbitrary.

    Raises:
        DirectionError: more directions than the pictures vary along.

    Halko, Martinsson, Tropp (2011); for latents Härkönen, Hertzmann, Lehtinen, Paris (2020).
    """
    n, *shape = codes.values.shape
    leading = _leading(codes, k, seed)
    means = leading.directions @ leading.mean
    report = {"method": "principal", "d": math.prod(shape), "n": n, **NOT_MEASURED}
    return [
        Direction(
            f"pc{index}",
            unit(torch.from_numpy(vector).view(shape)),
            intercept=-float(mean),
            mean=float(mean),
            sd=float(sd),
            recipe=codes.recipe,
            times=codes.times,
            report=report,
        )
        for index, (vector, mean, sd) in enumerate(zip(leading.directions, means, leading.sds, strict=True), 1)
    ]


def _leading(codes: LatentArray, k: int, seed: int) -> Leading:
    values = cast("Tensor | Rows", codes.values)
    if not isinstance(values, Tensor) and math.prod(values.shape) > IN_MEMORY:
        return leading_of_rows(values, k, seed)
    X = values.flatten(1).numpy() if isinstance(values, Tensor) else _loaded(values)
    fitted = PrincipalDirections(k, random_state=seed).fit(X)
    return Leading(fitted.directions_, fitted.sds_, fitted.mean_)


def _way(codes: LatentArray) -> tuple[Callable[[Any, Any, Floats, Trial], Found], Any]:
    """How to find a direction in these codes, and the codes as that wants them."""
    values = cast("Tensor | Rows", codes.values)
    if isinstance(values, Tensor):
        return _find, values.flatten(1).numpy()
    if math.prod(values.shape) > IN_MEMORY:
        return streamed.find, values
    return _find, _loaded(values)


def _loaded(rows: Rows) -> NDArray[np.float32]:
    return np.array(rows[0 : len(rows)]).reshape(len(rows), -1)


def _find(estimator: DirectionEstimator, X: Any, y: Floats, trial: Trial) -> Found:
    fitted = _fitted(estimator, X, y)
    projections = X.astype(np.float64) @ fitted.direction_
    return Found(fitted.direction_, fitted.intercept_, projections, _validated(_settled(fitted), X, y, *trial))


def _fitted(estimator: DirectionEstimator, X: Any, y: Floats) -> DirectionEstimator:
    try:
        return clone(estimator).fit(X, y)  # type: ignore[no-any-return]
    except ValueError as error:  # the estimators' own, as scikit-learn has it
        given = f"{len(y)} in which no direction tells the labels apart"
        raise DirectionError("codes that differ with the label", given, "add other pictures") from error


def _name_of(estimator: DirectionEstimator) -> str:
    return next((name for name, kind in METHODS.items() if kind is type(estimator)), type(estimator).__name__)


def _settled(fitted: DirectionEstimator) -> DirectionEstimator:
    """The estimator with the regularisation that it chose, so that no fold pays for the choice again."""
    searched = {"Cs": "C_", "alphas": "alpha_"}
    chosen = {grid: (getattr(fitted, found),) for grid, found in searched.items() if hasattr(fitted, found)}
    settled: DirectionEstimator = clone(fitted).set_params(**chosen)
    return settled


def _validated(estimator: DirectionEstimator, X: Any, y: Floats, folds: int, permutations: int, seed: int) -> Measured:
    continuous = is_regressor(estimator)
    smallest = len(y) // 2 if continuous else int(np.unique(y, return_counts=True)[1].min())
    k = min(folds, smallest)
    if k < 2:  # a handful: too few to hold any out
        return NOT_MEASURED
    splitter = (KFold if continuous else StratifiedKFold)(k, shuffle=True, random_state=seed)
    rng = np.random.default_rng(seed)
    aucs = [_held_out_auc(estimator, X, y, *split) for split in splitter.split(X, y)]
    # Folds are made anew for each shuffle, so that both classes are on both sides however few pictures there are.
    shuffles = [rng.permutation(y) for _ in range(permutations)]
    permuted = [_held_out_auc(estimator, X, z, *list(splitter.split(X, z))[i % k]) for i, z in enumerate(shuffles)]
    return summary(aucs, permuted, k)


def _held_out_auc(estimator: DirectionEstimator, X: Any, y: Floats, train: Any, test: Any) -> float:
    try:
        fitted = _fitted(estimator, X[train], y[train])
    except DirectionError:  # what learns nothing from its pictures knows nothing of others
        return 0.5
    return concordance(y[test], X[test] @ fitted.direction_)
