"""Two-state schemes: algebraically exact inverses whose code is x at the last time and a small delta."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.schedule import Span
from ddim_edit.solve.account import Account
from ddim_edit.solve.anderson import Parts
from ddim_edit.solve.solvers import Encoded, Spans
from ddim_edit.solve.steps import along, euler

Weight = Callable[[Span, Span], float]


def belm_weight(near: Span, far: Span) -> float:
    """O-BELM: w = (h_i / h_{i+1})^2, order 2; wants step sizes that vary slowly. Wang et al. (2024)."""
    return (near.h / far.h) ** 2


def bdia_weight(near: Span, far: Span) -> float:
    """BDIA with gamma = 1: w = alpha_{i+1} / alpha_{i-1}; stable on any grid. Zhang, Lewis, Kleijn (2023)."""
    return far.there.alpha / near.here.alpha


@dataclass(frozen=True)
class Leapfrog:
    """A two-step scheme that is solved for either end in closed form; exact up to rounding, one evaluation a step.

    y_{i-1} = w y_{i+1} + (1 - w) y_i - (h_i + w h_{i+1}) eps(y_i), y = x / alpha, h_i = s_i - s_{i-1}. The first step
    up is Euler's. The code is (x_S, delta), delta = x_{S-1} - (sigma_{S-1} / sigma_S) x_S: what the last step adds to
    shrinking the noise, so x_S may be edited, or drawn afresh with delta = 0.

    Args:
        weight: w of two neighbouring spans; `belm_weight` or `bdia_weight`.
    """

    weight: Weight

    def encode(self, account: Account, x: Tensor, spans: Spans) -> Encoded:
        """Walk up: as many evaluations as spans."""
        _want_two(spans)
        y, y_next = x / spans[0].here.alpha, euler(account, x, spans[0], ())[0] / spans[0].there.alpha
        for near, far in pairwise(spans):
            w, pull = self._coefficients(near, far)
            eps = account(y_next * near.there.alpha, near.there).eps
            y, y_next = y_next, y_next + (y - y_next + pull * eps) / w
        last = spans[-1]
        x, before = y_next * last.there.alpha, y * last.here.alpha
        return Encoded((x, before - shrunk(x, last)))

    def decode(self, account: Account, parts: Parts, spans: Spans) -> Tensor:
        """Walk down: one evaluation less than spans, as delta stands in for the first."""
        _want_two(spans)
        x, delta = with_delta(parts)
        last = spans[-1]
        y_next, y = x / last.there.alpha, (shrunk(x, last) + delta) / last.here.alpha
        for far, near in pairwise(reversed(spans)):
            w, pull = self._coefficients(near, far)
            eps = account(y * near.there.alpha, near.there).eps
            y_next, y = y, y + w * (y_next - y) - pull * eps
        return y * spans[0].here.alpha

    def _coefficients(self, near: Span, far: Span) -> tuple[float, float]:
        w = self.weight(near, far)
        return w, near.h + w * far.h


def shrunk(x: Tensor, span: Span) -> Tensor:
    """X at the end of a span, taken for pure noise and brought to its beginning."""
    return (span.here.sigma / span.there.sigma) * x


def with_delta(parts: Parts) -> Parts:
    """The parts of a pair's code; a bare x means delta = 0."""
    return parts if len(parts) > 1 else (*parts, torch.zeros_like(parts[0]))


def _want_two(spans: Spans) -> None:
    if len(spans) < 2:
        raise ArgumentError("at least 2 steps for a two-state scheme", str(len(spans)), "ask for more steps")


@dataclass(frozen=True)
class Edict:
    """EDICT: two coupled states that take turns; exact up to rounding, two evaluations a step, a poor sampler.

    Down: u = along(x, eps(x')), v = along(x', eps(u)), then x = p u + (1 - p) v, x' = p v + (1 - p) x; up each is
    undone. The code is (x, delta = x' - x). Rounding and edits grow by p^-2 a step: for comparison with papers.

    Args:
        mixing: p in (0.5, 1).

    Wallace, Gokul, Naik (2023).
    """

    mixing: float = 0.93

    def encode(self, account: Account, x: Tensor, spans: Spans) -> Encoded:
        """Walk up, both states starting from the image."""
        p, twin = self.mixing, x
        for span in spans:
            v = (twin - (1 - p) * x) / p
            u = (x - (1 - p) * v) / p
            twin = along(v, account(u, span.there).eps, span)
            x = along(u, account(twin, span.there).eps, span)
        return Encoded((x, twin - x))

    def decode(self, account: Account, parts: Parts, spans: Spans) -> Tensor:
        """Walk down and give the first state."""
        p, (x, delta) = self.mixing, with_delta(parts)
        twin = x + delta
        for span in (span.flipped() for span in reversed(spans)):
            u = along(x, account(twin, span.here).eps, span)
            v = along(twin, account(u, span.here).eps, span)
            x = p * u + (1 - p) * v
            twin = p * v + (1 - p) * x
        return x
