"""Fit an estimator and measure it on samples held out: in memory by cross-validation, on disk by tenths."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.base import clone, is_regressor
from sklearn.utils.validation import has_fit_parameter

from ddim_edit.directions.groups import Groups, are_trivial, count_units, group_labels, split_folds
from ddim_edit.directions.linear_models import Array
from ddim_edit.directions.registry import ESTIMATORS
from ddim_edit.directions.streaming import BLOCK_SIZE, LatentRows, RowStream
from ddim_edit.errors import ArgumentError, DirectionError

Scores = dict[str, float | int | None]
Mask = NDArray[np.bool_]

NOT_MEASURED: Scores = {"auc": None, "auc_sd": None, "permuted_auc": None, "permuted_sd": None, "folds": 0}


class DirectionEstimator(Protocol):
    """A scikit-learn estimator that fits one direction: `fit(X, y)`, then `direction_` [d] and `intercept_`."""

    direction_: Array
    intercept_: float

    def fit(self, X: Any, y: Any) -> "DirectionEstimator":
        """Fit to latents [n, d] and labels [n].

        An estimator that makes splits itself takes `groups` [n] too, which are given by name.
        """
        ...


class ValidatedFit(NamedTuple):
    """A fitted estimator, the projections [n] of the latents that it was fitted to, and its scores."""

    estimator: DirectionEstimator
    projections: Array
    scores: Scores


class Validation(NamedTuple):
    """How to measure a fit: at most this many folds, shuffles of the labels for a baseline, and the seed of both."""

    folds: int
    permutations: int
    seed: int


def check_labels(labels: Array, n: int, continuous: bool) -> Array:
    """Return labels [n] as float64.

    Raises:
        ArgumentError: another number of labels, some that are not finite, or more than two values for a classifier.
        DirectionError: labels that are all the same.
    """
    try:
        y = np.asarray(labels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"Labels must be numbers: {error}. Give the classes 0 and 1.") from error
    if y.shape != (n,) or not np.isfinite(y).all():
        raise ArgumentError(f"{n} latents need {n} finite labels, not labels of shape {y.shape}.")
    values = np.unique(y)
    if len(values) < 2:
        raise DirectionError(f"All {n} labels are the same. Add images with another label.")
    if len(values) > 2 and not continuous:
        raise ArgumentError(
            f"The labels have {len(values)} different values, but the estimator tells two classes apart. "
            "Say which values are positive, or fit a ridge direction."
        )
    return y


def concordance(labels: Array, scores: Array) -> float:
    """Return the chance that the larger label has the larger score, ties counting half.

    This is the ROC AUC where labels are two classes. (1 + D) / 2 with Somers' D = tau_b sqrt(pairs untied in score /
    pairs untied in label); 1/2 where all are tied.

    References:
        Somers, "A New Asymmetric Measure of Association for Ordinal Variables", American Sociological Review 27, 1962.

    Examples:
        >>> concordance(np.array([20.0, 30.0, 40.0]), np.array([0.1, 0.3, 0.2]))
        0.6666666666666667
    """
    untied_labels, untied_scores = _count_untied(labels), _count_untied(scores)
    if not untied_labels or not untied_scores:
        return 0.5
    tau = kendalltau(labels, scores).statistic
    return float((1 + tau * np.sqrt(untied_scores / untied_labels)) / 2)


def _count_untied(values: Array) -> float:
    counts = np.unique(values, return_counts=True)[1]
    n = len(values)
    return float(n * (n - 1) - (counts * (counts - 1)).sum())


def fit_in_memory(
    estimator: DirectionEstimator, X: Any, y: Array, groups: Groups, validation: Validation
) -> ValidatedFit:
    """Fit to samples X [n, d] and labels y [n], and measure by cross-validation that divides no group.

    The regularisation is chosen once, on all samples, so that no fold pays for the choice again.

    Raises:
        DirectionError: samples that do not differ with the label.
    """
    fitted = _fit(estimator, X, y, groups)
    projections = X.astype(np.float64) @ fitted.direction_
    settled = fitted.settled() if hasattr(fitted, "settled") else clone(fitted)
    return ValidatedFit(fitted, projections, _cross_validate(settled, X, y, groups, validation))


def _fit(estimator: DirectionEstimator, samples: Any, y: Array, groups: Groups | None = None) -> DirectionEstimator:
    """Return a fitted copy; samples are [n, d], or a `RowStream`, which is fitted without a choice by folds."""
    copy: Any = clone(estimator)
    try:
        if isinstance(samples, RowStream):
            return copy.fit_stream(samples, y)  # type: ignore[no-any-return]
        return fit_grouped(copy, samples, y, groups)  # type: ignore[no-any-return]
    except ArgumentError:  # a ValueError too, and says more than the sentence below
        raise
    except ValueError as error:  # as scikit-learn's estimators have it
        raise DirectionError(
            f"In these {len(y)} latents no direction tells the labels apart. Add images that differ with the label."
        ) from error


def fit_grouped(estimator: Any, X: Any, y: Any, groups: Groups | None) -> Any:
    """Fit an estimator, which gets the groups where they matter and it takes them."""
    if groups is not None and not are_trivial(groups) and has_fit_parameter(estimator, "groups"):
        return estimator.fit(X, y, groups=groups)
    return estimator.fit(X, y)


def _cross_validate(estimator: DirectionEstimator, X: Any, y: Array, groups: Groups, validation: Validation) -> Scores:
    """Return the AUC over folds, and that of shuffled labels, each shuffle measured on one fold of its own."""
    continuous = is_regressor(estimator)
    folds = min(validation.folds, len(np.unique(groups)) // 2) if continuous else validation.folds
    splits = split_folds(y, groups, folds, continuous, validation.seed)
    if not splits:  # too few to hold any out
        return NOT_MEASURED

    def held_out_auc(labels: Array, train: Any, test: Any) -> float:
        try:
            fitted = _fit(estimator, X[train], labels[train], groups[train])
        except DirectionError:  # no direction separates the training labels, so held-out ones are guessed
            return 0.5
        return concordance(labels[test], X[test] @ fitted.direction_)

    aucs = [held_out_auc(y, *split) for split in splits]
    rng = np.random.default_rng(validation.seed)
    shuffles = [_shuffle(y, groups, rng) for _ in range(validation.permutations)]
    permuted_aucs = []
    for index, shuffled in enumerate(shuffles):
        # Folds are made anew for each shuffle, so that both classes are on both sides however few samples there are.
        anew = split_folds(shuffled, groups, folds, continuous, validation.seed)
        if anew:
            permuted_aucs.append(held_out_auc(shuffled, *anew[index % len(anew)]))
    return _summarize(aucs, permuted_aucs, len(splits))


def _shuffle(y: Array, groups: Groups, rng: np.random.Generator) -> Array:
    """Return labels in random order, by groups where each has one label: shuffled inside they would not be alike."""
    by_group = group_labels(y, groups)
    return rng.permutation(by_group)[groups] if (by_group[groups] == y).all() else rng.permutation(y)


def _summarize(aucs: Sequence[float], permuted_aucs: Sequence[float], folds: int) -> Scores:
    """Return means and standard deviations of the AUC and of its baseline."""
    scores: Scores = {"auc": float(np.mean(aucs)), "auc_sd": float(np.std(aucs))}
    scores |= {"permuted_auc": None, "permuted_sd": None, "folds": folds}
    if permuted_aucs:
        scores |= {"permuted_auc": float(np.mean(permuted_aucs)), "permuted_sd": float(np.std(permuted_aucs))}
    return scores


def fit_on_disk(
    estimator: Any,
    rows: LatentRows,
    y: Array,
    groups: Groups,
    validation: Validation,
    block_size: int = BLOCK_SIZE,
) -> ValidatedFit:
    """Fit to rows on disk [n, ...] and labels y [n], and measure on a tenth that is held out.

    The regularisation that does best on one tenth, fitted to eight, is kept; what that learns from nine tenths is
    measured on the last one; the direction itself is fitted to all rows. Tenths divide no group. Where the rarer class
    has fewer than twenty groups nothing is held out, and the strongest regularisation is taken. Rows are read block by
    block in some ten to a few hundred passes; memory is three blocks, some numbers for each row and, except for a mean
    difference, 8 d^2 bytes.

    Args:
        estimator: one with `fit_stream`.
        rows: the latents.
        y: labels.
        groups: of the rows.
        validation: how to measure.
        block_size: numbers in a block.

    Raises:
        ArgumentError: an estimator that needs all latents in memory, or latents too wide for one that needs their
            second moments.
        DirectionError: latents that are not finite, or do not differ with the label.
    """
    if not hasattr(estimator, "fit_stream"):
        fitting = [name for name, entry in ESTIMATORS.items() if hasattr(entry.estimator_class, "fit_stream")]
        raise ArgumentError(
            f"{type(estimator).__name__} needs all latents in memory, but there are {len(rows)} of {rows[0:1].size} "
            f"numbers. Fit to fewer images, or choose one of {', '.join(fitting)}."
        )
    stream = RowStream(rows, estimator.standardize, block_size)
    tenths = _assign_tenths(y, groups, is_regressor(estimator), validation.seed)
    stream.use(tenths >= 2)
    chosen = _choose_regularization(estimator.candidates(), stream, y, tenths == 1)
    stream.use(tenths == 1)
    scores = _measure_held_out(chosen, stream, y, groups, tenths == 0, validation)
    stream.use(tenths == 0)
    fitted = _fit(chosen, stream, y)
    return ValidatedFit(fitted, stream.project(fitted.direction_[None])[:, 0], scores)


def _assign_tenths(y: Array, groups: Groups, continuous: bool, seed: int) -> NDArray[np.intp]:
    """Return the tenth of each row, classes in equal shares; the last one for all where one class is too small."""
    tenths = np.full(len(y), 9)
    units = count_units(y, groups, continuous)
    if (units // 2 if continuous else units) >= 20:  # so that every tenth has two of either class
        for tenth, split in enumerate(split_folds(y, groups, 10, continuous, seed)):
            tenths[split.test] = tenth
    return tenths


def _choose_regularization(candidates: Sequence[Any], stream: RowStream, y: Array, judges: Mask) -> Any:
    """Return the candidate that does best on the judging rows, the first of equals."""
    if len(candidates) == 1 or not judges.any():
        return candidates[0]
    fits = [_fit(candidate, stream, y) for candidate in candidates]
    projections = stream.project(np.stack([fit.direction_ for fit in fits]))[judges]
    losses = []
    for fit, column in zip(fits, projections.T, strict=True):
        distances = column + fit.intercept_
        if is_regressor(fit):
            losses.append(np.square(fit.mean_label_ + fit.slope_ * distances - y[judges]).mean())  # type: ignore[attr-defined]
        else:
            losses.append(-concordance(y[judges], distances))
    return candidates[int(np.argmin(losses))]


def _measure_held_out(
    estimator: Any, stream: RowStream, y: Array, groups: Groups, held: Mask, validation: Validation
) -> Scores:
    """Return scores on the rows held out, in as many pieces as there are folds; shuffled labels on all of them."""
    if validation.folds < 2 or not held.any():
        return NOT_MEASURED
    rng = np.random.default_rng(validation.seed)
    shuffles = [_shuffle(y, groups, rng) for _ in range(validation.permutations)]
    directions = []
    intercepts = []
    for labels in [y, *shuffles]:
        try:
            fitted = _fit(estimator, stream, labels)
            directions.append(fitted.direction_)
            intercepts.append(fitted.intercept_)
        except DirectionError:  # no direction separates the training labels, so held-out ones are guessed
            directions.append(np.zeros(stream.d))
            intercepts.append(0.0)
    distances = stream.project(np.stack(directions))[held] + intercepts
    labels_held = y[held]
    pieces = [np.arange(len(distances))[start :: validation.folds] for start in range(validation.folds)]
    aucs = [concordance(labels_held[piece], distances[piece, 0]) for piece in pieces]
    permuted_aucs = []
    for shuffled, column in zip(shuffles, distances.T[1:], strict=True):
        permuted_aucs.append(concordance(shuffled[held], column))
    return _summarize(aucs, permuted_aucs, 1)
