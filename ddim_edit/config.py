"""The request object of an inversion: everything that is chosen about it, as plain data."""

from dataclasses import dataclass

from ddim_edit.diffusion.grids import Grid, make_grid
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.diffusion.solvers.base import CheckedSolver, ExactSolver, Solver
from ddim_edit.diffusion.solvers.registry import FOR_EXACT, find_solver
from ddim_edit.errors import ArgumentError
from ddim_edit.latents.spaces import parse_level
from ddim_edit.models.condition import NOTHING, Condition

EIGHT_BIT = 0.45 * 2 / 255
"""An error in [-1, 1] below which every 8-bit pixel comes back, with a tenth of its half-level to spare."""


@dataclass(frozen=True)
class InversionConfig:
    """How to invert: a solver, a grid and their options, by name; what a recipe records.

    Args:
        solver: one of `SOLVERS`.
        grid: one of `GRIDS`, "karras:RHO", or a `Grid` of your own.
        steps: number of steps of a grid by name.
        exact: iterate until the solver's own decode gives the image back to `tol`.
        tol: largest error of x_0 accepted by `exact`; the default returns every 8-bit pixel of a pixel-space model.
        check: decode what was inverted and report the error, without iterating.
        dequantise: seed from which each image gets its own noise of the first level, or None for no such noise.
        level: where to stop, as `parse_level` reads it: 400, "0.4T", "xT"; moved to the nearest time of the grid. None
            and the levels of the bottleneck ("h", "h:0.2T") go all the way to x_T.
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
    level: str | float | None = None
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
        return grid.until(grid.nearest(parse_level(self.level, schedule.T).stop(schedule.T)))

    def make_solver(self) -> Solver:
        """The solver that this method names, wrapped as it asks.

        Raises:
            ArgumentError: an unknown name, or a tolerance that is not positive.
        """
        if not self.tol > 0:
            raise ArgumentError("a tolerance above 0", f"{self.tol:g}", f"{EIGHT_BIT:.2g} returns every pixel")
        if self.exact:
            return ExactSolver(find_solver(self.solver, FOR_EXACT), self.tol)
        solver = find_solver(self.solver)
        return CheckedSolver(solver) if self.check else solver
