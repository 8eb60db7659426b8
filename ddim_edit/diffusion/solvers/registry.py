"""Solvers by name."""

from collections.abc import Mapping

from ddim_edit.diffusion.solvers.base import Marching, Solver
from ddim_edit.diffusion.solvers.implicit import Implicit, half, whole
from ddim_edit.diffusion.solvers.steps import euler, heun, multistep
from ddim_edit.diffusion.solvers.two_state import Edict, Leapfrog, bdia_weight, belm_weight
from ddim_edit.errors import ArgumentError

SOLVERS: Mapping[str, Solver] = {
    "dpm2m": Marching(multistep, multistep),
    "ddim": Marching(Implicit(whole), euler),
    "heun": Marching(heun, heun),
    "midpoint": Marching(Implicit(half, tol=1e-5), Implicit(half, tol=1e-5)),
    "belm": Leapfrog(belm_weight),
    "bdia": Leapfrog(bdia_weight),
    "edict": Edict(),
}

# Whole rounds mend what single steps left over, but some pictures and coarse grids need each step solved for that.
FOR_EXACT: Mapping[str, Solver] = {**SOLVERS, "ddim": Marching(Implicit(whole, tol=1e-3), euler)}


def find_solver(name: str, solvers: Mapping[str, Solver] = SOLVERS) -> Solver:
    """The solver of a name.

    Raises:
        ArgumentError: an unknown name.
    """
    if name not in solvers:
        raise ArgumentError(f"a solver out of {', '.join(solvers)}", name, "choose one of these")
    return solvers[name]
