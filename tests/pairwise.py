"""Pairwise covers: few cases in which every two values that go together do so at least once.

References:
    Cohen, Dalal, Fredman, Patton, "The AETG System: An Approach to Testing Based on Combinatorial Design", IEEE
    Transactions on Software Engineering 23(7), 1997.
"""

import heapq
from collections.abc import Hashable, Iterable
from itertools import combinations
from typing import TypeVar

Case = TypeVar("Case", bound=tuple[Hashable, ...])


def pairwise_cover(cases: Iterable[Case]) -> list[Case]:
    """Return some of the cases that have all pairs of values, in different places, which any of them has.

    Greedily takes the case with the most new pairs, the first of several.
    """
    candidates = list(cases)
    pairs = [set(combinations(enumerate(case), 2)) for case in candidates]
    covered: set[object] = set()
    cover = []
    # Numbers of new pairs only fall, so that a case whose number is still the largest after counting anew is the best.
    heap = [(-len(each), index) for index, each in enumerate(pairs)]
    heapq.heapify(heap)
    while heap:
        _, index = heapq.heappop(heap)
        new = len(pairs[index] - covered)
        if heap and -new > heap[0][0]:
            heapq.heappush(heap, (-new, index))
        elif new:
            covered |= pairs[index]
            cover.append(candidates[index])
        else:
            break
    return cover
