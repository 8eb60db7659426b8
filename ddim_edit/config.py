"""The request object of an inversion: everything that is chosen about it, as plain data.

Importing this module does not import torch, so that the command line can make its options of the config's fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict, cast

from ddim_edit.diffusion.grids import STANDARD, Grid, GridMaker, Karras, StandardGrid, find_grid, make_grid
from ddim_edit.diffusion.solvers.registry import SOLVER_ENTRIES, find_solver
from ddim_edit.errors import ArgumentError
from ddim_edit.latents.spaces import parse_level
from ddim_edit.models.condition import NOTHING, Condition

if TYPE_CHECKING:
    from ddim_edit.diffusion.schedules import NoiseSchedule
    from ddim_edit.diffusion.solvers.solver import Solver
    from ddim_edit.diffusion.workload import Workload
    from ddim_edit.latents.provenance import Recipe

EIGHT_BIT = 0.45 * 2 / 255
"""An error in [-1, 1] below which every 8-bit pixel comes back, with a tenth of its half-level to spare."""


@dataclass(frozen=True)
class InversionConfig:
    """Options of an inversion: solver, grid, exactness, level and conditioning.

    The methods of `Editor` take these fields as keywords too, so that most users never need this class.

    Args:
        solver: name in `SOLVERS`, or a `Solver` object.
        grid: a `Grid`, or the name or the maker of one, as `make_grid` takes them.
        steps: number of steps, unless the grid is a `Grid`.
        exact: iterate until the solver's own decode returns the image to `tol`.
        tol: largest error of x_0 that `exact` accepts; the default returns every 8-bit pixel of a pixel-space model.
        check: decode the latent once and report the error, without iterating.
        dequantise: seed from which each image gets its own noise of the first level, or None for no such noise.
        level: where to stop, moved to the nearest time of the grid: a time (400), a part of T ("0.4T") or "xT". At "h"
            and "h:LEVEL", the levels of bottleneck directions, latents stand at x_T. None is x_T.
        condition: the prompt or class to invert under, for models that follow one.
        refine: how to refine the x_0 of an autoencoder, one of `REFINERS`; None does not.

    The metadata of each field has its `help` on the command line, and its `flag` there if that is not its name.

    Examples:
        >>> from ddim_edit import Editor
        >>> editor = Editor.from_pretrained()
        >>> latent = editor.invert("portrait.jpg", steps=50, exact=True)  # doctest: +SKIP
    """

    solver: str | Solver = field(default="dpm2m", metadata={"help": "Solver of the diffusion ODE."})
    grid: str | Grid | GridMaker = field(default=STANDARD, metadata={"help": "Grid of timesteps."})
    steps: int = field(default=20, metadata={"help": "Number of steps."})
    exact: bool = field(
        default=False, metadata={"help": "Iterate until the decoded image is the same, and certify that it is."}
    )
    tol: float = field(
        default=EIGHT_BIT,
        metadata={"help": "Largest error that --exact accepts. [default: every 8-bit pixel is the same]"},
    )
    check: bool = field(default=False, metadata={"help": "Decode once and report the error of the round trip."})
    dequantise: int | None = field(
        default=0, metadata={"help": "Add the seeded noise of the first level; decoding takes it off again."}
    )
    level: str | float | None = field(
        default=None,
        metadata={"help": "Where to stop: a time (400), a part of T (0.4T), xT, h or h:LEVEL. [default: xT]"},
    )
    condition: Condition = field(default=NOTHING, metadata={"help": "Prompt or class to invert under."})
    refine: str | None = field(
        default=None,
        metadata={
            "help": "Refine the latent of an autoencoder until it decodes closer to the image.",
            "flag": "refine-codec",
        },
    )

    @property
    def solver_name(self) -> str:
        """Name of the solver, for recipes: its registered name, or that of its class."""
        return self.solver if isinstance(self.solver, str) else type(self.solver).__name__

    def make_grid(self, schedule: NoiseSchedule) -> Grid:
        """Return the grid up to the level.

        Raises:
            ArgumentError: an unknown grid, steps outside 1 to 10,000, or a level that does not exist.
        """
        grid = self.grid if isinstance(self.grid, Grid) else make_grid(self.grid, schedule, self.steps)
        if self.level is None:
            return grid
        return grid.until(grid.nearest(parse_level(self.level, schedule.T).stop(schedule.T)))

    def without_start(self) -> InversionConfig:
        """Return the config with the same kind of grid from t = 1, where it starts higher.

        A start above the image leaves the detail below it to the image itself. Samples have no image to take it from,
        and translations would take that of the other domain.
        """
        maker = find_grid(self.grid) if isinstance(self.grid, str) else self.grid
        return replace(self, grid=replace(maker, start=1.0)) if isinstance(maker, Karras | StandardGrid) else self

    def make_sampling_grid(self, schedule: NoiseSchedule) -> Grid:
        """Return the grid from noise down to the clean image, t = 0.

        Raises:
            ArgumentError: as `make_grid`.
        """
        return self.without_start().make_grid(schedule).to_clean()

    def plain_solver(self) -> Solver:
        """Return the solver itself, which neither checks nor iterates.

        Raises:
            ArgumentError: an unknown name, or an object without the methods of a solver.
        """
        if isinstance(self.solver, str):
            return find_solver(self.solver)
        if not callable(getattr(self.solver, "invert", None)) or not callable(getattr(self.solver, "decode", None)):
            raise ArgumentError(
                f"A solver is a name, or an object with the methods invert and decode, not {self.solver!r:.60}. The "
                f"names are {', '.join(SOLVER_ENTRIES)}."
            )
        return self.solver

    def make_solver(self) -> Solver:
        """Return the solver, wrapped to check or to iterate as the config asks.

        Raises:
            ArgumentError: an unknown name, or a tolerance that is not positive.
        """
        from ddim_edit.diffusion.solvers.exact import CheckedSolver, ExactSolver

        if not self.tol > 0:
            raise ArgumentError(f"tol must be above 0, not {self.tol:g}. {EIGHT_BIT:.2g} returns every 8-bit pixel.")
        if self.exact and isinstance(self.solver, str):
            return ExactSolver(find_solver(self.solver, exact=True), self.tol)
        solver = self.plain_solver()
        if self.exact:
            return ExactSolver(solver, self.tol)
        return CheckedSolver(solver) if self.check else solver

    def inversion_workload(self, schedule: NoiseSchedule) -> Workload:
        """Return how many evaluations inverting one image takes, with what is decoded to check it.

        Raises:
            ArgumentError: as `make_grid` and `make_solver`.

        Examples:
            >>> from ddim_edit import NoiseSchedule
            >>> InversionConfig(steps=50, check=True).inversion_workload(NoiseSchedule.linear()).expected
            100
        """
        from ddim_edit.diffusion.workload import inversion_workload

        spans = schedule.spans(self.make_grid(schedule))
        return inversion_workload(self.make_solver(), spans, noisy=self.dequantise is not None)

    def decoding_workload(
        self, schedule: NoiseSchedule, to_clean: bool = False, detail: float | None = None
    ) -> Workload:
        """Return how many evaluations decoding one latent takes.

        Args:
            schedule: of the model.
            to_clean: whether down to t = 0, as new images are sampled, and not to the first level of an inversion.
            detail: of a latent that was moved, `Recipe.detail`.

        Raises:
            ArgumentError: as `make_grid` and `plain_solver`.
        """
        from ddim_edit.diffusion.grids import grid_below
        from ddim_edit.diffusion.integration import has_detail
        from ddim_edit.diffusion.workload import Workload, decoding_workload

        grid = self.make_sampling_grid(schedule) if to_clean else self.make_grid(schedule)
        spans = schedule.spans(grid)
        workload = decoding_workload(self.plain_solver(), spans)
        if detail is not None and self.dequantise is not None and has_detail(spans):
            workload += Workload.exactly(1 if detail == 1 else grid_below(grid.times[0], schedule).steps)
        return workload

    def edits_workload(self, schedule: NoiseSchedule, moved: Sequence[bool], moving: int = 0) -> Workload:
        """Return how many evaluations edits of one image take: there and back once, and a decode for each edit.

        Args:
            schedule: of the model.
            moved: whether each of the edits moves anything.
            moving: evaluations that moving a latent takes, `Direction.evaluations`.

        Raises:
            ArgumentError: as `make_grid` and `make_solver`.
        """
        from ddim_edit.diffusion.workload import Workload

        total = replace(self, check=True).inversion_workload(schedule)
        for each in moved:
            total += self.decoding_workload(schedule, detail=1.0 if each else None)
            if each:
                total += Workload.exactly(moving)
        return total


def workload_of_recipes(recipes: Iterable[Recipe], schedule: NoiseSchedule, solver: Solver | None = None) -> Workload:
    """Return how many evaluations decoding the latents of these recipes takes.

    Args:
        recipes: one for each latent.
        schedule: of the model.
        solver: decodes them in place of their own.

    Raises:
        ArgumentError: as `InversionConfig.decoding_workload`.
    """
    from ddim_edit.diffusion.workload import Workload

    counts = Counter((recipe.solver, recipe.grid, recipe.times, recipe.detail) for recipe in recipes)
    total = Workload.exactly(0)
    for (name, grid, times, detail), count in counts.items():
        config = InversionConfig(solver or name, Grid(grid, times))
        total += count * config.decoding_workload(schedule, detail=detail)
    return total


class SolverOptions(TypedDict, total=False):
    """Fields of `InversionConfig` but the level, as keywords."""

    solver: str | Solver
    grid: str | Grid | GridMaker
    steps: int
    exact: bool
    tol: float
    check: bool
    dequantise: int | None
    condition: Condition
    refine: str | None


class InversionOptions(SolverOptions, total=False):
    """Fields of `InversionConfig` as keywords."""

    level: str | float | None


def make_config(config: InversionConfig | None, options: SolverOptions) -> InversionConfig:
    """Return a config, by default `InversionConfig()`, with some fields replaced by keywords."""
    base = InversionConfig() if config is None else config
    return replace(base, **cast(dict[str, object], options)) if options else base  # type: ignore[arg-type]
