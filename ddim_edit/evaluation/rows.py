"""Rows of an evaluation: one image at one setting, and their CSV file."""

import csv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ddim_edit.errors import ArgumentError
from ddim_edit.io.atomic import atomic
from ddim_edit.metrics.registry import METRICS


class EvaluationSetting(NamedTuple):
    """How images were inverted and decoded: a solver or baseline, a grid, its steps, and whether it was iterated."""

    solver: str
    grid: str
    steps: int
    exact: bool = False


@dataclass(frozen=True)
class EvaluationRow:
    """One image at one setting, in JSON types.

    Attributes:
        image: name of its file, or its number in a tensor.
        source: SHA-256 of the file, or of the tensor.
        setting: how it was inverted and decoded.
        converged: whether every tolerance was met and x_T is finite.
        nfe_in: network evaluations of the inversion.
        nfe_out: network evaluations of the decoding.
        atypicality: how far the image is from typical ones of the model; None where that is not known.
        deviation: how far x_T is from white noise, above 1 for latents that are not healthy; None where that is not
            known.
        scores: value of every metric in `metrics.METRICS`; None where it is not finite, as the PSNR of equal images.
    """

    image: str
    source: str
    setting: EvaluationSetting
    converged: bool
    nfe_in: int
    nfe_out: int
    scores: Mapping[str, float | None]
    atypicality: float | None = None
    deviation: float | None = None

    @classmethod
    def from_cells(cls, cells: Mapping[str, str]) -> "EvaluationRow":
        """Return the row of the cells of a CSV file by column; ValueError for cells that are no numbers."""
        scores: dict[str, float | None] = {}
        for name in (*METRICS, *_OPTIONAL_COLUMNS):
            cell = cells.get(name, "")
            scores[name] = float(cell) if cell else None
        atypicality, deviation = (scores.pop(name) for name in _OPTIONAL_COLUMNS)
        return cls(
            image=cells["picture"],
            source=cells["source"],
            setting=EvaluationSetting(cells["solver"], cells["grid"], int(cells["steps"]), bool(int(cells["exact"]))),
            converged=bool(int(cells["converged"])),
            nfe_in=int(cells["nfe_in"]),
            nfe_out=int(cells["nfe_out"]),
            scores=scores,
            atypicality=atypicality,
            deviation=deviation,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the row as one flat mapping, in the order of the CSV file's columns."""
        return {
            "picture": self.image,
            "source": self.source,
            **self.setting._asdict(),
            "converged": self.converged,
            "nfe_in": self.nfe_in,
            "nfe_out": self.nfe_out,
            **self.scores,
            "atypicality": self.atypicality,
            "deviation": self.deviation,
        }


_OPTIONAL_COLUMNS = ("atypicality", "deviation")
_FIXED_COLUMNS = ("picture", "source", *EvaluationSetting._fields, "converged", "nfe_in", "nfe_out")
# File names may be bytes that are no text; Python's surrogates are written back as the bytes that they stand for.
_TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}


@contextmanager
def row_writer(path: Path) -> Iterator[Callable[[EvaluationRow], object]]:
    """Yield a function that appends a row to a CSV file, which appears when the block ends without an error.

    Floats are written in full, so that they read back as they were. None is an empty cell, and booleans are 1 or 0.

    Raises:
        OSError: as the system raised it.
    """
    with atomic(path) as temporary, temporary.open("w", buffering=1, **_TEXT) as file:
        writer = csv.DictWriter(file, [*_FIXED_COLUMNS, *METRICS, *_OPTIONAL_COLUMNS], lineterminator="\n")
        writer.writeheader()

        def write(row: EvaluationRow) -> None:
            cells = row.to_json()
            for name in ("exact", "converged"):
                cells[name] = int(cells[name])
            writer.writerow(cells)

        yield write


def read_rows(path: Path) -> tuple[EvaluationRow, ...]:
    """Return the rows of a CSV file that `row_writer` wrote.

    Columns are found by name; a metric without a column has no value in any row.

    Raises:
        ArgumentError: a file with other columns or values, or one that cannot be read.
    """
    try:
        with path.open(**_TEXT) as file:
            reader = csv.reader(file)
            titles = next(reader, [])
            expected = {*_FIXED_COLUMNS, *METRICS, *_OPTIONAL_COLUMNS}
            if not set(_FIXED_COLUMNS) <= set(titles) <= expected or len(set(titles)) < len(titles):
                raise ArgumentError(f"{path.name}: not the rows of an evaluation: its columns are others.")
            return tuple(EvaluationRow.from_cells(dict(zip(titles, line, strict=True))) for line in reader)
    except OSError as error:
        raise ArgumentError(f"{path.name}: cannot read the rows of the evaluation: {error.strerror}.") from error
    except (ValueError, csv.Error) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(f"{path.name}: not the rows of an evaluation: its values are others.") from error
