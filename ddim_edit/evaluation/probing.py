"""Linear probes: how well a linear classifier reads an attribute from latents, and from how few labels."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.metrics import get_scorer
from sklearn.model_selection import train_test_split
from sklearn.random_projection import GaussianRandomProjection

from ddim_edit.directions import LogisticDirection
from ddim_edit.directions.groups import Groups, are_trivial, find_groups, group_labels, row_digest
from ddim_edit.directions.validation import fit_grouped
from ddim_edit.errors import ArgumentError
from ddim_edit.tables import plain_table

RESAMPLES = 1000
"""Bootstrap resamples of the test images, for each draw of training images."""
COVERAGE = 95.0
"""Per cent that an interval covers."""

Array = NDArray[Any]


@dataclass(frozen=True)
class ProbeRow:
    """Scores of one representation at one number of labels, in plain JSON types.

    Attributes:
        representation: its name.
        dim: number of values per image.
        n: number of labelled images that each probe was fitted on.
        draws: number of probes, each fitted on other images.
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


COLUMNS: Mapping[str, tuple[str, str]] = {
    "representation": ("representation", "s"),
    "dim": ("dim", "d"),
    "n": ("n", "d"),
    "draws": ("draws", "d"),
    "balanced_accuracy": ("balanced", ".3f"),
    "low": ("low", ".3f"),
    "high": ("high", ".3f"),
    "auc": ("AUC", ".3f"),
}
"""Title and format of each field of `ProbeRow` in tables."""


@dataclass(frozen=True)
class ProbeReport:
    """Few-shot curves of several representations of the same images; the probes are not kept.

    Attributes:
        rows: one per representation and number of labels, in the order of both.
        train: number of images that probes could be fitted on.
        test: number of other images that all probes were scored on.
        positives: share of the positive class among the test images.
        seed: of the split and the draws.
        resamples: bootstrap resamples of the test images per draw, from which the intervals come.
    """

    rows: tuple[ProbeRow, ...]
    train: int
    test: int
    positives: float
    seed: int
    resamples: int = RESAMPLES

    def best(self, n: int | None = None) -> ProbeRow:
        """Return the row of the highest balanced accuracy at n labels, baselines included; None is the most labels.

        The best of many rows is a little better here than it would be on new images.

        Raises:
            ArgumentError: no row has that n.
        """
        sizes = sorted({row.n for row in self.rows})
        if n is None:
            n = max(sizes, default=0)
        if n not in sizes:
            raise ArgumentError(f"There are no probes of {n} labels, only of {_join(sizes)}.")
        return max((row for row in self.rows if row.n == n), key=lambda row: row.balanced_accuracy)

    def as_json(self) -> dict[str, Any]:
        """Return the report in plain JSON types."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    def table(self) -> str:
        """Return the rows as aligned text under a line of titles."""
        titles = [title for title, _ in COLUMNS.values()]
        rows = []
        for row in self.rows:
            rows.append([format(getattr(row, name), code) for name, (_, code) in COLUMNS.items()])
        return plain_table(titles, rows)


def probe(
    representations: Mapping[str, ArrayLike],
    labels: ArrayLike,
    sizes: Sequence[int | None] = (10, 100, 1000, None),
    draws: int = 10,
    test_fraction: float = 0.25,
    seed: int = 0,
    estimator: Any = None,
    groups: Sequence[Hashable] | Array | None = None,
) -> ProbeReport:
    """Fit linear probes on few and many labels, and score them on held-out images.

    A probe shows what a linear classifier can read, not everything that a representation holds.

    One stratified split into training and test images serves every representation. It divides neither the copies of one
    image, which are equal in all representations, nor the images of one group. Each draw orders the training images
    of each class at random, and its n images are the first of each class, in the proportions of the whole but at least
    one: larger sets contain smaller ones, and all representations see the same.

    The interval covers the score of a single probe that is fitted on another draw and scored on another test set of
    this size: the 2.5th and 97.5th percentile of the balanced accuracy, each draw scored on `RESAMPLES` bootstrap
    resamples of the test images within their classes, pooled. All images are one draw, so there it covers the test set
    alone; a probe without errors has an interval of no width.

    Where one class is rare, a probe that maximises likelihood predicts the other, and balanced accuracy stays near 0.5
    while the AUC does not. Read the AUC there, or pass an estimator with balanced class weights.

    Args:
        representations: by name, arrays [n, d] with one row per image, in the order of `labels`.
        labels: [n], of two values; the larger is the positive class.
        sizes: numbers of labels; None is all training images, and sizes beyond that are left out.
        draws: number of training sets of each size; of all images there is one.
        test_fraction: share of the images that are kept for the test, between 0 and 1.
        seed: of the split, the draws and the resamples.
        estimator: a scikit-learn classifier, cloned for each fit. It sees raw values: put a StandardScaler before it in
            a pipeline where it needs one. By default `LogisticDirection`.
        groups: [n], for example the person in each image, or the `images` of a `LatentArray`; None for an image of no
            known group.

    Raises:
        ArgumentError: representations, labels and groups that do not belong together, labels not of two values, one
            image with both, or too few.

    References:
        Alain, Bengio, "Understanding Intermediate Layers Using Linear Classifier Probes", 2016, arXiv:1610.01644.
        Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7, 1979.
    """
    positive = _positive_class(np.asarray(labels))
    arrays = {name: _check_array(name, np.asarray(array), len(positive)) for name, array in representations.items()}
    if draws < 1:
        raise ArgumentError(f"There must be at least 1 draw, not {draws}. 10 are usual.")
    # Copies of an image are equal in every representation.
    digests = []
    for index in range(len(positive)):
        digests.append(row_digest(*(x[index] for x in arrays.values())))
    together = find_groups(np.asarray(labels), None, digests, groups)
    train, test = _split(positive, together, test_fraction, seed)
    subsets = _draw_subsets(positive, train, _check_sizes(sizes, len(train)), draws, seed)
    weights = _resample(positive[test], together[test], seed)
    model = LogisticDirection() if estimator is None else estimator
    # By the decision function, or by probabilities where an estimator has none.
    area_under_curve = get_scorer("roc_auc")

    rows = []
    for name, x in arrays.items():
        for drawn in subsets:
            accuracies = []
            areas = []
            for subset in drawn:
                fitted = fit_grouped(clone(model), x[subset], positive[subset].astype(int), together[subset])
                accuracies.append(weights @ (fitted.predict(x[test]) == positive[test]))
                areas.append(area_under_curve(fitted, x[test], positive[test].astype(int)))
            # Column 0 is the score on the test set itself, the others are those on its resamples.
            scores = np.array(accuracies)
            low, high = np.percentile(scores[:, 1:], [50 - COVERAGE / 2, 50 + COVERAGE / 2])
            row = ProbeRow(
                representation=name,
                dim=x.shape[1],
                n=drawn.shape[1],
                draws=len(drawn),
                balanced_accuracy=float(scores[:, 0].mean()),
                low=float(low),
                high=float(high),
                auc=float(np.mean(areas)),
            )
            rows.append(row)
    return ProbeReport(tuple(rows), len(train), len(test), float(positive[test].mean()), seed)


def random_projection(pixels: ArrayLike, dim: int, seed: int = 0) -> Array:
    """Return pixels projected at random [n, dim], a baseline for learnt representations of the same dimension.

        pixels @ R^T,  R ~ N(0, 1 / dim)

    R is the same for the same seed and width; float32 stays float32.

    Raises:
        ArgumentError: pixels that are not [n, d], or a dimension outside 1..d.

    References:
        Johnson, Lindenstrauss, "Extensions of Lipschitz Mappings into a Hilbert Space", Contemporary Mathematics 26,
        1984.
    """
    x = np.asarray(pixels)
    x = _check_array("pixels", x, len(x) if x.ndim else 0)
    if not 1 <= dim <= x.shape[1]:
        raise ArgumentError(f"{x.shape[1]} pixels can be projected to 1..{x.shape[1]} dimensions, not to {dim}.")
    projected: Array = GaussianRandomProjection(dim, random_state=seed).fit_transform(x)
    return projected


def _resample(positive: NDArray[np.bool_], groups: Groups, seed: int) -> Array:
    """Return weights [1 + resamples, m] of the m test images, which sum to a half within each class.

    A product with the correctly classified images is then their balanced accuracy. Row 0 is the test set itself. Groups
    are drawn as a whole: images of one person are no more evidence than the person is.
    """
    weights = np.ones((1 + RESAMPLES, len(positive)))
    random = np.random.default_rng([seed, 1])
    for members in (positive, ~positive):
        _, numbers = np.unique(groups[members], return_inverse=True)
        g = int(numbers.max()) + 1
        # Drawing g of g with replacement gives multinomial counts.
        weights[1:, members] = random.multinomial(g, np.full(g, 1 / g), RESAMPLES)[:, numbers]
        weights[:, members] /= 2 * weights[:, members].sum(1, keepdims=True)
    return weights


def _draw_subsets(
    positive: NDArray[np.bool_], train: NDArray[np.intp], sizes: Sequence[int], draws: int, seed: int
) -> list[Array]:
    """Return for each size the training images of each draw, [draws, size]."""
    random = np.random.default_rng([seed, 0])
    ones = train[positive[train]]
    zeros = train[~positive[train]]
    orders = [(random.permutation(ones), random.permutation(zeros)) for _ in range(draws)]
    subsets = []
    for n in sizes:
        # In the proportions of the training images, but at least one of each class.
        k = min(max(round(n * len(ones) / len(train)), 1), n - 1)
        drawn = []
        for first, second in orders[:1] if n == len(train) else orders:  # of all images there is one set
            drawn.append(np.concatenate([first[:k], second[: n - k]]))
        subsets.append(np.array(drawn))
    return subsets


def _split(
    positive: NDArray[np.bool_], groups: Groups, fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of the training and the test images, sorted, with both classes in each and no group divided.

    The fraction is that of groups.
    """
    if not 0 < fraction < 1:
        raise ArgumentError(f"The test fraction must be between 0 and 1, not {fraction}. A quarter is usual.")
    what = "images" if are_trivial(groups) else "different images or groups"
    ones, zeros = (len(np.unique(groups[members])) for members in (positive, ~positive))
    too_few = ArgumentError(
        f"{ones} {what} of one class and {zeros} of the other are too few to train and to test on both. Label more "
        "images."
    )
    kinds = group_labels(positive, groups)
    # Groups of both classes may have one majority everywhere, or nearly, which nothing can be stratified by.
    stratified = bool((kinds[groups] == positive).all()) or int(np.bincount(kinds, minlength=2).min()) > 1
    try:
        _, held = train_test_split(
            np.arange(len(kinds)), test_size=fraction, stratify=kinds if stratified else None, random_state=seed
        )
    except ValueError as error:  # scikit-learn's, for classes too small to be on both sides
        raise too_few from error
    inside = np.isin(groups, held)
    sides = np.flatnonzero(~inside), np.flatnonzero(inside)
    for side in sides:
        if positive[side].all() or not positive[side].any():
            raise too_few
    return sides


def _positive_class(labels: Array) -> NDArray[np.bool_]:
    """Return which labels have the larger of two values."""
    classes = np.unique(labels)
    if labels.ndim != 1 or len(classes) != 2:
        raise ArgumentError(
            f"Labels must be a list of two values, not {len(classes)} values of shape {list(labels.shape)}."
            " Split a column in two by a condition."
        )
    positive: NDArray[np.bool_] = labels == classes[1]
    return positive


def _check_array(name: str, x: Array, n: int) -> Array:
    """Return x, known to be n rows of finite values."""
    if x.ndim != 2 or len(x) != n or not x.size:
        raise ArgumentError(
            f"{name!r} must have shape [{n}, d], a row per label, not {list(x.shape)}. Flatten each image's values."
        )
    if not np.isfinite(x).all():
        raise ArgumentError(f"{name!r} has NaN or infinite values. Leave these images out.")
    return x


def _check_sizes(sizes: Sequence[int | None], train: int) -> list[int]:
    """Return the numbers of labels up to those of training images, sorted."""
    wanted = sorted({train if size is None else size for size in sizes})
    if any(size < 2 for size in wanted):
        raise ArgumentError(f"Numbers of labels must be at least 2, one of each class, not {_join(wanted)}.")
    kept = [size for size in wanted if size <= train]
    if not kept:
        raise ArgumentError(f"Numbers of labels must include one up to {train}, the training images: {_join(wanted)}.")
    return kept


def _join(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) or "none"
