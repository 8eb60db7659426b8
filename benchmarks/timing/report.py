"""Rows as JSON, as tables, and as a page that keeps what was measured before on the same machine."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from math import isfinite, log10

from timing.spread import Spread

Cell = str | int | float | Spread | None
Row = Mapping[str, Cell]
"""One line of a table."""
Page = Mapping[str, str]
"""Text by heading, in order; the first one is the machine's."""


def as_json(section: str, row: Row) -> str:
    """Return a row as one line, with its section; a spread is its four numbers, what is not finite is null."""
    finite = {name: None if isinstance(cell, float) and not isfinite(cell) else cell for name, cell in row.items()}
    return json.dumps({"section": section, **finite})


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table with the columns of all of them."""
    columns = list(dict.fromkeys(chain.from_iterable(rows)))
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        lines.append([shown(row.get(column)) for column in columns])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(cell: Cell) -> str:
    """Format a cell with three digits; empty if it was not measured."""
    if isinstance(cell, Spread):
        if not cell.coverage:
            return shown(cell.median)
        return f"{shown(cell.median)} ({shown(cell.low)} to {shown(cell.high)})"
    if isinstance(cell, float) and isfinite(cell):
        digits = 3 if abs(cell) < 1 else max(0, 2 - int(log10(abs(cell))))
        return f"{cell:.{digits}f}"
    return "" if cell is None else str(cell)


def read(text: str) -> Page:
    """Return the sections of a page by heading."""
    parts = re.split(r"^## (.+)\n+", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


def merged(old: Page, new: Page) -> Page:
    """Merge new sections into the old ones, which are dropped if they are from another machine."""
    head = next(iter(new))
    kept = old if old.get(head) == new[head] else {}
    both = {**kept, **new}
    return {head: both.pop(head), **dict(sorted(both.items()))}


def write(title: str, page: Page) -> str:
    """Return the page as text, for `read`."""
    return "\n\n".join([f"# {title}", *(f"## {heading}\n\n{text}" for heading, text in page.items())]) + "\n"
