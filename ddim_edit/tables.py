"""Tables: as text for terminals and in Markdown, with columns as wide as their widest cell; in HTML for notebooks."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

LONGEST_NAME = 20
"""Characters of the first cell of a row that a plain table shows, so that its lines fit a terminal."""


def plain_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table without lines, two spaces apart. The first column is left-aligned, the others right-aligned.

    Examples:
        >>> print(plain_table(["", "PSNR"], [["a", "41.2"], ["mean", "41.2"]]))
              PSNR
        a     41.2
        mean  41.2
    """
    shown = [[cells[0][:LONGEST_NAME], *cells[1:]] for cells in [titles, *rows]]
    return "\n".join("  ".join(cells).rstrip() for cells in _align(shown))


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that reads well as plain text too, aligned as a plain one.

    Examples:
        >>> print(markdown_table(["S", "MSE"], [["10", "0.01"]]))
        | S  |  MSE |
        | -- | ---- |
        | 10 | 0.01 |
    """
    head, *body = _align([titles, *rows])
    lines = [head, ["-" * len(cell) for cell in head], *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def html_summary(title: str, entries: Mapping[str, object], png: bytes | None = None) -> str:
    """Return what a notebook shows of an object: a title, an image if there is one, and a table of two columns.

    Examples:
        >>> html_summary("Latent", {"t": 1000})
        '<div><b>Latent</b><table><tr><th>t</th><td>1000</td></tr></table></div>'
    """
    image = ""
    if png is not None:
        image = f'<br><img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    rows = ""
    for name, value in entries.items():
        rows += f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
    return f"<div><b>{escape(title)}</b>{image}<table>{rows}</table></div>"


def _align(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the cells, filled up with spaces to the width of their column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned: list[list[str]] = []
    for cells in rows:
        line = [cells[0].ljust(widths[0])]
        line += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        aligned.append(line)
    return aligned
