"""Labels of images: from a CSV, from two folders, or from a function of the file."""

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from csv import Error as CsvError
from csv import reader
from dataclasses import dataclass
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ddim_edit.errors import ArgumentError
from ddim_edit.images import find

AnyPath = str | PathLike[str]
Condition = Callable[[str], bool]
"""Whether the text of a cell meets a condition."""

COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
COMPARISON = re.compile(rf"(>=|<=|>|<)\s*({NUMBER})")
RANGE = re.compile(rf"((?:{NUMBER})?)\s*\.\.\s*((?:{NUMBER})?)")
LARGEST = 1 << 28
"""Bytes of the largest CSV file that is read; it takes several times as much memory."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Image files and a number for each; a file may occur twice, and none is opened.

    Attributes:
        files: as many paths as labels.
        labels: float64 [n], finite, of at least two different values; 1 and 0 where they are classes.
    """

    files: tuple[Path, ...]
    labels: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.files)

    @classmethod
    def of(cls, pairs: Iterable[tuple[Path, float]]) -> Self:
        """Return files with their labels.

        Raises:
            ArgumentError: no pairs, a label that is not finite, or only one value of label, from which nothing can be
                learnt.
        """
        pairs = list(pairs)
        for file, label in pairs:
            if not math.isfinite(label):
                raise ArgumentError(f"{file}: labels must be finite, not {label}. Leave that image out.")
        if not pairs:
            raise ArgumentError("No image has a label. Labels of at least two values are needed.")
        if len({label for _, label in pairs}) < 2:
            raise ArgumentError(f"All {len(pairs)} images have the label {pairs[0][1]:g}. Add images with another one.")
        return cls(tuple(file for file, _ in pairs), np.array([label for _, label in pairs], np.float64))


def from_folders(with_: AnyPath, without: AnyPath) -> LabelledImages:
    """Label the images in one folder 1, and those in the other 0; subfolders are ignored.

    Raises:
        ImageError: a folder that is missing, unreadable or without images.
        ArgumentError: an image that is in both.
    """
    ones, zeros = find([with_]), find([without])
    both = {file.resolve() for file in ones} & {file.resolve() for file in zeros}
    if both:
        raise ArgumentError(f"{len(both)} images are in both folders, the first of them {min(both)}. Name two others.")
    return LabelledImages.of([(file, 1.0) for file in ones] + [(file, 0.0) for file in zeros])


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
    csv: AnyPath, column: str, images: AnyPath, positive: str | None = None, negative: str | None = None
) -> LabelledImages:
    """Read labels from a column of a CSV file; images must be there, but are not opened.

    The first line names the columns, one of them `file`: paths relative to `images`. Commas, UTF-8. Rows with an empty
    cell in the column are left out. Without conditions the cells are the labels; with them those that meet `positive`
    are 1, those that meet `negative` are 0, and the rest is left out.

    Args:
        csv: the file.
        column: the column's name.
        images: the folder of the images, which no row may leave.
        positive: a condition, as `parse_condition` reads it.
        negative: another; without it, it is every cell that does not meet `positive`.

    Raises:
        ArgumentError: what is missing, malformed or contradictory, with its line; a class without images.
    """
    folder = Path(images)
    labelled = _label_rows(Path(csv), column, positive, negative)
    if not folder.is_dir():
        raise ArgumentError(f"{folder}: there is no such folder of images. Check the path.")
    pairs = []
    missing = []
    for row, label in labelled:
        file = folder / row.file
        # As written, not as resolved: a folder of links to images elsewhere is common and meant.
        if not row.file or ".." in Path(row.file).parts or not file.is_relative_to(folder):
            raise ArgumentError(
                f"{Path(csv).name}, line {row.line}: {_quote(row.file)} is not inside of {folder}. Write paths "
                "relative to that folder, without '..'."
            )
        if not _is_file(file):
            missing.append(row.file)
        pairs.append((file, label))
    if missing:
        raise ArgumentError(
            f"{folder}: {len(missing)} of {len(pairs)} files of {Path(csv).name} are not there, the first of them "
            f"{_quote(missing[0])}. Check the folder and the column 'file'."
        )
    return LabelledImages.of(pairs)


def read_names(csv: AnyPath, column: str, positive: str | None = None, negative: str | None = None) -> dict[str, float]:
    """Read labels from a column of a CSV file as `read_csv` does, by file name; no file needs to be there.

    Raises:
        ArgumentError: what is missing, malformed or contradictory, with its line; a class without images.
    """
    return {row.file: value for row, value in _label_rows(Path(csv), column, positive, negative)}


def parse_condition(text: str) -> Condition:
    """Return the condition on a cell that a text describes: a comparison, a range or one value.

    ">=55", "<=3", ">2" and "<3" compare numbers; "18..32" is a range that includes both ends; anything else is a value
    that the cell has to equal, as text or as a number ("1" is met by "1" and by "1.0"). They do not combine.

    Raises:
        ArgumentError: a malformed text; the condition itself raises it for a cell that has to be a number and is not.

    Examples:
        >>> parse_condition("18..32")("25.5")
        True
        >>> parse_condition("yes")("no")
        False
    """
    text = text.strip()
    if match := COMPARISON.fullmatch(text):
        compare, bound = COMPARISONS[match[1]], float(match[2])
        return lambda cell: compare(_parse_number(cell), bound)
    if match := RANGE.fullmatch(text):
        low, high = match.groups()
        if not low or not high or float(low) > float(high):
            raise ArgumentError(f"{text!r} is not a range such as '18..32'. Give the lower end, then the higher one.")
        return lambda cell: float(low) <= _parse_number(cell) <= float(high)
    if not text or text[0] in "<>=!":
        raise ArgumentError(f"{text!r} is not a condition such as '>=55', '<3', '18..32' or 'yes'.")
    return lambda cell: cell.strip() == text or _is_same_number(cell, text)


def _parse_number(cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError(f"{_quote(cell)} is not a number. Correct that cell, or empty it to leave its image out.")
    return number


def _is_same_number(cell: str, text: str) -> bool:
    try:
        return float(cell) == float(text)
    except ValueError:
        return False


class _CsvRow(NamedTuple):
    line: int
    file: str
    cell: str


def _label_rows(csv: Path, column: str, positive: str | None, negative: str | None) -> list[tuple[_CsvRow, float]]:
    """Return the rows that have a label, with it."""
    if positive is None and negative is not None:
        raise ArgumentError(f"The negative condition {negative!r} needs a positive one: say which images have 1.")
    is_positive = None if positive is None else parse_condition(positive)
    is_negative = None if negative is None else parse_condition(negative)
    labelled = []
    for row in _read_rows(csv, column):
        try:
            if is_positive is None:
                label: float | None = _parse_number(row.cell)
            else:
                one = is_positive(row.cell)
                zero = not one if is_negative is None else is_negative(row.cell)
                if one and zero:
                    raise ArgumentError(f"{_quote(row.cell)} meets both conditions. Make them exclude each other.")
                label = float(one) if one or zero else None
        except ArgumentError as error:
            raise ArgumentError(f"{csv.name}, line {row.line}: {error}") from None
        if label is not None:
            labelled.append((row, label))
    if positive is not None:
        found = {label for _, label in labelled}
        meanings = {1.0: repr(positive), 0.0: repr(negative) if negative else f"anything but {positive!r}"}
        for value, meaning in meanings.items():
            if value not in found:
                raise ArgumentError(f"{csv.name}: no cell of column '{column}' meets {meaning}. Loosen that condition.")
    return labelled


def _read_rows(csv: Path, column: str) -> list[_CsvRow]:
    """Return the rows that have something in the column."""
    # Without `strict`, a quote that is never closed would quietly swallow all that follows.
    table = reader(StringIO(_read_text(csv), newline=""), strict=True)
    try:
        lines = [(table.line_num, cells) for cells in table if cells]
    except CsvError as error:
        raise ArgumentError(
            f"{csv.name}, line {table.line_num}: not comma-separated cells ({error}). Correct that line."
        ) from error
    if not lines:
        raise ArgumentError(f"{csv.name}: the file is empty. Name a CSV file with a header.")
    names = [name.strip() for name in lines[0][1]]
    file_index, label_index = _find_column(csv, names, "file"), _find_column(csv, names, column)
    rows = []
    for number, cells in lines[1:]:
        if len(cells) > len(names):
            raise ArgumentError(
                f"{csv.name}, line {number}: {len(cells)} cells, but the header has {len(names)}. Put cells with "
                "commas in quotes."
            )
        # Rows may end early, where the last cells are empty.
        padded = [*cells, *[""] * (len(names) - len(cells))]
        row = _CsvRow(number, padded[file_index].strip(), padded[label_index].strip())
        if row.cell:
            rows.append(row)
    return rows


def _read_text(csv: Path) -> str:
    try:
        if csv.stat().st_size > LARGEST:
            raise ArgumentError(f"{csv.name}: a CSV file may have at most {LARGEST:,} bytes. Split it.")
        text = csv.read_bytes().decode("utf-8-sig")  # spreadsheets begin their files with a byte order mark
    except OSError as error:
        raise ArgumentError(f"{csv}: cannot read: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{csv.name}: it is not UTF-8. Save it as CSV in UTF-8.") from error
    if "\0" in text:
        raise ArgumentError(f"{csv.name}: it holds NUL bytes. Save it as CSV in UTF-8.")
    return text


def _find_column(csv: Path, names: Sequence[str], name: str) -> int:
    if names.count(name) == 1:
        return names.index(name)
    shown = ", ".join(_quote(each) for each in names[:20])
    if len(names) > 20:
        shown += f" and {len(names) - 20:,} more"
    number = f"{names.count(name)} columns" if name in names else "no column"
    raise ArgumentError(f"{csv.name}: the header has {number} '{name}', but {shown}. Exactly one is needed.")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, or a folder that may not be entered
        return False


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
