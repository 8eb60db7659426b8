"""Medians, and intervals that hold for every distribution of the noise of a machine."""

from collections.abc import Callable, Mapping, Sequence
from math import comb
from statistics import median
from typing import NamedTuple, TypeVar

Value = TypeVar("Value")


class Spread(NamedTuple):
    """A median, and an interval that holds the true one with at least the probability `coverage`."""

    median: float
    low: float
    high: float
    coverage: float


def spread(values: Sequence[float], level: float = 0.95) -> Spread:
    """Return the median with the narrowest interval of order statistics of that level, if there is one.

    P(X_(k) <= m <= X_(n+1-k)) = 1 - 2^(1-n) sum_{i<k} C(n, i) for every continuous distribution. Fewer than six values
    reach no 95 %: their interval is from the smallest to the largest, and `coverage` says how much that is worth.

    Args:
        values: at least one.
        level: the probability asked for.

    References:
        David and Nagaraja, "Order Statistics", Wiley, 2003, section 7.1.
    """
    ordered, n = sorted(values), len(values)
    coverages = []
    for k in range(1, n // 2 + 1):
        coverages.append(1 - 2 ** (1 - n) * sum(comb(n, i) for i in range(k)))
    if not coverages:  # a single value
        coverages = [0.0]
    k = max((k for k, reached in enumerate(coverages) if reached >= level), default=0)
    return Spread(median(ordered), ordered[k], ordered[n - 1 - k], coverages[k])


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """Return how many times faster: the spread of the ratios of what was measured side by side, round by round."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def interleaved(runs: Mapping[str, Callable[[], Value]], rounds: int) -> dict[str, list[Value]]:
    """Run all variants in turn, A B A B ..., so that a slow phase of the machine affects them all."""
    found: dict[str, list[Value]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    return found


def rounds_in(budget: float, seconds: float, least: int = 3, most: int = 15) -> int:
    """Return how many rounds of so many seconds fit a budget, within bounds."""
    return max(least, min(most, int(budget / max(seconds, 1e-9))))
