"""How well a linear probe reads an attribute from codes, and how few labels it needs for that."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.random_projection import GaussianRandomProjection

from ddim_edit.directions import LogisticDirection
from ddim_edit.errors import ArgumentError

RESAMPLES = 1000
"""Bootstrap resamples of the test pictures, for each draw of training pictures."""
COVERED = 95.0
"""Per cent that an interval covers."""

Array = NDArray[Any]


@dataclass(frozen=True)
class ProbeRow:
    """How well one representation does at one number of labels, in plain JSON types.

    Attributes:
        representation: its name.
        dim: how many values each code has.
        n: how many labelled pictures each probe learnt from.
        draws: how many probes, each from other pictures.
        balanced_accuracy: mean over the draws of (recall of the one class + recall of the other) / 2; 0.5 is chance.
        low: lower end of the 95 % interval of the balanced accuracy.
        high: upper end.
        auc: mean over the draws of the area under the ROC curve; 0.5 is chance.
    """

    representation: str
    dim: int
    n: int
    draws: int
    balanced_accuracy: float
    low: float
    high: float
    auc: float


COLUMNS = {
    "representation": ("representation", "s"),
    "dim": ("dim", "d"),
    "n": ("n", "d"),
    "draws": ("draws", "d"),
    "balanced_accuracy": ("balanced", ".3f"),
    "low": ("low", ".3f"),
    "high": ("high", ".3f"),
    "auc": ("AUC", ".3f"),
}


@dataclass(frozen=True)
class ProbeReport:
    """Few-shot curves of several representations, all on the same pictures; it does not keep the probes.

    Attributes:
        rows: one for each representation and number of labels, in the order of both.
        train: how many pictures the probes could learn from.
        test: how many others they were all scored on.
        positives: share of the second class among the test pictures.
        seed: of the split and the draws.
        resamples: of the test pictures for each draw, behind each interval.
    """

    rows: tuple[ProbeRow, ...]
    train: int
    test: int
    positives: float
    seed: int
    resamples: int = RESAMPLES

    def best(self, n: int | None = None) -> ProbeRow:
        """The row of the highest balanced accuracy at `n` labels, baselines included; None is the most labels.

        The winner of many is flattered: its figure is a little better than it would be on new pictures.

        Raises:
            ArgumentError: no row has that n.
        """
        sizes = sorted({row.n for row in self.rows})
        n = max(sizes, default=0) if n is None else n
        if n not in sizes:
            raise ArgumentError(f"a number of labels out of {_listed(sizes)}", str(n), "choose one of these")
        return max((row for row in self.rows if row.n == n), key=lambda row: row.balanced_accuracy)

    def as_json(self) -> dict[str, Any]:
        """The report in plain JSON types."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    def table(self) -> str:
        """The rows as aligned text under a line of titles."""
        titles = [title for title, _ in COLUMNS.values()]
        rows = [[format(getattr(row, name), code) for name, (_, code) in COLUMNS.items()] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
        return "\n".join(_line(cells, widths) for cells in [titles, *rows])


def probe(
    codes: Mapping[str, ArrayLike],
    labels: ArrayLike,
    sizes: Sequence[int | None] = (10, 100, 1000, None),
    draws: int = 10,
    test_fraction: float = 0.25,
    seed: int = 0,
    estimator: Any = None,
) -> ProbeReport:
    """Few-shot curves of linear probes; they show what a line can read, not what is in a code.

    One stratified split into training and test pictures serves every representation. Each draw orders the training
    pictures of each class at random, and its n pictures are the first of each class, in the shares of the whole but
    at least one: larger sets contain smaller ones, and all representations see the same.

    The interval is where a single probe lands, fitted on another draw and scored on another test set of this size:
    the 2.5th and 97.5th percentile of the balanced accuracy, each draw scored on `RESAMPLES` bootstrap resamples
    of the test pictures within their classes, pooled. All pictures are one draw, so there it covers the test set
    alone; a probe that makes no error gets an interval of no width.

    Where one class is rare, a probe that minds its likelihood answers with the other, and balanced accuracy stays near
    0.5 while the AUC does not: read the AUC there, or give an estimator of balanced class weights.

    Args:
        codes: by name, arrays [n, d] with one row for each picture, in the order of `labels`.
        labels: [n], of two values; the larger is the positive class.
        sizes: numbers of labels; None is all of the training pictures, and what exceeds them is left out.
        draws: how many training sets of each size; of all pictures there is one.
        test_fraction: share of the pictures that are kept for the test, between 0 and 1.
        seed: of the split, the draws and the resamples.
        estimator: a scikit-learn classifier, cloned for each fit, which sees raw codes: put a StandardScaler
            before it in a pipeline where it needs one. By default `LogisticDirection`.

    Raises:
        ArgumentError: codes and labels that do not belong together, labels that are not two classes, or too few.

    Alain, Bengio (2016) for linear probes; Efron (1979) for the bootstrap.
    """
    positive = _positive(np.asarray(labels))
    arrays = {name: _checked(name, np.asarray(array), len(positive)) for name, array in codes.items()}
    train, test = _split(positive, test_fraction, seed)
    subsets = _subsets(positive, train, _sizes(sizes, len(train)), _at_least_one(draws), seed)
    exam = _Exam(positive, test, _resamples(positive[test], seed))
    model = LogisticDirection() if estimator is None else estimator
    rows = [_row(name, x, drawn, model, exam) for name, x in arrays.items() for drawn in subsets]
    return ProbeReport(tuple(rows), len(train), len(test), float(positive[test].mean()), seed)


def random_projection(pixels: ArrayLike, dim: int, seed: int = 0) -> Array:
    """Codes [n, dim] that know nothing of pictures: a baseline for learnt ones of the same dimension.

    pixels @ R^T with R ~ N(0, 1 / dim), the same R for the same seed and width; float32 stays float32.

    Raises:
        ArgumentError: pixels that are not [n, d], or a dimension outside 1..d.

    Johnson, Lindenstrauss (1984).
    """
    x = np.asarray(pixels)
    x = _checked("pixels", x, len(x) if x.ndim else 0)
    if not 1 <= dim <= x.shape[1]:
        raise ArgumentError(f"a dimension in 1..{x.shape[1]}", str(dim), "project to fewer dimensions")
    projected: Array = GaussianRandomProjection(dim, random_state=seed).fit_transform(x)
    return projected


class _Exam(NamedTuple):
    """What every probe is asked: the pictures of the test, and how often each counts in each resample."""

    positive: NDArray[np.bool_]
    test: NDArray[np.intp]
    weights: Array

    def sit(self, model: Any, x: Array) -> tuple[Array, float]:
        """The balanced accuracy of a fitted probe [1 + resamples], the first without resampling, and its AUC."""
        truth, rows = self.positive[self.test], x[self.test]
        right = model.predict(rows) == truth
        return self.weights @ right, float(roc_auc_score(truth, _scores(model, rows)))


def _row(name: str, x: Array, subsets: Array, model: Any, exam: _Exam) -> ProbeRow:
    probes = (clone(model).fit(x[subset], exam.positive[subset].astype(int)) for subset in subsets)
    accuracies, areas = zip(*(exam.sit(probe, x) for probe in probes), strict=True)
    drawn = np.array(accuracies)
    low, high = np.percentile(drawn[:, 1:], [50 - COVERED / 2, 50 + COVERED / 2])
    return ProbeRow(
        representation=name,
        dim=x.shape[1],
        n=subsets.shape[1],
        draws=len(subsets),
        balanced_accuracy=float(drawn[:, 0].mean()),
        low=float(low),
        high=float(high),
        auc=float(np.mean(areas)),
    )


def _scores(model: Any, rows: Array) -> Array:
    scores: Array = (
        model.decision_function(rows) if hasattr(model, "decision_function") else model.predict_proba(rows)[:, 1]
    )
    return scores


def _resamples(positive: NDArray[np.bool_], seed: int) -> Array:
    """Weights [1 + resamples, m] of the test pictures, which sum to a half within each class."""
    weights = np.ones((1 + RESAMPLES, len(positive)))
    random = np.random.default_rng([seed, 1])
    for members in (positive, ~positive):
        m = int(members.sum())
        weights[1:, members] = random.multinomial(m, np.full(m, 1 / m), RESAMPLES)
        weights[:, members] /= 2 * m
    return weights


def _subsets(
    positive: NDArray[np.bool_], train: NDArray[np.intp], sizes: Sequence[int], draws: int, seed: int
) -> list[Array]:
    """For each size the training pictures of each draw, [draws, size]."""
    random = np.random.default_rng([seed, 0])
    ones, zeros = train[positive[train]], train[~positive[train]]
    orders = [(random.permutation(ones), random.permutation(zeros)) for _ in range(draws)]
    return [np.array([_first(*order, n) for order in orders[: 1 if n == len(train) else draws]]) for n in sizes]


def _first(ones: Array, zeros: Array, n: int) -> Array:
    share = round(n * len(ones) / (len(ones) + len(zeros)))
    k = min(max(share, 1), n - 1)
    return np.concatenate([ones[:k], zeros[: n - k]])


def _split(positive: NDArray[np.bool_], fraction: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    if not 0 < fraction < 1:
        raise ArgumentError("a test fraction between 0 and 1", str(fraction), "a quarter is usual")
    try:
        train, test = train_test_split(
            np.arange(len(positive)), test_size=fraction, stratify=positive, random_state=seed
        )
    except ValueError as error:  # scikit-learn's, for classes too small to be in both parts
        raise _too_few(positive) from error
    if any(positive[part].all() or not positive[part].any() for part in (train, test)):
        raise _too_few(positive)
    return np.sort(train), np.sort(test)


def _too_few(positive: NDArray[np.bool_]) -> ArgumentError:
    given = f"{int(positive.sum())} pictures of one class and {int((~positive).sum())} of the other"
    return ArgumentError("pictures of both classes to train on and to test on", given, "label more pictures")


def _positive(labels: Array) -> NDArray[np.bool_]:
    classes = np.unique(labels)
    if labels.ndim != 1 or len(classes) != 2:
        given = f"{len(classes)} values in labels of shape {list(labels.shape)}"
        raise ArgumentError("a list of labels of two values", given, "split a column in two by conditions")
    positive: NDArray[np.bool_] = labels == classes[1]
    return positive


def _checked(name: str, x: Array, n: int) -> Array:
    if x.ndim != 2 or len(x) != n or not x.size:
        wanted = f"codes '{name}' of shape [{n}, d], a row for each label"
        raise ArgumentError(wanted, f"shape {list(x.shape)}", "flatten each picture's code into its row")
    if not np.isfinite(x).all():
        raise ArgumentError(f"finite codes '{name}'", "NaN or infinite ones", "leave these pictures out")
    return x


def _sizes(sizes: Sequence[int | None], train: int) -> list[int]:
    wanted = {train if size is None else size for size in sizes}
    if any(size < 2 for size in wanted):
        raise ArgumentError("sizes of at least 2, one picture of each class", _listed(sorted(wanted)), "enlarge them")
    kept = sorted(size for size in wanted if size <= train)
    if not kept:
        raise ArgumentError(f"sizes up to {train}, the pictures to train on", _listed(sorted(wanted)), "lower them")
    return kept


def _at_least_one(draws: int) -> int:
    if draws < 1:
        raise ArgumentError("at least 1 draw", str(draws), "10 are usual")
    return draws


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) or "no size"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])
