"""Two-state schemes: algebraically exact inverses whose code is x at the last time and a small delta."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_edit.diffusion.schedules import Level, Span
from ddim_edit.diffusion.solvers.anderson import Parts
from ddim_edit.diffusion.solvers.base import Encoded, Spans
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.steps import along, euler
from ddim_edit.errors import ArgumentError

Weight = Callable[[Span, Span], float]


def belm_weight(near: Span, far: Span) -> float:
    """O-BELM: w = (h_i / h_{i+1})^2, order 2; wants step sizes that vary slowly. Wang et al. (2024)."""
    return (near.h / far.h) ** 2


def bdia_weight(near: Span, far: Span) -> float:
    """BDIA with gamma = 1: w = alpha_{i+1} / alpha_{i-1}; stable on any grid. Zhang, Lewis, Kleijn (2023)."""
    return far.there.alpha / near.here.alpha


LATTICE = 2.0**44
"""Steps per unit of the lattice that states live on: sums of its points below 512 are exact in float64."""


def on_lattice(x: Tensor) -> Tensor:
    """The nearest point of the lattice."""
    return torch.round(x * LATTICE) / LATTICE


class _Hop(NamedTuple):
    """An inner node of a two-step scheme, z_{i-1} - z_{i+1} = g(z_i), with z = c y."""

    node: Level
    c: float
    c_before: float
    weight: float
    pull: float

    def g(self, account: TrackedDenoiser, z: Tensor) -> Tensor:
        y = z / self.c
        eps = account(self.node.alpha * y, self.node).eps
        return on_lattice(self.c_before * ((1 - self.weight) * y - self.pull * eps))


@dataclass(frozen=True)
class TwoStepSolver:
    """A two-step scheme that is solved for either end in closed form; returns bit by bit, one evaluation a step.

    y_{i-1} = w y_{i+1} + (1 - w) y_i - (h_i + w h_{i+1}) eps(y_i), y = x / alpha, h_i = s_i - s_{i-1}; the first step
    up is Euler's. In z_i = c_i y_i with c_{i+1} = w c_{i-1} this is z_{i-1} = z_{i+1} + g(z_i). With z and g rounded to
    a lattice the sum is exact, so the way down meets the same floats as the way up, whatever the network makes of them.

    The code is (x_S, delta), delta = x_{S-1} - (sigma_{S-1} / sigma_S) x_S: what the last step adds to shrinking the
    noise, so x_S may be edited, or drawn afresh with delta = 0.

    Args:
        weight: w of two neighbouring spans; `belm_weight` or `bdia_weight`.
    """

    weight: Weight

    def encode(self, account: TrackedDenoiser, x: Tensor, spans: Spans) -> Encoded:
        """Walk up: as many evaluations as spans."""
        hops, (scale, scale_next) = self._plan(spans)
        z, z_next = on_lattice(x), on_lattice(euler(account, x, spans[0], ())[0])
        for hop in hops:
            z, z_next = z_next, z - hop.g(account, z_next)
        x = z_next / scale_next
        return Encoded((x, z / scale - shrunk(x, spans[-1])))

    def decode(self, account: TrackedDenoiser, parts: Parts, spans: Spans) -> Tensor:
        """Walk down: one evaluation less than spans, as delta stands in for the first."""
        hops, (scale, scale_next) = self._plan(spans)
        x, delta = with_delta(parts)
        z, z_next = on_lattice(scale * (shrunk(x, spans[-1]) + delta)), on_lattice(scale_next * x)
        for hop in reversed(hops):
            z, z_next = z_next + hop.g(account, z), z
        return z

    def _plan(self, spans: Spans) -> tuple[list[_Hop], tuple[float, float]]:
        """The inner nodes, and what z is of x at the last two levels."""
        if len(spans) < 2:
            raise ArgumentError("at least 2 steps for a two-state scheme", str(len(spans)), "ask for more steps")
        hops, c_before, c = [], spans[0].here.alpha, spans[0].there.alpha
        for near, far in pairwise(spans):
            w = self.weight(near, far)
            hops.append(_Hop(near.there, c, c_before, w, near.h + w * far.h))
            c_before, c = c, w * c_before
        return hops, (c_before / spans[-1].here.alpha, c / spans[-1].there.alpha)


def shrunk(x: Tensor, span: Span) -> Tensor:
    """X at the end of a span, taken for pure noise and brought to its beginning."""
    return (span.here.sigma / span.there.sigma) * x


def with_delta(parts: Parts) -> Parts:
    """The parts of a pair's code; a bare x means delta = 0."""
    return parts if len(parts) > 1 else (*parts, torch.zeros_like(parts[0]))


@dataclass(frozen=True)
class EdictSolver:
    """EDICT: two coupled states that take turns; exact up to rounding, two evaluations a step, a poor sampler.

    Down: u = along(x, eps(x')), v = along(x', eps(u)), then x = p u + (1 - p) v, x' = p v + (1 - p) x; up each is
    undone. The code is (x, delta = x' - x). Rounding and edits grow by p^-2 a step: for comparison with papers.

    Args:
        mixing: p in (0.5, 1).

    Wallace, Gokul, Naik (2023).
    """

    mixing: float = 0.93

    def encode(self, account: TrackedDenoiser, x: Tensor, spans: Spans) -> Encoded:
        """Walk up, both states starting from the image."""
        p, twin = self.mixing, x
        for span in spans:
            v = (twin - (1 - p) * x) / p
            u = (x - (1 - p) * v) / p
            twin = along(v, account(u, span.there).eps, span)
            x = along(u, account(twin, span.there).eps, span)
        return Encoded((x, twin - x))

    def decode(self, account: TrackedDenoiser, parts: Parts, spans: Spans) -> Tensor:
        """Walk down and give the first state."""
        p, (x, delta) = self.mixing, with_delta(parts)
        twin = x + delta
        for span in (span.flipped() for span in reversed(spans)):
            u = along(x, account(twin, span.here).eps, span)
            v = along(twin, account(u, span.here).eps, span)
            x = p * u + (1 - p) * v
            twin = p * v + (1 - p) * x
        return x
