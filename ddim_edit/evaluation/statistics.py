"""Means over images with confidence intervals."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy.special import stdtrit

from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.rows import EvaluationRow, EvaluationSetting
from ddim_edit.metrics.registry import METRICS

CONFIDENCE = 0.95
"""Probability with which an interval covers the mean of the population that the images were drawn from."""


class Interval(NamedTuple):
    """A mean and its confidence interval; a single value has no interval."""

    mean: float
    low: float | None
    high: float | None


def interval(values: Sequence[float], lowest: float = -math.inf, highest: float = math.inf) -> Interval:
    """Return the mean of values with Student's 95 % confidence interval.

    mean -+ t sd / sqrt(n), t the 97.5 % quantile of Student's distribution with n - 1 degrees of freedom. Exact for
    normal values; for few and skewed ones it covers the mean less often than 95 %. The interval is clipped to the
    values that the mean can take, which costs no coverage.

    Args:
        values: independent and finite, at least 1.
        lowest: smallest possible mean.
        highest: largest possible mean.

    Raises:
        ArgumentError: no values.

    References:
        Student, "The Probable Error of a Mean", Biometrika 6, 1908.

    Examples:
        >>> interval([1.0, 2.0, 3.0]).mean
        2.0
    """
    if not values:
        raise ArgumentError("An interval needs at least one value.")
    n = len(values)
    mean = fmean(values)
    if n == 1:
        return Interval(mean, None, None)
    half_width = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(n)
    return Interval(mean, max(mean - half_width, lowest), min(mean + half_width, highest))


@dataclass(frozen=True)
class Summary:
    """One setting, summarised over its images.

    Attributes:
        setting: which.
        images: number of images.
        converged: how many of them met every tolerance.
        nfe: network evaluations of inversion and decoding, the mean over the images.
        scores: mean and interval of every metric over the images; None where one image has no finite value. The mean of
            PSNRs is not the PSNR of the mean error.
    """

    setting: EvaluationSetting
    images: int
    converged: int
    nfe: float
    scores: Mapping[str, Interval | None]

    def to_json(self) -> dict[str, Any]:
        """Return the summary in JSON types."""
        scores = {name: None if score is None else score._asdict() for name, score in self.scores.items()}
        counts = {"pictures": self.images, "converged": self.converged, "nfe": self.nfe}
        return {**self.setting._asdict(), **counts, **scores}


def summarize(rows: Iterable[EvaluationRow]) -> tuple[Summary, ...]:
    """Return one summary per setting, in the order of their first rows, by rising steps within each solver and grid."""
    groups: dict[EvaluationSetting, list[EvaluationRow]] = {}
    for row in rows:
        groups.setdefault(row.setting, []).append(row)
    # Solvers and grids in the order of their first rows, each by rising steps.
    without_steps = list(dict.fromkeys(setting._replace(steps=0) for setting in groups))
    order = sorted(groups, key=lambda setting: (without_steps.index(setting._replace(steps=0)), setting.steps))
    summaries = []
    for setting in order:
        group = groups[setting]
        scores: dict[str, Interval | None] = {}
        for name, metric in METRICS.items():
            values = [value for row in group if (value := row.scores[name]) is not None]
            # The mean of those images alone that have a value would not be comparable to that of other settings.
            complete = len(values) == len(group)
            scores[name] = interval(values, metric.lowest, metric.highest) if complete else None
        summary = Summary(
            setting=setting,
            images=len(group),
            converged=sum(row.converged for row in group),
            nfe=fmean(row.nfe_in + row.nfe_out for row in group),
            scores=scores,
        )
        summaries.append(summary)
    return tuple(summaries)
