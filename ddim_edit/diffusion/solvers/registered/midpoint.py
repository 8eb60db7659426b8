"""The implicit midpoint rule, which is its own inverse."""

from ddim_edit.diffusion.solvers.entry import SolverEntry
from ddim_edit.diffusion.solvers.implicit import ImplicitStep, middle_of_step
from ddim_edit.diffusion.solvers.solver import SingleStateSolver

# One step for both directions: flipping a span leaves its equation as it is.
_STEP = ImplicitStep(middle_of_step, tol=1e-5)

ENTRY = SolverEntry(
    name="midpoint",
    help="implicit midpoint rule, solved step by step to a tolerance",
    solver=SingleStateSolver(up=_STEP, down=_STEP),
    position=40,
    order=2,
    evaluations=None,
)
