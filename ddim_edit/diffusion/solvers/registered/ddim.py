"""DDIM: explicit steps down, and steps up that invert them."""

from ddim_edit.diffusion.solvers.entry import SolverEntry
from ddim_edit.diffusion.solvers.implicit import ImplicitStep, end_of_step
from ddim_edit.diffusion.solvers.solver import SingleStateSolver
from ddim_edit.diffusion.solvers.steps import euler_step

ENTRY = SolverEntry(
    name="ddim",
    help="DDIM, inverted by a predicted and corrected implicit step",
    solver=SingleStateSolver(up=ImplicitStep(end_of_step), down=euler_step),
    position=20,
    order=1,
    evaluations=(1, 1),
    # Repeating the whole inversion mends what single steps left over, but some images and coarse grids need each step
    # solved for that.
    for_exact=SingleStateSolver(up=ImplicitStep(end_of_step, tol=1e-3), down=euler_step),
    uses_x0=True,
)
