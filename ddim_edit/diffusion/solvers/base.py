"""Solvers: a way up to noise and a way down to the image that belong together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.schedules import Span
from ddim_edit.diffusion.solvers.anderson import AndersonAccelerator, Parts, fixed_point
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser, select_rows
from ddim_edit.diffusion.solvers.steps import History, Step
from ddim_edit.errors import ArgumentError

Spans = Sequence[Span]


class Check(NamedTuple):
    """What decoding a fresh code gave: the image [B, ...], what that cost [B], and the rounds before it [B]."""

    decoded: Tensor
    nfe: Tensor
    rounds: Tensor


class Encoded(NamedTuple):
    """A code, as its parts: x at the last time [B, ...] and, of pair schemes, delta [B, ...]; and its check, if any."""

    parts: Parts
    check: Check | None = None


class Solver(Protocol):
    """A pair of walks over the same spans, given from the image towards noise."""

    def encode(self, account: TrackedDenoiser, x: Tensor, spans: Spans) -> Encoded:
        """From x [B, ...] at the first level to the last."""
        ...

    def decode(self, account: TrackedDenoiser, parts: Parts, spans: Spans) -> Tensor:
        """From the last level to x [B, ...] at the first."""
        ...


def walk(account: TrackedDenoiser, step: Step, x: Tensor, spans: Spans) -> Tensor:
    """Take one step after another: the only loop over time for methods with one state."""
    past: History = ()
    for span in spans:
        x, past = step(account, x, span, past)
    return x


def backwards(spans: Spans) -> Spans:
    """The same spans from noise towards the image."""
    return [span.flipped() for span in reversed(spans)]


@dataclass(frozen=True)
class SingleStateSolver:
    """A solver with one state: one step for the way up, one for the way down."""

    up: Step
    down: Step

    def encode(self, account: TrackedDenoiser, x: Tensor, spans: Spans) -> Encoded:
        """Walk up."""
        return Encoded((walk(account, self.up, x, spans),))

    def decode(self, account: TrackedDenoiser, parts: Parts, spans: Spans) -> Tensor:
        """Walk down."""
        return walk(account, self.down, parts[0], backwards(spans))


@dataclass(frozen=True)
class SamplingOnlySolver:
    """A solver that only samples, because its steps draw noise or lose some."""

    down: Step

    def encode(self, account: TrackedDenoiser, x: Tensor, spans: Spans) -> Encoded:
        """Refuse."""
        raise ArgumentError("a deterministic solver to invert with", "a sampling-only one", "use eta = 0")

    def decode(self, account: TrackedDenoiser, parts: Parts, spans: Spans) -> Tensor:
        """Walk down."""
        return walk(account, self.down, parts[0], backwards(spans))


@dataclass(frozen=True)
class CheckedSolver:
    """Any solver, with every code decoded once to see what comes back."""

    solver: Solver

    def encode(self, account: TrackedDenoiser, x: Tensor, spans: Spans) -> Encoded:
        """Encode, then decode."""
        parts = self.solver.encode(account, x, spans).parts
        decoded, nfe = _decode_counted(self.solver, account, parts, spans)
        return Encoded(parts, Check(decoded, nfe, torch.ones_like(nfe)))

    def decode(self, account: TrackedDenoiser, parts: Parts, spans: Spans) -> Tensor:
        """Decode as the solver does."""
        return self.solver.decode(account, parts, spans)


@dataclass(frozen=True)
class ExactSolver:
    """Any solver, inverted until its own decode gives the image back to a tolerance, and certified by that decode.

    Outer defect correction: y <- y + (x - F(G(y))), G = encode, F = decode, from y = x, Anderson-accelerated; its fixed
    point is a y whose code decodes to x. A round costs one walk up and one down. Images that have converged cost
    no more; one that stalls keeps its best code and says that it did not converge.

    Args:
        solver: the solver whose codes are wanted.
        tol: largest |x - F(G(y))| accepted, images in [-1, 1].
        limit: at most so many rounds.

    Defect correction: Stetter (1978).
    """

    solver: Solver
    tol: float
    limit: int = 12

    def encode(self, account: TrackedDenoiser, x: Tensor, spans: Spans) -> Encoded:
        """Find the code of x."""

        def corrected(y: Tensor, rows: Tensor) -> tuple[Tensor, Parts]:
            some = account.only(rows)
            parts = self.solver.encode(some, y, spans).parts
            decoded, nfe = _decode_counted(self.solver, some, parts, spans)
            return y + (select_rows(x, rows) - decoded), (decoded, nfe, *parts)

        root = fixed_point(corrected, x, self.tol, AndersonAccelerator(), self.limit)
        account.certify(root.residual <= self.tol)
        decoded, nfe, *parts = root.parts
        return Encoded(tuple(parts), Check(decoded, nfe, root.spent))

    def decode(self, account: TrackedDenoiser, parts: Parts, spans: Spans) -> Tensor:
        """Decode as the solver does."""
        return self.solver.decode(account, parts, spans)


def _decode_counted(solver: Solver, account: TrackedDenoiser, parts: Parts, spans: Spans) -> tuple[Tensor, Tensor]:
    before = account.spent
    return solver.decode(account, parts, spans), account.spent - before
