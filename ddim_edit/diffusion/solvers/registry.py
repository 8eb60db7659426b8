"""Solvers by name."""

from collections.abc import Mapping

from ddim_edit.diffusion.solvers.base import SingleStateSolver, Solver
from ddim_edit.diffusion.solvers.implicit import ImplicitStep, half, whole
from ddim_edit.diffusion.solvers.steps import euler, heun, multistep
from ddim_edit.diffusion.solvers.two_state import EdictSolver, TwoStepSolver, bdia_weight, belm_weight
from ddim_edit.errors import ArgumentError

SOLVERS: Mapping[str, Solver] = {
    "dpm2m": SingleStateSolver(multistep, multistep),
    "ddim": SingleStateSolver(ImplicitStep(whole), euler),
    "heun": SingleStateSolver(heun, heun),
    "midpoint": SingleStateSolver(ImplicitStep(half, tol=1e-5), ImplicitStep(half, tol=1e-5)),
    "belm": TwoStepSolver(belm_weight),
    "bdia": TwoStepSolver(bdia_weight),
    "edict": EdictSolver(),
}

# Whole rounds mend what single steps left over, but some pictures and coarse grids need each step solved for that.
FOR_EXACT: Mapping[str, Solver] = {**SOLVERS, "ddim": SingleStateSolver(ImplicitStep(whole, tol=1e-3), euler)}


def find_solver(name: str, solvers: Mapping[str, Solver] = SOLVERS) -> Solver:
    """The solver of a name.

    Raises:
        ArgumentError: an unknown name.
    """
    if name not in solvers:
        raise ArgumentError(f"a solver out of {', '.join(solvers)}", name, "choose one of these")
    return solvers[name]
