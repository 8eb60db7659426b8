"""Which images must stay on one side of every split: copies of one image, and images of one group such as a person."""

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import KFold, StratifiedKFold

from ddim_edit.errors import ArgumentError

Groups = NDArray[np.intp]
"""The group of each image [n], numbered by first occurrence: 0..n-1 where every image is its own."""
Labels = NDArray[Any]

NEAR = 1e-4
"""Distance, as a part of the typical length of a row, up to which two rows are those of one image. Batches of another
size move latents by 1e-5; those of different images are as far apart as they are long."""
WIDE = 64
"""Numbers of a row from which two rows of different images are never near each other by chance."""
CHUNK = 4096
"""Rows that are hashed together."""


class Fold(NamedTuple):
    """Indices of the images to fit on, and of those to judge by."""

    train: NDArray[np.intp]
    test: NDArray[np.intp]


def number_groups(keys: Iterable[Hashable]) -> Groups:
    """Return the number of each key by first occurrence; None is a group of its own wherever it stands.

    Examples:
        >>> number_groups(["ann", "bob", "ann", None, None])
        array([0, 1, 0, 2, 3])
    """
    known: dict[Hashable, int] = {}
    count = 0
    numbers = []
    for key in keys:
        number = count if key is None else known.setdefault(key, count)
        if number == count:  # a new group
            count += 1
        numbers.append(number)
    return np.array(numbers, dtype=np.intp)


def join_groups(*parts: Groups) -> Groups:
    """Return the finest groups that contain those of every part: a is with c if a is with b, and b with c.

    Examples:
        >>> join_groups(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]))
        array([0, 0, 0, 1])
    """
    n = len(parts[0])
    rows = []
    columns = []
    offset = n
    for part in parts:
        rows.append(np.arange(n))
        columns.append(offset + part)
        offset += n
    where = (np.concatenate(rows), np.concatenate(columns))
    graph = coo_matrix((np.ones(len(where[0]), np.int8), where), shape=(offset, offset))
    _, found = connected_components(graph, directed=False)
    return number_groups(found[:n].tolist())


def row_digest(*parts: NDArray[Any]) -> bytes | None:
    """Return a digest of the numbers of one image, or None for a few whole ones, which images may share by chance."""
    if sum(part.size for part in parts) < WIDE and all((part == np.trunc(part)).all() for part in parts):
        return None
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.digest()


def same_rows(rows: Any) -> Groups:
    """Return which rows [n, ...] are those of one image: equal ones and, in memory and of many numbers, near ones.

    Args:
        rows: an array, or anything that gives NumPy arrays by slices, which is then read once.
    """
    keys: list[Hashable] = []
    for start in range(0, len(rows), CHUNK):
        keys += map(row_digest, np.asarray(rows[start : start + CHUNK]))
    equal = number_groups(keys)
    if not isinstance(rows, np.ndarray) or rows[:1].size < WIDE:
        return equal
    return join_groups(equal, _near_rows(rows.reshape(len(rows), -1)))


def _near_rows(rows: NDArray[Any]) -> Groups:
    """Return which rows [n, d] are within `NEAR` of each other, or of a row between them."""
    centre = rows.mean(0, dtype=np.float64)
    limit = NEAR * float(np.sqrt(np.square(rows[::97] - centre).sum(1).mean()))
    # Near rows have near projections on any line, so only those that are neighbours on a random one are compared.
    line = np.random.default_rng(0).standard_normal(rows.shape[1])
    projections = rows @ (line / np.linalg.norm(line)).astype(rows.dtype)
    if not np.isfinite(projections).all():  # rows that are not finite are refused when they are fitted to
        return np.arange(len(rows))
    order = np.argsort(projections, kind="stable")
    found = np.arange(len(rows))
    for position, first in enumerate(order):
        for second in order[position + 1 :]:
            if projections[second] - projections[first] > limit:
                break
            if np.linalg.norm(np.subtract(rows[first], rows[second], dtype=np.float64)) <= limit:
                found[second] = found[first]
                break  # rows beyond `second` are compared with it in its turn
    return number_groups(found.tolist())


def find_groups(
    labels: Labels,
    rows: Any = None,
    images: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | NDArray[Any] | None = None,
) -> Groups:
    """Return which images every split keeps together: copies of one image, and those of one of the given groups.

    Args:
        labels: of the images, [n].
        rows: what is fitted to, from which copies are known where `images` says nothing.
        images: a digest of the content of each image.
        groups: for example the person in each image; None or NaN for an image of no known group.

    Raises:
        ArgumentError: groups or images that do not pair up with the labels, or copies of one image with two labels.
    """
    n = len(labels)
    copies = np.arange(n)
    if images:
        if len(images) != n:
            raise ArgumentError(
                f"The latents name {len(images)} images, but there are {n} labels. Take some of the latents with "
                "LatentArray.take, which takes the names too."
            )
        copies = number_groups(images)
    if not images or isinstance(rows, np.ndarray):  # rows on disk are read only where nothing else is known
        copies = join_groups(copies, same_rows(rows))
    firsts = np.unique(copies, return_index=True)[1]
    wrong = np.flatnonzero(labels != labels[firsts[copies]])
    if len(wrong) and len(firsts) > 1:  # a single image is refused when it is fitted to
        index = int(wrong[0])
        first = int(firsts[copies[index]])
        raise ArgumentError(
            f"Images {first} and {index}, counted from 0, are the same, but one has the label {labels[first]} and the "
            f"other {labels[index]}. Correct one, or leave both out."
        )
    if groups is None:
        return copies
    given = list(groups)
    if len(given) != n:
        raise ArgumentError(f"{n} images need {n} groups, not {len(given)}. Give None to images of no known group.")
    known = [None if key is None or key != key else key for key in given]
    return join_groups(copies, number_groups(known))


def are_trivial(groups: Groups) -> bool:
    """Return whether every image is its own group."""
    return len(np.unique(groups)) == len(groups)


def group_labels(labels: Labels, groups: Groups) -> Labels:
    """Return the most frequent label of each group."""
    values, codes = np.unique(labels, return_inverse=True)
    counts = np.zeros((int(groups.max()) + 1, len(values)), np.intp)
    np.add.at(counts, (groups, codes), 1)
    majority: Labels = values[counts.argmax(1)]
    return majority


def count_units(labels: Labels, groups: Groups, continuous: bool) -> int:
    """Return the number of groups; of classes, those of the class that has fewest."""
    if continuous:
        return int(groups.max()) + 1
    return min(len(np.unique(groups[labels == value])) for value in np.unique(labels))


def split_folds(labels: Labels, groups: Groups, folds: int, continuous: bool, seed: int | None) -> list[Fold]:
    """Return shuffled folds that divide no group; none where there are fewer than two.

    Classes are in equal shares, as far as groups allow. A fold with only one class on a side is left out.

    Args:
        labels: [n], classes or numbers.
        groups: [n], which no fold divides.
        folds: at most this many.
        continuous: whether labels are numbers, which are not stratified.
        seed: of the shuffle.
    """
    k = min(folds, count_units(labels, groups, continuous))
    if k < 2:
        return []
    if are_trivial(groups):
        splitter = (KFold if continuous else StratifiedKFold)(k, shuffle=True, random_state=seed)
        return [Fold(*pair) for pair in splitter.split(np.empty((len(labels), 0)), labels)]
    # Whole groups are split, each by the class of most of its images. Where groups have images of both classes, a class
    # may be the majority of fewer than k groups, and scikit-learn cannot stratify by a class with fewer than k members.
    majorities = group_labels(labels, groups)
    stratified = not continuous and int(np.unique(majorities, return_counts=True)[1].min()) >= k
    splitter = (StratifiedKFold if stratified else KFold)(k, shuffle=True, random_state=seed)
    found = []
    for _, held_out in splitter.split(np.empty((len(majorities), 0)), majorities):
        is_test = np.isin(groups, held_out)
        split = Fold(np.flatnonzero(~is_test), np.flatnonzero(is_test))
        if continuous or all(len(np.unique(labels[side])) > 1 for side in split):
            found.append(split)
    return found if len(found) > 1 else []
