"""Labels of images: from a table, from two folders, or from a function of the file."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ddim_edit.directions.conditions import (
    UNKNOWN,
    Condition,
    is_number,
    is_same_number,
    names_number,
    parse_condition,
    read_number,
)
from ddim_edit.directions.label_tables import FOLDER, LabelRow, list_quoted, normalize, quote, read_label_rows
from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.images import find
from ddim_edit.images.finding import READABLE_SUFFIXES

AnyPath = str | PathLike[str]
SHOWN = 5
"""Values or names that a message lists."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Image files with a number for each; none is opened.

    Attributes:
        files: as many paths as labels, each once.
        labels: float64 [n], finite, of at least two different values; 1 and 0 where they are classes.
        groups: the group of each image, such as the person in it, None where it is not known; empty without groups.
        notes: what was counted and left out, in words.
        warnings: what the user should look at.
    """

    files: tuple[Path, ...]
    labels: NDArray[np.float64]
    groups: tuple[Hashable, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @classmethod
    def of(cls, pairs: Iterable[tuple[Path, float]], groups: Sequence[Hashable] = ()) -> Self:
        """Return files with their labels; a file that occurs again with the same label counts once.

        Args:
            pairs: files and labels.
            groups: of the pairs, or empty.

        Raises:
            ArgumentError: no pairs, a label that is not finite, one file with two labels or in two groups, or only one
                value of label, from which nothing can be learnt.
        """
        pairs = list(pairs)
        found: dict[Path, tuple[float, Hashable]] = {}
        for index, (file, label) in enumerate(pairs):
            if not math.isfinite(label):
                raise ArgumentError(f"{file}: labels must be finite, not {label}. Leave that image out.")
            entry = (label, groups[index] if groups else None)
            first = found.setdefault(Path(normalize(str(file))), entry)
            for what, one, other in zip(("label", "group"), first, entry, strict=True):
                if one != other:
                    one, other = (f"{each:g}" if isinstance(each, float) else each for each in (one, other))
                    raise ArgumentError(
                        f"{file} has the {what} {one} and, again, the {what} {other}. Correct one, or leave it out."
                    )
        if not pairs:
            raise ArgumentError("No image has a label. Labels of at least two values are needed.")
        if len({label for _, label in pairs}) < 2:
            raise ArgumentError(f"All {len(pairs)} images have the label {pairs[0][1]:g}. Add images with another one.")
        # Paths as they were given first: on disk their names may be in another form of Unicode.
        files = {Path(normalize(str(file))): file for file, _ in reversed(pairs)}
        labels = np.array([label for label, _ in found.values()], np.float64)
        notes = []
        if len(pairs) > len(found):
            notes.append(f"{len(pairs) - len(found)} of {len(pairs)} labels repeat those of other rows and count once")
        kept = tuple(group for _, group in found.values()) if groups else ()
        return cls(tuple(files[name] for name in found), labels, kept, tuple(notes))


def from_folders(with_: AnyPath, without: AnyPath, group: str | None = None) -> LabelledImages:
    """Label the images in one folder 1, and those in the other 0.

    Args:
        with_: a folder.
        without: another.
        group: None, then subfolders are ignored, or "folder": then images in subfolders are found too, and those in
            subfolders of one name, such as that of a person, are a group, in whichever of the two they are.

    Raises:
        ImageError: a folder that is missing, unreadable or without images.
        ArgumentError: an image that is in both, or another group.
    """
    if group not in (None, FOLDER):
        raise ArgumentError(f"Images in folders have no column {quote(str(group))}. Their group can be {FOLDER!r}.")
    pairs: list[tuple[Path, float]] = []
    groups: list[Hashable] = []
    for root, label in ((Path(with_), 1.0), (Path(without), 0.0)):
        files = find([root]) if group is None else _find_below(root)
        for file in files:
            parent = file.parent.relative_to(root).as_posix()
            pairs.append((file, label))
            groups.append(None if parent == "." else parent)
    both = {file.resolve() for file, label in pairs if label} & {file.resolve() for file, label in pairs if not label}
    if both:
        raise ArgumentError(f"{len(both)} images are in both folders, the first of them {min(both)}. Name two others.")
    found = LabelledImages.of(pairs, groups if group else ())
    ones = int(found.labels.sum())
    note = f"{ones} images with label 1 ({Path(with_).name}), {len(found) - ones} with label 0 ({Path(without).name})"
    return replace(found, notes=(*found.notes, note), warnings=_warn_of_groups(found.groups))


def _find_below(folder: Path) -> list[Path]:
    """Return the images in a folder and in its subfolders."""
    found: list[Path] = []
    for place in [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]:
        try:
            found += find([place])
        except ImageError:  # a folder that holds only folders
            continue
    return found or find([folder])


def from_callable(files: Iterable[AnyPath], label: Callable[[Path], float | bool | None]) -> LabelledImages:
    """Label files by a function; files for which it returns None are left out.

    Raises:
        ArgumentError: no file is left, a label is not finite, or all labels are the same.

    Examples:
        >>> found = from_callable(["old_1.png", "young_2.png"], lambda file: file.name.startswith("old"))
        >>> found.labels
        array([1., 0.])
    """
    pairs = []
    for file in map(Path, files):
        value = label(file)
        if value is not None:
            pairs.append((file, float(value)))
    return LabelledImages.of(pairs)


def read_csv(
    csv: AnyPath,
    column: str,
    images: AnyPath,
    positive: str | None = None,
    negative: str | None = None,
    group: str | None = None,
) -> LabelledImages:
    """Read labels from a column of a table; images are looked for, but not opened.

    The table is in UTF-8, of commas, semicolons, tabs or spaces, or the text file of CelebA. Its first line names the
    columns. One of them names the files, relative to `images`: the one called `file`, or else the only one whose cells
    are names of images. Names are compared in one form of Unicode; images that are not there are left out.

    Without conditions the cells are the labels, words such as yes and False being 1 and 0. With conditions those that
    meet `positive` are 1, those that meet `negative` are 0, and the rest is left out. Cells that say that nothing is
    known, such as "?", "NA" or an empty one, are left out, and so is 0 where the classes are -1 and 1, unless it meets
    a condition.

    Args:
        csv: the table.
        column: the column's name.
        images: the folder of the images, which no row may leave.
        positive: a condition, as `parse_condition` reads it.
        negative: another; without it, it is every known cell that does not meet `positive`. Where that is a number or a
            word for one, such as yes, only numbers and words for them are known.
        group: the column of groups, such as persons, compared without case, or "folder": the folder that an image lies
            in.

    Raises:
        ArgumentError: what is missing, malformed or contradictory, with its line; a class without images.
    """
    folder = Path(images)
    lookup = _FileLookup(folder)
    table = _read_labels(Path(csv), column, positive, negative, group, lambda name: lookup.find(name) is not None)
    if not folder.is_dir():
        raise ArgumentError(f"{folder}: there is no such folder of images. Check the path.")
    kept = []
    files = []
    missing = []
    for row, label in table.rows:
        # As written, not as resolved: a folder of links to images elsewhere is common and meant.
        if not row.file or ".." in Path(row.file).parts or not (folder / row.file).is_relative_to(folder):
            raise ArgumentError(
                f"{Path(csv).name}, line {row.line}: {quote(row.file)} is not inside of {folder}. Write paths "
                "relative to that folder, without '..'."
            )
        file = lookup.find(row.file)
        if file is None:
            missing.append(row.file)
        else:
            files.append(file)
            kept.append((row, label))
    warnings = []
    if missing:
        absent = f"{len(missing)} of {len(table.rows)} files of {Path(csv).name} are not there"
        if not kept:
            raise ArgumentError(
                f"{folder}: {absent}, the first of them {quote(missing[0])}. Check the folder and the column of files."
            )
        warnings.append(f"{folder}: {absent} and were left out: {list_quoted(missing, SHOWN)}")
    return _label(table._replace(rows=kept), files, warnings, group)


def read_names(
    csv: AnyPath,
    column: str,
    positive: str | None = None,
    negative: str | None = None,
    group: str | None = None,
    names: Iterable[str] | None = None,
) -> LabelledImages:
    """Read labels from a column of a table as `read_csv` does, for files that need not be there.

    Args:
        csv: the table.
        column: the column's name.
        positive: a condition.
        negative: another.
        group: the column of groups, or "folder".
        names: of images, by which the column of files is known; by default, by the suffixes of images.

    Returns:
        the images by the names that the table has for them.

    Raises:
        ArgumentError: what is missing, malformed or contradictory, with its line; a class without images.
    """
    known = None if names is None else frozenset(map(normalize, names))
    table = _read_labels(Path(csv), column, positive, negative, group, None if known is None else known.__contains__)
    return _label(table, [Path(row.file) for row, _ in table.rows], [], group)


class _LabelTable(NamedTuple):
    """The rows that have a label, with it, and what was left out, in words."""

    rows: list[tuple[LabelRow, float]]
    notes: list[str]


def _read_labels(
    csv: Path,
    column: str,
    positive: str | None,
    negative: str | None,
    group: str | None,
    exists: Callable[[str], bool] | None,
) -> _LabelTable:
    if positive is None and negative is not None:
        raise ArgumentError(f"The negative condition {negative!r} needs a positive one: say which images have 1.")
    is_positive = None if positive is None else parse_condition(positive)
    is_negative = None if negative is None else parse_condition(negative)
    # Where the classes are numbers or words for them, a cell such as "not sure" is of neither.
    is_coded = positive is not None and negative is None and names_number(positive)
    named = {normalize(text).casefold() for text in (positive, negative) if text is not None}
    rows, notes = read_label_rows(csv, column, group, exists)
    zero_is_unknown = _are_minus_one_and_one([row.cell for row in rows])
    labelled: list[tuple[LabelRow, float]] = []
    unknown: Counter[str] = Counter()
    neither: Counter[str] = Counter()
    for row in rows:
        word = row.cell.casefold()
        if word not in named and (word in UNKNOWN or (is_coded and not is_number(row.cell))):
            unknown[row.cell or "empty"] += 1
            continue
        try:
            label = _judge(row.cell, is_positive, is_negative)
        except ArgumentError as error:
            raise ArgumentError(f"{csv.name}, line {row.line}: {error}") from None
        if zero_is_unknown and is_negative is None and label != 1 and is_same_number(row.cell, "0"):
            unknown[row.cell] += 1
        elif label is None:
            neither[row.cell] += 1
        else:
            labelled.append((row, label))
    if positive is not None:
        found = {label for _, label in labelled}
        meanings = {1.0: repr(positive), 0.0: repr(negative) if negative else f"anything but {positive!r}"}
        for value, meaning in meanings.items():
            if value not in found:
                left_out = f" Left out as unknown: {_list_counts(unknown)}." if unknown else ""
                raise ArgumentError(
                    f"{csv.name}: no cell of column '{column}' meets {meaning}. Loosen that condition.{left_out}"
                )
    if unknown:
        notes.append(f"{csv.name}: {unknown.total()} rows left out as unknown: {_list_counts(unknown)}")
    if neither:
        notes.append(f"{csv.name}: {neither.total()} rows meet neither condition: {_list_counts(neither)}")
    return _LabelTable(labelled, notes)


def _judge(cell: str, is_positive: Condition | None, is_negative: Condition | None) -> float | None:
    """Return the label of a known cell, or None if it meets neither condition."""
    if is_positive is None:
        return read_number(cell)
    one = is_positive(cell)
    zero = not one if is_negative is None else is_negative(cell)
    if one and zero:
        raise ArgumentError(f"{quote(cell)} meets both conditions. Make them exclude each other.")
    return float(one) if one or zero else None


def _are_minus_one_and_one(cells: Sequence[str]) -> bool:
    """Return whether the classes are -1 and 1, as in CelebA, so that a 0 among them is neither."""
    values: set[float] = set()
    for cell in {cell for cell in cells if cell.casefold() not in UNKNOWN}:
        try:
            values.add(read_number(cell))
        except ArgumentError:
            return False
    return {-1.0, 1.0} <= values <= {-1.0, 0.0, 1.0}


def _label(table: _LabelTable, files: Sequence[Path], warnings: Sequence[str], group: str | None) -> LabelledImages:
    """Return files with the labels of their rows, and the counts of each label among the notes."""
    groups: list[Hashable] = []
    cells: dict[float, Counter[str]] = {}
    for row, label in table.rows:
        groups.append(None if row.group is None or row.group.casefold() in UNKNOWN else row.group.casefold())
        cells.setdefault(label, Counter())[row.cell] += 1
    pairs = [(file, label) for file, (_, label) in zip(files, table.rows, strict=True)]
    try:
        found = LabelledImages.of(pairs, groups if group else ())
    except ArgumentError as error:
        if len(cells) > 1:
            raise
        # One class or none is left, so what was left out is the reason.
        reasons = [f"{text}." for text in (*warnings, *table.notes)]
        raise ArgumentError(" ".join([str(error), *reasons])) from None
    if len(cells) == 2:
        parts = []
        for label in sorted(cells, reverse=True):
            parts.append(
                f"{int((found.labels == label).sum())} images with label {label:g} ({_list_counts(cells[label])})"
            )
        counted = ", ".join(parts)
    else:
        counted = f"{len(found)} images with labels from {found.labels.min():g} to {found.labels.max():g}"
    notes = (*table.notes, *found.notes, counted)
    return replace(found, notes=notes, warnings=(*warnings, *_warn_of_groups(found.groups)))


def _warn_of_groups(groups: Sequence[Hashable]) -> tuple[str, ...]:
    unknown = sum(group is None for group in groups)
    if not unknown:
        return ()
    return (f"{unknown} of {len(groups)} images are in no known group, and each counts as one of its own",)


def _list_counts(counts: Counter[str]) -> str:
    shown = ", ".join(f"{quote(cell)} {n}" for cell, n in counts.most_common(SHOWN))
    return f"{shown} and {len(counts) - SHOWN:,} more values" if len(counts) > SHOWN else shown


class _FileLookup:
    """Finds files of a folder by names in any form of Unicode, with either slash, or without their suffix."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        """Return the file of a name relative to the folder, or None."""
        if not name:
            return None
        for variant in dict.fromkeys((name, name.replace("\\", "/"))):
            if _is_file(self._folder / variant):
                return self._folder / variant
            parts = Path(variant).parts
            if ".." in parts or Path(variant).is_absolute():
                continue
            place = self._folder
            for part in parts:
                matches = self._list(place).get(normalize(part), [])
                if len(matches) != 1:
                    break
                place /= matches[0]
            else:
                if _is_file(place):
                    return place
        return None

    def _list(self, folder: Path) -> dict[str, list[str]]:
        """Return the names in a folder by their normal form, with and without their suffix."""
        if folder not in self._listings:
            names: dict[str, list[str]] = {}
            try:
                entries = sorted(folder.iterdir())
            except OSError:
                entries = []
            for entry in entries:
                names.setdefault(normalize(entry.name), []).append(entry.name)
                if entry.suffix.lower() in READABLE_SUFFIXES:
                    names.setdefault(normalize(entry.stem), []).append(entry.name)
            self._listings[folder] = names
        return self._listings[folder]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or a folder that may not be entered
        return False
