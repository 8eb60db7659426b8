"""The registry of solvers.

A solver is one module of `ddim_edit.diffusion.solvers.registered` that defines `ENTRY`. The choices of the command
line, the solvers that a bottleneck edit accepts and the documentation follow from it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from ddim_edit.diffusion.solvers import registered
from ddim_edit.discovery import find_entries
from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    from ddim_edit.diffusion.solvers.entry import SolverEntry
    from ddim_edit.diffusion.solvers.solver import Solver


SOLVER_ENTRIES: Mapping[str, SolverEntry] = find_entries(registered, "ENTRY", lambda entry: entry.position)
"""All solvers by name, the default first."""

SOLVERS: Mapping[str, Solver] = MappingProxyType({name: entry.solver for name, entry in SOLVER_ENTRIES.items()})
"""The `Solver` objects by name."""


def find_solver(name: str, exact: bool = False) -> Solver:
    """Return the solver of a name in `SOLVERS`.

    Args:
        name: for example "dpm2m".
        exact: return the variant that `ExactSolver` should repeat.

    Raises:
        ArgumentError: an unknown name.
    """
    if name not in SOLVER_ENTRIES:
        raise ArgumentError(f"There is no solver {name!r}. Use {', '.join(SOLVER_ENTRIES)}.")
    entry = SOLVER_ENTRIES[name]
    return entry.for_exact if exact and entry.for_exact is not None else entry.solver
