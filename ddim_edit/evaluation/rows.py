"""What was measured of one picture at one setting, and rows of that as CSV."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from ddim_edit.errors import ArgumentError
from ddim_edit.io.atomic import atomic

FIGURES: Mapping[str, tuple[float, float]] = {
    "lpips": (0.0, math.inf),
    "psnr": (-math.inf, math.inf),
    "ssim": (-1.0, 1.0),
    "mse": (0.0, math.inf),
    "identical_pixels": (0.0, 1.0),
}
"""What is measured of a picture, and between which values it lies."""


class Setting(NamedTuple):
    """A way there and back: a solver or whom we compare with, a grid, its steps, and whether it was iterated."""

    solver: str
    grid: str
    steps: int
    exact: bool = False


@dataclass(frozen=True)
class EvaluationRow:
    """One picture at one setting, in plain JSON types; what is not finite is None, as the PSNR of equal pictures.

    Attributes:
        picture: its file's name, or its number in a tensor.
        source: SHA-256 of the file, or of the tensor.
        solver: one of `SOLVERS` or `OPPONENTS`.
        grid: which times were visited.
        steps: S.
        exact: whether the inversion was iterated.
        converged: whether every tolerance was met, and x_T is finite.
        nfe_in: network evaluations on the way to x_T.
        nfe_out: and on the way back.
        lpips: learned perceptual distance, 0 for equal pictures.
        psnr: peak signal-to-noise ratio in dB.
        ssim: structural similarity, 1 for equal pictures.
        mse: mean squared error per dimension, of pictures in [0, 1].
        identical_pixels: share of pixels that are the same in 8 bit, from 0 to 1.
    """

    picture: str
    source: str
    solver: str
    grid: str
    steps: int
    exact: bool
    converged: bool
    nfe_in: int
    nfe_out: int
    lpips: float | None
    psnr: float | None
    ssim: float | None
    mse: float | None
    identical_pixels: float | None

    @property
    def setting(self) -> Setting:
        """Everything but the picture."""
        return Setting(self.solver, self.grid, self.steps, self.exact)


COLUMNS = tuple(field.name for field in fields(EvaluationRow))
# Names of files may be no text; what Python makes of them is written back as the bytes that they are.
_TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}


@contextmanager
def row_writer(path: Path) -> Iterator[Callable[[EvaluationRow], object]]:
    """A function that writes one row after another as CSV; the file appears when the block ends well, or not at all.

    Figures are written in full, so that they read back as they were; None is an empty cell, and truth is 1 or 0.

    Errors: OSError as the system raised it.
    """
    with atomic(path) as temporary, temporary.open("w", buffering=1, **_TEXT) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        yield lambda row: writer.writerow([int(each) if isinstance(each, bool) else each for each in astuple(row)])


def read_rows(path: Path) -> tuple[EvaluationRow, ...]:
    """The rows of a CSV that `row_writer` wrote; of no other.

    Raises:
        ArgumentError: a file with other columns or values, or one that cannot be read.
    """
    try:
        with path.open(**_TEXT) as file:
            titles, *lines = csv.reader(file)
            if tuple(titles) != COLUMNS:
                raise _foreign(path, "one with other columns")
            return tuple(_row(line) for line in lines)
    except OSError as error:
        raise _foreign(path, error.strerror or "an unreadable one") from error
    except (ValueError, TypeError, csv.Error) as error:
        if isinstance(error, ArgumentError):
            raise
        raise _foreign(path, "one with other values") from error


def _row(cells: list[str]) -> EvaluationRow:
    picture, source, solver, grid, steps, exact, converged, nfe_in, nfe_out, *figures = cells
    values = [float(cell) if cell else None for cell in figures]
    counts = int(steps), bool(int(exact)), bool(int(converged)), int(nfe_in), int(nfe_out)
    return EvaluationRow(picture, source, solver, grid, *counts, *values)


def _foreign(path: Path, given: str) -> ArgumentError:
    return ArgumentError(f"the rows of an evaluation in {path.name}", f"{given}", "name a folder that evaluate wrote")
