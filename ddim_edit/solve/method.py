"""Solvers by name, and a method: everything that is chosen about an inversion, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass

from ddim_edit.condition import NOTHING, Condition
from ddim_edit.errors import ArgumentError
from ddim_edit.schedule import Grid, NoiseSchedule, make_grid
from ddim_edit.solve.implicit import Implicit, half, whole
from ddim_edit.solve.pairs import Edict, Leapfrog, bdia_weight, belm_weight
from ddim_edit.solve.solvers import Checked, Exact, Marching, Solver
from ddim_edit.solve.steps import euler, heun, multistep

EIGHT_BIT = 0.45 * 2 / 255
"""An error in [-1, 1] below which every 8-bit pixel comes back, with a tenth of its half-level to spare."""

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
_FOR_EXACT: Mapping[str, Solver] = {**SOLVERS, "ddim": Marching(Implicit(whole, tol=1e-3), euler)}


@dataclass(frozen=True)
class Method:
    """How to invert: a solver, a grid and their options, by name; what a recipe records.

    Args:
        solver: one of `SOLVERS`.
        grid: one of `GRIDS`, "karras:RHO", or a `Grid` of your own.
        steps: number of steps of a grid by name.
        exact: iterate until the solver's own decode gives the image back to `tol`.
        tol: largest error of x_0 accepted by `exact`; the default returns every 8-bit pixel of a pixel-space model.
        check: decode what was inverted and report the error, without iterating.
        dequantise: seed from which each image gets its own noise of the first level, or None for no such noise.
        level: the time at which to stop, moved to the nearest one of the grid; None walks all of it, to x_T.
        condition: the prompt or class to walk under, for models that follow one.
        refine: how to better the x_0 that an autoencoder finds, one of `codec.REFINERS`; None leaves it.
    """

    solver: str = "dpm2m"
    grid: str | Grid = "karras:14"
    steps: int = 20
    exact: bool = False
    tol: float = EIGHT_BIT
    check: bool = False
    dequantise: int | None = 0
    level: float | None = None
    condition: Condition = NOTHING
    refine: str | None = None

    def make_grid(self, schedule: NoiseSchedule) -> Grid:
        """The grid that this method names, up to its level.

        Raises:
            ArgumentError: an unknown grid, steps outside 1..10,000, or a level outside (0, T].
        """
        grid = self.grid if isinstance(self.grid, Grid) else make_grid(self.grid, schedule, self.steps)
        if self.level is None:
            return grid
        if not 0 < self.level <= schedule.T:
            raise ArgumentError(f"a level above 0 and up to {schedule.T}", f"{self.level:g}", "0.4 T is a good start")
        return grid.until(grid.nearest(self.level))

    def make_solver(self) -> Solver:
        """The solver that this method names, wrapped as it asks.

        Raises:
            ArgumentError: an unknown name, or a tolerance that is not positive.
        """
        if not self.tol > 0:
            raise ArgumentError("a tolerance above 0", f"{self.tol:g}", f"{EIGHT_BIT:.2g} returns every pixel")
        if self.exact:
            return Exact(find_solver(self.solver, _FOR_EXACT), self.tol)
        solver = find_solver(self.solver)
        return Checked(solver) if self.check else solver


def find_solver(name: str, solvers: Mapping[str, Solver] = SOLVERS) -> Solver:
    """The solver of a name.

    Raises:
        ArgumentError: an unknown name.
    """
    if name not in solvers:
        raise ArgumentError(f"a solver out of {', '.join(solvers)}", name, "choose one of these")
    return solvers[name]
