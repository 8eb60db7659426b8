"""A direction found, and measured, in rows that stay on disk."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone, is_regressor
from sklearn.model_selection import KFold, StratifiedKFold

from ddim_edit.directions.learning import LEARN, Plane
from ddim_edit.directions.measuring import NOT_MEASURED, Floats, Found, Measured, Trial, concordance, summary
from ddim_edit.directions.rows import ROOM, Rows, Stream
from ddim_edit.directions.scatter import Sample
from ddim_edit.errors import ArgumentError, DirectionError

Mask = NDArray[np.bool_]
_TENTHS = 10
"""One tenth of the rows chooses the regularisation, one measures the direction."""
_FEWEST = 20
"""Rows of the rarer class from which on every tenth has two of them."""
_GRIDS = (("Cs", 1), ("alphas", -1))
"""Where estimators keep their regularisations, and the order that puts the strongest first."""


def find(estimator: Any, rows: Rows, y: Floats, trial: Trial, room: int = ROOM) -> Found:
    """Fit to rows on disk [n, ...] and labels y [n] and measure it on a tenth held out; cannot fit an SVM.

    The regularisation that does best on one tenth, learnt from eight, is kept; what that learns from nine is measured
    on the last; the direction itself is learnt from all. Where the rarer class has fewer than twenty rows nothing is
    held out and the strongest regularisation is taken. Rows are read block by block in passes, some ten to a few
    hundred; memory is three blocks, some numbers for each row and, but for a mean difference, 8 d^2 bytes.

    Args:
        estimator: one of `LEARN`.
        rows: of codes.
        y: labels.
        trial: how to measure.
        room: numbers in a block.

    Raises:
        ArgumentError: an estimator that needs all codes at once, or codes too wide for one that needs their moments.
        DirectionError: codes that are not finite, or do not differ with the label.
    """
    if type(estimator) not in LEARN:
        wanted = f"one of {', '.join(kind.__name__ for kind in LEARN)} for codes that stay on disk"
        raise ArgumentError(wanted, type(estimator).__name__, "choose one of these, or fit to fewer pictures")
    stream = Stream.of(rows, estimator.standardize, room)
    sample, tenths = Sample(stream), _tenths(y, is_regressor(estimator), trial.seed)
    sample.add(tenths >= 2)
    chosen = _chosen(_candidates(estimator), sample, y, tenths == 1)
    sample.add(tenths == 1)
    measured = _measured(chosen, sample, y, tenths == 0, trial)
    sample.add(tenths == 0)
    plane = _learnt(chosen, sample, y)
    return Found(plane.direction, plane.intercept, stream.project(plane.direction[None])[:, 0], measured)


def _tenths(y: Floats, continuous: bool, seed: int) -> NDArray[np.intp]:
    """Which tenth each row is in, both classes shared out evenly; all in the last where one class is too small."""
    rarest = len(y) // 2 if continuous else int(np.unique(y, return_counts=True)[1].min())
    tenths = np.full(len(y), _TENTHS - 1)
    if rarest >= _FEWEST:
        splitter = (KFold if continuous else StratifiedKFold)(_TENTHS, shuffle=True, random_state=seed)
        for tenth, (_, held) in enumerate(splitter.split(np.empty((len(y), 0)), y)):
            tenths[held] = tenth
    return tenths


def _candidates(estimator: Any) -> list[Any]:
    """The estimator with each of its regularisations, the strongest first."""
    for grid, order in _GRIDS:
        if hasattr(estimator, grid):
            return [
                clone(estimator).set_params(**{grid: (each,)}) for each in sorted(getattr(estimator, grid))[::order]
            ]
    return [estimator]


def _chosen(candidates: Sequence[Any], sample: Sample, y: Floats, judges: Mask) -> Any:
    """The candidate that answers best on the judging rows, the first of equals."""
    if len(candidates) == 1 or not judges.any():
        return candidates[0]
    planes = [_learnt(each, sample, y) for each in candidates]
    answers = _distances(sample.stream, planes, judges)
    if is_regressor(candidates[0]):
        expected = y[sample.kept].mean() + answers * [plane.slope for plane in planes]
        return candidates[int(np.square(expected - y[judges, None]).mean(0).argmin())]
    return candidates[int(np.argmax([concordance(y[judges], column) for column in answers.T]))]


def _measured(estimator: Any, sample: Sample, y: Floats, held: Mask, trial: Trial) -> Measured:
    """On the rows held out, in as many pieces as folds were asked for; shuffled labels on all of them."""
    if trial.folds < 2 or not held.any():
        return NOT_MEASURED
    rng = np.random.default_rng(trial.seed)
    labels = [y, *(rng.permutation(y) for _ in range(trial.permutations))]
    planes = [_learnt_or_nothing(estimator, sample, each) for each in labels]
    answers = _distances(sample.stream, planes, held)
    pieces = [np.arange(len(answers))[start :: trial.folds] for start in range(trial.folds)]
    aucs = [concordance(y[held][piece], answers[piece, 0]) for piece in pieces]
    shuffled = [concordance(z[held], column) for z, column in zip(labels[1:], answers.T[1:], strict=True)]
    return summary(aucs, shuffled, 1)


def _distances(stream: Stream, planes: Sequence[Plane], some: Mask) -> Floats:
    """Those of some rows to each of the planes, [m, k]."""
    answers = stream.project(np.stack([plane.direction for plane in planes]))[some]
    distances: Floats = answers + [plane.intercept for plane in planes]
    return distances


def _learnt(estimator: Any, sample: Sample, y: Floats) -> Plane:
    try:
        return LEARN[type(estimator)](estimator, sample, y)
    except ValueError as error:
        if isinstance(error, ArgumentError):  # which is one, and says more
            raise
        given = f"{len(y)} in which no direction tells the labels apart"
        raise DirectionError("codes that differ with the label", given, "add other pictures") from error


def _learnt_or_nothing(estimator: Any, sample: Sample, y: Floats) -> Plane:
    try:
        return _learnt(estimator, sample, y)
    except DirectionError:  # what learns nothing from its pictures knows nothing of others
        return Plane(np.zeros(sample.stream.d), 0.0, 0.0)
