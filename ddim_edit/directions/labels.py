"""Which picture has which label: from a CSV, from two folders, or from a function of the file."""

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

Condition = Callable[[str], bool]
AnyPath = str | PathLike[str]

COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
COMPARISON = re.compile(rf"(>=|<=|>|<)\s*({NUMBER})")
RANGE = re.compile(rf"((?:{NUMBER})?)\s*\.\.\s*((?:{NUMBER})?)")
LARGEST = 1 << 28
"""Bytes of the largest CSV file that is read; it takes several times as much memory."""
FORMS = "a condition such as '>=55', '<3', '18..32' or 'yes'"


@dataclass(frozen=True, eq=False)
class Labelled:
    """Picture files and a number for each; a file may occur twice, and none is opened.

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
        """Files with their labels; labels that are all alike are refused, for nothing can be learnt from them.

        Raises:
            ArgumentError: no pairs, a label that is not finite, or only one value of label.
        """
        pairs = list(pairs)
        for file, label in pairs:
            if not math.isfinite(label):
                raise ArgumentError("finite labels", f"{label} for {file}", "leave that picture out")
        values = {label for _, label in pairs}
        if len(values) < 2:
            given = f"{len(pairs)} pictures with the label {values.pop():g}" if pairs else "no labelled picture"
            raise ArgumentError("labels of at least two values", given, "add pictures of another label")
        return cls(tuple(file for file, _ in pairs), np.array([label for _, label in pairs], np.float64))


def from_folders(with_: AnyPath, without: AnyPath) -> Labelled:
    """Label 1 for the pictures in one folder, 0 for those in the other; subfolders are left alone.

    Raises:
        ImageError: a folder that is missing, unreadable or without pictures.
        ArgumentError: a picture that is in both.
    """
    ones, zeros = find([with_]), find([without])
    both = {file.resolve() for file in ones} & {file.resolve() for file in zeros}
    if both:
        given = f"{len(both)} in both, the first of them {min(both)}"
        raise ArgumentError("each picture with or without the attribute", given, "name two separate folders")
    return Labelled.of([(file, 1.0) for file in ones] + [(file, 0.0) for file in zeros])


def from_callable(files: Iterable[AnyPath], label: Callable[[Path], float | bool | None]) -> Labelled:
    """The label that a function gives each file; files for which it answers None are left out.

    Raises:
        ArgumentError: no file is left, a label is not finite, or all are alike.
    """
    answers = [(path, label(path)) for path in map(Path, files)]
    return Labelled.of([(path, float(answer)) for path, answer in answers if answer is not None])


def read_csv(
    csv: AnyPath, column: str, images: AnyPath, positive: str | None = None, negative: str | None = None
) -> Labelled:
    """The labels in a column of a CSV file; it never looks at a picture, only whether its file is there.

    The first line names the columns, one of them `file`: paths relative to `images`. Commas, UTF-8. Rows with an
    empty cell in the column are left out. Without conditions the cells are the labels; with them those that meet
    `positive` are 1, those that meet `negative` are 0, and the rest is left out.

    Args:
        csv: the file.
        column: the column's name.
        images: the folder of the pictures, which no row may leave.
        positive: a condition, as `parse_condition` reads it.
        negative: another; without it, it is every cell that does not meet `positive`.

    Raises:
        ArgumentError: what is missing, malformed or contradictory, with its line; a class without pictures.
    """
    kept = _labelled(Path(csv), column, positive, negative)
    files = _existing(Path(images), [row for row, _ in kept])
    return Labelled.of(zip(files, (value for _, value in kept), strict=True))


def read_names(csv: AnyPath, column: str, positive: str | None = None, negative: str | None = None) -> dict[str, float]:
    """The labels in a column of a CSV file, as `read_csv` reads them, by what it calls the files; looks for none.

    Raises:
        ArgumentError: what is missing, malformed or contradictory, with its line; a class without pictures.
    """
    return {row.file: value for row, value in _labelled(Path(csv), column, positive, negative)}


def _labelled(csv: Path, column: str, positive: str | None, negative: str | None) -> list[tuple["_Row", float]]:
    """The rows that have a label, with it."""
    label = _labelling(positive, negative)
    labels = [(row, _label(row, label)) for row in _rows(csv, column)]
    kept = [(row, value) for row, value in labels if value is not None]
    _check_classes([value for _, value in kept], column, positive, negative)
    return kept


def parse_condition(text: str) -> Condition:
    """What a little text demands of a cell: a comparison, a range or one value; they do not combine.

    ">=55", "<=3", ">2" and "<3" compare numbers; "18..32" is a range with both ends in it; anything else is a
    value that the cell has to equal, as text or as a number ("1" is met by "1" and by "1.0").

    Raises:
        ArgumentError: a malformed text; the condition itself raises it for a cell that has to be a number and
            is not.
    """
    text = text.strip()
    if match := COMPARISON.fullmatch(text):
        return _Compared(COMPARISONS[match[1]], float(match[2]))
    if match := RANGE.fullmatch(text):
        return _range(text, *match.groups())
    if not text or text[0] in "<>=!":
        raise ArgumentError(FORMS, repr(text), "write it in one of these forms")
    return _Equal(text)


@dataclass(frozen=True)
class _Compared:
    compare: Callable[[float, float], bool]
    bound: float

    def __call__(self, cell: str) -> bool:
        return self.compare(_number(cell), self.bound)


@dataclass(frozen=True)
class _Within:
    low: float
    high: float

    def __call__(self, cell: str) -> bool:
        return self.low <= _number(cell) <= self.high


@dataclass(frozen=True)
class _Equal:
    text: str

    def __call__(self, cell: str) -> bool:
        return cell.strip() == self.text or _same_number(cell, self.text)


@dataclass(frozen=True)
class _Other:
    condition: Condition

    def __call__(self, cell: str) -> bool:
        return not self.condition(cell)


@dataclass(frozen=True)
class _Classes:
    positive: Condition
    negative: Condition

    def __call__(self, cell: str) -> float | None:
        one, zero = self.positive(cell), self.negative(cell)
        if one and zero:
            raise ArgumentError("conditions that exclude each other", f"{_short(cell)}, which meets both", "part them")
        return float(one) if one or zero else None


def _range(text: str, low: str, high: str) -> Condition:
    if not low or not high or float(low) > float(high):
        raise ArgumentError("a range such as '18..32'", repr(text), "give the lower end, then the higher one")
    return _Within(float(low), float(high))


def _number(cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError("a number", _short(cell), "correct that cell, or empty it to leave its picture out")
    return number


def _same_number(cell: str, text: str) -> bool:
    try:
        return float(cell) == float(text)
    except ValueError:
        return False


def _labelling(positive: str | None, negative: str | None) -> Callable[[str], float | None]:
    if positive is None and negative is None:
        return _number
    if positive is None:
        raise ArgumentError("a positive condition", f"only the negative one, '{negative}'", "say which pictures have 1")
    one = parse_condition(positive)
    return _Classes(one, _Other(one) if negative is None else parse_condition(negative))


class _Row(NamedTuple):
    line: int
    file: str
    cell: str


def _rows(csv: Path, column: str) -> list[_Row]:
    """The rows with something in the column."""
    (_, header), *lines = _lines(csv)
    names = [name.strip() for name in header]
    file, place = (_place(csv, names, name) for name in ("file", column))
    for line, cells in lines:
        if len(cells) > len(names):
            given = f"{len(cells)} in line {line} of {csv.name}"
            raise ArgumentError(f"{len(names)} cells in a row", given, "put cells with commas in quotes")
    rows = [_Row(line, _cell(cells, file), _cell(cells, place)) for line, cells in lines]
    return [row for row in rows if row.cell]


def _lines(csv: Path) -> list[tuple[int, list[str]]]:
    """The number and the cells of each line that is not blank; the first is the header."""
    # Without `strict`, a quote that is never closed would quietly swallow all that follows.
    table = reader(StringIO(_text(csv), newline=""), strict=True)
    try:
        lines = [(table.line_num, cells) for cells in table if cells]
    except CsvError as error:
        given = f"{csv.name}, where line {table.line_num} is none ({error})"
        raise ArgumentError("rows of comma-separated cells", given, "correct that line") from error
    if not lines:
        raise ArgumentError("a CSV file with a header", f"{csv.name}, which is empty", "name another file")
    return lines


def _text(csv: Path) -> str:
    wanted = "a CSV file in UTF-8"
    try:
        if csv.stat().st_size > LARGEST:
            raise ArgumentError(f"a CSV file of up to {LARGEST:,} bytes", f"{csv.name}, which is larger", "split it")
        text = csv.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ArgumentError(wanted, f"{csv} ({error.strerror})", "check the path") from error
    except UnicodeDecodeError as error:
        raise ArgumentError(wanted, f"{csv.name} in another encoding", "save it as UTF-8") from error
    if "\0" in text:
        raise ArgumentError(wanted, f"{csv.name}, which holds NUL bytes", "save it as plain text")
    return text


def _place(csv: Path, names: Sequence[str], name: str) -> int:
    if names.count(name) != 1:
        given = f"{names.count(name) or 'none'} in {csv.name}, which has {_some(names)}"
        raise ArgumentError(f"one column '{name}'", given, "name one of its columns, or correct its first line")
    return names.index(name)


def _some(names: Sequence[str]) -> str:
    more = [f"{len(names) - 20:,} more"] * (len(names) > 20)
    return ", ".join([*map(_short, names[:20]), *more])


def _cell(cells: Sequence[str], place: int) -> str:
    return cells[place].strip() if place < len(cells) else ""


def _label(row: _Row, label: Callable[[str], float | None]) -> float | None:
    try:
        return label(row.cell)
    except ArgumentError as error:
        wanted, given, remedy = error.args
        raise ArgumentError(wanted, f"{given} (line {row.line})", remedy) from None


def _check_classes(labels: Sequence[float], column: str, positive: str | None, negative: str | None) -> None:
    if positive is None:
        return
    meanings = {1.0: f"'{positive}'", 0.0: f"'{negative}'" if negative else f"anything but '{positive}'"}
    for label, meaning in meanings.items():
        if label not in labels:
            given = f"none among those with a value in the column '{column}'"
            raise ArgumentError(f"pictures that meet {meaning}", given, "loosen that condition")


def _existing(images: Path, rows: Sequence[_Row]) -> list[Path]:
    if not images.is_dir():
        raise ArgumentError("a folder of pictures", f"{images}, which is none", "check the path")
    files = [_inside(images, row) for row in rows]
    missing = [file for file in files if not _is_file(file)]
    if missing:
        first = missing[0].relative_to(images)
        given = f"{len(missing)} of {len(files)} that are not there, the first of them {_short(str(first))}"
        raise ArgumentError(f"the files of the rows in {images}", given, "check the folder and the column 'file'")
    return files


def _inside(images: Path, row: _Row) -> Path:
    file = images / row.file
    # As written, not as resolved: a folder of links to pictures elsewhere is common and meant.
    if not row.file or ".." in Path(row.file).parts or not file.is_relative_to(images):
        given = f"{_short(row.file)} in line {row.line}"
        raise ArgumentError(f"files inside {images}", given, "write paths relative to that folder, without '..'")
    return file


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, or a folder that may not be entered
        return False


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
