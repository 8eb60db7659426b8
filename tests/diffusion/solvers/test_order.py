"""Every solver converges to the exact flow at the order that it claims, in both directions."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import MixtureDenoiser
from ddim_edit.diffusion.schedules import Span
from ddim_edit.diffusion.solvers.implicit import ImplicitStep, end_of_step, middle_of_step
from ddim_edit.diffusion.solvers.registry import SOLVER_ENTRIES, SOLVERS
from ddim_edit.diffusion.solvers.solver import SingleStateSolver, Solver
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.steps import euler_step
from ddim_edit.diffusion.solvers.two_state import TwoStepSolver, shrink_noise

from .closed_forms import (
    LINEAR,
    cdf_flow,
    fine_flow,
    gaussian,
    gaussian_flow,
    max_error,
    mixture,
    randn,
    spans,
    spans_between,
)

LOW, HIGH = 0.05, 20.0
START = torch.linspace(-1.2, 1.2, 7, dtype=torch.float64)[:, None, None, None]
ONE_BELL = gaussian(0.4, torch.full((1, 1, 1), 0.3, dtype=torch.float64))
THREE_BELLS = mixture(seed=3, components=3, width=0.4, shape=(1, 1, 1))
TIGHT_MIDPOINT = ImplicitStep(middle_of_step, tol=1e-13)
ORDERS: dict[str, tuple[Solver, int]] = {
    **{name: (entry.solver, entry.order) for name, entry in SOLVER_ENTRIES.items() if entry.order},
    "midpoint": (SingleStateSolver(TIGHT_MIDPOINT, TIGHT_MIDPOINT), 2),
    "textbook ddim": (SingleStateSolver(euler_step, euler_step), 1),
    "solved ddim": (SingleStateSolver(ImplicitStep(end_of_step, tol=1e-13), euler_step), 1),
}


def flow(data: MixtureDenoiser, level_span: Span) -> Tensor:
    """The exact states y where a step ends, for START where the walk begins."""
    return cdf_flow(data, START, LINEAR.s(LINEAR.time(LOW)), level_span.there.s)


def error_up(solver: Solver, data: MixtureDenoiser, steps: int) -> float:
    walk = spans_between(LOW, HIGH, steps)
    x = solver.invert(TrackedDenoiser.start(data, len(START)), START * walk[0].here.alpha, walk).state[0]
    return max_error(x / walk[-1].there.alpha, flow(data, walk[-1]))


def error_down(solver: Solver, data: MixtureDenoiser, steps: int) -> float:
    walk = spans_between(LOW, HIGH, steps)
    x = flow(data, walk[-1]) * walk[-1].there.alpha
    before = flow(data, walk[-2]) * walk[-1].here.alpha
    parts = (x, before - shrink_noise(x, walk[-1])) if isinstance(solver, TwoStepSolver) else (x,)
    decoded = solver.decode(TrackedDenoiser.start(data, len(START)), parts, walk)
    return max_error(decoded / walk[0].here.alpha, START)


@pytest.mark.parametrize("error", [error_up, error_down])
@pytest.mark.parametrize("data", [ONE_BELL, THREE_BELLS], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("name", ORDERS)
def test_halving_the_step_divides_the_error_by_two_to_the_order(
    name: str, data: MixtureDenoiser, error: Callable[[Solver, MixtureDenoiser, int], float]
) -> None:
    solver, order = ORDERS[name]
    errors = [error(solver, data, steps) for steps in (80, 160)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


def test_the_references_agree() -> None:
    y = START
    assert max_error(fine_flow(THREE_BELLS, y, LOW, HIGH), cdf_flow(THREE_BELLS, y, LOW, HIGH)) < 1e-6
    width = float(ONE_BELL.widths)
    exact = gaussian_flow(y, width, ONE_BELL.means, LOW, HIGH)
    assert max_error(cdf_flow(ONE_BELL, y, LOW, HIGH), exact) < 1e-11
    assert max_error(gaussian_flow(exact, width, ONE_BELL.means, HIGH, LOW), y) < 1e-14


@pytest.mark.parametrize(("name", "expected"), [("dpm2m", 2e-3), ("heun", 2e-3), ("ddim", 0.05)])
def test_a_mixture_in_many_dimensions_is_carried_to_where_runge_kutta_carries_it(name: str, expected: float) -> None:
    data, walk = mixture(seed=1), spans("karras", 200)
    y = data.means + 0.3 * randn(4, 1, 2, 3, seed=2)
    x = SOLVERS[name].invert(TrackedDenoiser.start(data, 4), y * walk[0].here.alpha, walk).state[0]
    exact = fine_flow(data, y, walk[0].here.s, walk[-1].there.s, 600) * walk[-1].there.alpha
    assert max_error(x, exact) < expected
