"""Means over pictures, and how sure they are."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy.special import stdtrit

from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.rows import FIGURES, EvaluationRow, Setting

COVERED = 0.95
"""How often an interval holds the mean of the pictures' whole kind."""


class Interval(NamedTuple):
    """A mean and the ends of its interval; of a single picture there is no interval."""

    mean: float
    low: float | None
    high: float | None


def interval(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Interval:
    """The mean of values and Student's 95 % interval of it; says nothing of how single values are spread.

    mean -+ t sd / sqrt(n), t the 97.5 % point of Student's distribution with n - 1 degrees of freedom, sd with n - 1.
    Exact for normal values; of few and skewed ones it holds the mean less often than it says. What lies beyond
    the values that the mean can take is cut off, which costs no coverage.

    Args:
        values: independent ones, at least 1, all finite.
        least: no mean can be below this.
        most: or above this.

    Raises:
        ArgumentError: no values.

    Student (1908).
    """
    if not values:
        raise ArgumentError("at least one value", "none", "measure a picture")
    n, mean = len(values), fmean(values)
    if n == 1:
        return Interval(mean, None, None)
    reach = float(stdtrit(n - 1, (1 + COVERED) / 2)) * stdev(values) / math.sqrt(n)
    return Interval(mean, max(mean - reach, least), min(mean + reach, most))


@dataclass(frozen=True)
class Summary:
    """One setting over all its pictures.

    Attributes:
        setting: which.
        pictures: how many.
        converged: how many of them met every tolerance.
        nfe: evaluations there and back, the mean over the pictures.
        lpips: as the row's, over the pictures; None where that of a single one is not finite.
        psnr: likewise; the mean of decibels, which is not the decibels of the mean.
        ssim: likewise.
        mse: likewise.
        identical_pixels: likewise.
    """

    setting: Setting
    pictures: int
    converged: int
    nfe: float
    lpips: Interval | None
    psnr: Interval | None
    ssim: Interval | None
    mse: Interval | None
    identical_pixels: Interval | None

    def as_json(self) -> dict[str, Any]:
        """The summary in plain JSON types."""
        figures = {name: getattr(self, name) for name in FIGURES}
        told = {name: None if figure is None else figure._asdict() for name, figure in figures.items()}
        return {
            **self.setting._asdict(),
            "pictures": self.pictures,
            "converged": self.converged,
            "nfe": self.nfe,
            **told,
        }


def summaries(rows: Iterable[EvaluationRow]) -> tuple[Summary, ...]:
    """One summary for each setting, in the order of their first rows, by rising steps within each way."""
    groups: dict[Setting, list[EvaluationRow]] = {}
    for row in rows:
        groups.setdefault(row.setting, []).append(row)
    ways = list(dict.fromkeys(setting._replace(steps=0) for setting in groups))
    order = sorted(groups, key=lambda setting: (ways.index(setting._replace(steps=0)), setting.steps))
    return tuple(_summary(setting, groups[setting]) for setting in order)


def _summary(setting: Setting, rows: Sequence[EvaluationRow]) -> Summary:
    figures = {name: _over([getattr(row, name) for row in rows], *ends) for name, ends in FIGURES.items()}
    nfe = fmean(row.nfe_in + row.nfe_out for row in rows)
    return Summary(setting, len(rows), sum(row.converged for row in rows), nfe, **figures)


def _over(values: Sequence[float | None], least: float, most: float) -> Interval | None:
    known = [value for value in values if value is not None]
    return interval(known, least, most) if len(known) == len(values) else None
