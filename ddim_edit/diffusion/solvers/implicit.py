"""Steps whose equation holds away from where they start, solved by warm-started, accelerated iteration."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ddim_edit.diffusion.schedules import Level, Span
from ddim_edit.diffusion.solvers.anderson import AndersonAccelerator, Parts, fixed_point, max_norm
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser, select_rows
from ddim_edit.diffusion.solvers.steps import History, HistoryEntry, along


def whole(span: Span) -> Span:
    """Ask eps at the far end of the step."""
    return span


def half(span: Span) -> Span:
    """Ask eps half-way, in s."""
    return Span(span.here, span.middle, span.middle)


@dataclass(frozen=True)
class ImplicitStep:
    """A step along the eps of a point z that it leads to itself; exact to a tolerance, not in closed form.

    z = along(x, eps(z)) up to a node of the step, then x' = along(x, eps(z)). With the node at the far end (`whole`)
    it is the inverse of the decoder's DDIM step, order 1; half-way (`half`) it is the implicit midpoint rule, order 2
    and its own inverse. z starts from eps extrapolated in log s through the last three nodes, so that one evaluation
    a step is a good inverse already ("pec": predict, evaluate, correct).

    Args:
        node: which part of the step leads to z.
        tol: largest |z - along(x, eps(z))| that is accepted, in units of x; infinite takes the first.
        limit: at most so many evaluations a step.

    Fixed-point inversion: Pan, Gherardi, Xie, Huang (2023); Garibi et al. (2024). Acceleration: Anderson (1965).
    """

    node: Callable[[Span], Span]
    tol: float = math.inf
    limit: int = 40

    def __call__(self, account: TrackedDenoiser, x: Tensor, span: Span, past: History) -> tuple[Tensor, History]:
        """Take the step."""
        part = self.node(span)
        past = past or (_first(account, x, part),)
        guess = along(x, extrapolate(past, part.there), part)
        if math.isinf(self.tol):
            eps = account(guess, part.there).eps
            account.note(max_norm(along(x, eps, part) - guess))
        else:
            eps = self._solved(account, x, part, guess)
        return along(x, eps, span), (*(seen for seen in past if seen.level.s), HistoryEntry(part.there, eps))[-3:]

    def _solved(self, account: TrackedDenoiser, x: Tensor, part: Span, guess: Tensor) -> Tensor:
        """Return eps at the z that solves z = along(x, eps(z)), from a guess of it."""

        def image(z: Tensor, rows: Tensor) -> tuple[Tensor, Parts]:
            eps = account.only(rows)(z, part.there).eps
            return along(select_rows(x, rows), eps, part), (eps,)

        # The map's derivative has its spectrum between 0 and 1 - s/s': relaxing to the middle of it is free speed.
        mixing = 2 * part.there.s / (part.there.s + part.here.s)
        root = fixed_point(image, guess, self.tol, AndersonAccelerator(mixing), self.limit)
        account.note(root.residual, root.residual <= self.tol)
        return root.parts[0]


def _first(account: TrackedDenoiser, x: Tensor, part: Span) -> HistoryEntry:
    # At s = 0 the network has no level of its own, so it is asked at the node instead.
    return HistoryEntry(part.here, account(x, part.here if part.here.s else part.there).eps)


def extrapolate(past: History, level: Level) -> Tensor:
    """What a quantity is at a level, by the polynomial in log s through its earlier values (Lagrange)."""
    if len(past) == 1:
        return past[0].value
    nodes = [math.log(seen.level.s) for seen in past]
    terms = []
    for node, seen in zip(nodes, past, strict=True):
        others = [other for other in nodes if other != node]
        weight = math.prod((math.log(level.s) - other) / (node - other) for other in others)
        terms.append(weight * seen.value)
    return sum(terms[1:], terms[0])
