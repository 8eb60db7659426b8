"""Tables of labels as people have them: CSV with any delimiter, and the text files of CelebA."""

import csv
import re
import unicodedata
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from ddim_edit.errors import ArgumentError
from ddim_edit.images.finding import READABLE_SUFFIXES
from ddim_edit.io import schema
from ddim_edit.io.content import describe_file

LARGEST = 1 << 28
"""Bytes of the largest table that is read; it takes several times as much memory."""
FILE_COLUMNS = ("file", "filename", "file_name", "filepath", "image", "image_id", "image_name", "img", "path", "name")
"""Names of the column of files, where its cells do not tell; in any case."""
FOLDER = "folder"
"""The group that is no column: the folder that an image lies in, as where each person has one."""
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
LOOKED_AT = 100
"""Rows by which the column of files is known."""


class LabelRow(NamedTuple):
    """A row of a table: its line, the file it names, and its cells in the column of labels and in that of groups."""

    line: int
    file: str
    cell: str
    group: str | None


class Table(NamedTuple):
    """A table: the names of its columns, its rows with their lines, and what to tell about it."""

    columns: Sequence[str]
    rows: Sequence[tuple[int, Sequence[str]]]
    notes: Sequence[str]


def read_label_rows(
    file: Path, column: str, group: str | None = None, exists: Callable[[str], bool] | None = None
) -> tuple[list[LabelRow], list[str]]:
    """Return the rows of a table, and what to tell about it.

    Args:
        file: the table.
        column: name of the column of labels.
        group: name of the column of groups, or `FOLDER` where there is no column of that name.
        exists: whether a cell names an image; where that is not known, or true of no column, those that end as one do.

    Raises:
        ArgumentError: what is missing or malformed, with its line.
    """
    table = read_table(file)
    label_index = _find_column(file, table.columns, column)
    group_index = None
    if group is not None and (group != FOLDER or group in table.columns):
        group_index = _find_column(file, table.columns, group)
    file_index = _find_files(file, table, (label_index, group_index), exists)
    rows = []
    for line, cells in table.rows:
        name = normalize(cells[file_index])
        key = None
        if group_index is not None:
            key = normalize(cells[group_index])
        elif group is not None:
            # Names of both systems, as label files travel.
            parent = name.replace("\\", "/").rpartition("/")[0]
            key = parent or None
        rows.append(LabelRow(line, name, normalize(cells[label_index]), key))
    return rows, list(table.notes)


def read_table(file: Path) -> Table:
    """Return a table of commas, semicolons, tabs or spaces, with a line of column names.

    In the text files of CelebA the number of rows is above the names, and the first column, of files, has none: it is
    called "file" here.

    Raises:
        ArgumentError: a file that cannot be read, or is no table.
    """
    text = read_text(file)
    first, rest = _split_line(text)
    notes: list[str] = []
    count = None
    skipped = 0
    delimiter = ""
    if found := re.fullmatch(r"sep=(.)", first.strip()):  # as Excel writes above its tables
        delimiter = found[1]
        text = rest
        skipped = 1
    elif re.fullmatch(r"\s*\d{1,15}\s*", first) and rest.strip():
        count = int(first)
        text = rest
        skipped = 1
    header = _split_line(text)[0]
    rows = _split_cells(file, text, delimiter or _find_delimiter(header), skipped)
    if not rows:
        raise ArgumentError(f"{file.name}: the file is empty. Name a table with a line of column names.")
    names = [normalize(name) for name in rows[0][1]]
    body = rows[1:]
    if body and all(len(cells) == len(names) + 1 for _, cells in body):
        if not any(cells[-1].strip() for _, cells in body):  # a delimiter at the end of each row
            body = [(line, cells[:-1]) for line, cells in body]
        elif all(_looks_like_image(cells[0]) for _, cells in body):
            names = ["file", *names]
    images = [name for name in names if _looks_like_image(name)]
    if images:
        raise ArgumentError(
            f"{file.name}: its first line must name the columns, but it names the image {quote(images[0])}. Put a line "
            "such as file,label above it."
        )
    if count is not None and count != len(body):
        notes.append(f"{file.name}: its first line says {count} rows, but {len(body)} follow")
    padded = []
    for line, cells in body:
        if len(cells) > len(names):
            raise ArgumentError(
                f"{file.name}, line {line}: {len(cells)} cells, but the header has {len(names)}. Put cells with "
                "commas in quotes."
            )
        # Rows may end early, where the last cells are empty.
        padded.append((line, [*cells, *[""] * (len(names) - len(cells))]))
    return Table(names, padded, notes)


def read_text(file: Path) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        ArgumentError: it cannot be read, is too large or is no text.
    """
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe would be waited for without end
            raise ArgumentError(f"{file}: not a regular file. Save the table to one first.")
        if file.stat().st_size > LARGEST:
            raise ArgumentError(f"{file.name}: a CSV file may have at most {LARGEST:,} bytes. Split it.")
        text = file.read_bytes().decode("utf-8-sig")  # spreadsheets begin their files with a byte order mark
    except OSError as error:
        raise ArgumentError(f"{file}: cannot read: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise ArgumentError(
            f"{file.name}: it is {describe_file(file) or 'not UTF-8'}. Save it as CSV in UTF-8."
        ) from error
    if "\0" in text:
        kind = describe_file(file)
        problem = f"is {kind}" if kind else "holds NUL bytes"
        raise ArgumentError(f"{file.name}: it {problem}. Save it as CSV in UTF-8.")
    return text


def normalize(text: str) -> str:
    """Return a text without outer spaces, in the composed form (NFC): macOS writes names in the other one."""
    return unicodedata.normalize("NFC", text.strip())


def quote(text: str) -> str:
    """Return a text in quotes, cut short."""
    return repr(schema.shorten(text, 80))


def list_quoted(texts: Sequence[str], most: int = 20) -> str:
    """Return the first of some texts in quotes, and how many more there are."""
    shown = ", ".join(quote(text) for text in texts[:most])
    return f"{shown} and {len(texts) - most:,} more" if len(texts) > most else shown


def _split_line(text: str) -> tuple[str, str]:
    """Return the first line, and what follows it."""
    parts = re.split(r"\r\n|\n|\r", text, maxsplit=1)
    return parts[0], parts[1] if len(parts) > 1 else ""


def _find_delimiter(header: str) -> str:
    """Return what separates the names of columns: the most frequent of tab, semicolon and comma, or else spaces."""
    bare = re.sub(r'"[^"]*"', "", header)
    counts = {delimiter: bare.count(delimiter) for delimiter in "\t;,"}
    best = max(counts, key=lambda delimiter: counts[delimiter])
    if counts[best]:
        return best
    return " " if len(bare.split()) > 1 else ","


def _split_cells(file: Path, text: str, delimiter: str, skipped: int) -> list[tuple[int, list[str]]]:
    """Return the cells of all lines that have some, with the number of the line."""
    if delimiter == " ":
        lines = re.split(r"\r\n|\n|\r", text)
        return [(skipped + number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    # Without `strict`, a quote that is never closed would quietly swallow all that follows.
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found = []
    try:
        for cells in reader:
            if delimiter != ",":  # where commas are free to be decimal points
                cells = [each.replace(",", ".") if DECIMAL_COMMA.fullmatch(each.strip()) else each for each in cells]
            if any(each.strip() for each in cells):
                found.append((skipped + reader.line_num, cells))
    except csv.Error as error:
        kind = {",": "comma-separated", ";": "semicolon-separated", "\t": "tab-separated"}.get(delimiter, "separate")
        raise ArgumentError(
            f"{file.name}, line {skipped + reader.line_num}: not {kind} cells ({error}). Correct that line."
        ) from error
    return found


def _find_column(file: Path, names: Sequence[str], name: str) -> int:
    name = normalize(name)
    if names.count(name) == 1:
        return names.index(name)
    number = f"{names.count(name)} columns" if name in names else "no column"
    raise ArgumentError(
        f"{file.name}: the header has {number} '{name}', but {list_quoted(names)}. Exactly one is needed."
    )


def _find_files(file: Path, table: Table, others: Sequence[int | None], exists: Callable[[str], bool] | None) -> int:
    """Return the column of files: the one called so, or else the only one whose cells name images."""
    if "file" in table.columns:
        return _find_column(file, table.columns, "file")
    free = [index for index in range(len(table.columns)) if index not in others]
    naming: list[int] = []
    for names_image in (exists, _looks_like_image):
        if names_image is not None and not naming:
            naming = [index for index in free if _names_images(table, index, names_image)]
    known = [index for index in naming or free if table.columns[index].casefold() in FILE_COLUMNS]
    for candidates in (naming, known):
        if len(candidates) == 1:
            return candidates[0]
    problem = "several columns that name images" if naming else "no column 'file', nor another that names images"
    raise ArgumentError(
        f"{file.name}: the header has {problem}: {list_quoted(table.columns)}. Call one of them 'file'."
    )


def _names_images(table: Table, index: int, names_image: Callable[[str], bool]) -> bool:
    """Return whether half of the first cells of a column name images."""
    sample = [normalize(cells[index]) for _, cells in table.rows[:LOOKED_AT]]
    hits = sum(names_image(cell) for cell in sample)
    return hits > 0 and 2 * hits >= len(sample)


def _looks_like_image(cell: str) -> bool:
    return Path(cell.replace("\\", "/")).suffix.lower() in READABLE_SUFFIXES
