import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.diffusion.integration import invert, sample
from ddim_edit.diffusion.schedules import Span
from ddim_edit.diffusion.solvers.anderson import AndersonAccelerator, fixed_point
from ddim_edit.diffusion.solvers.implicit import ImplicitStep, end_of_step, extrapolate, middle_of_step
from ddim_edit.diffusion.solvers.registry import SOLVERS
from ddim_edit.diffusion.solvers.solver import SingleStateSolver, State
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.steps import History, HistoryEntry, ddim_step_eps, euler_step

from .closed_forms import LINEAR, draw, gaussian, max_error, mixture, randn, spans

SEEDS = st.integers(0, 2**31)
SOLVED = {
    "ddim": SingleStateSolver(ImplicitStep(end_of_step, tol=1e-11), euler_step),
    "midpoint": SingleStateSolver(ImplicitStep(middle_of_step, tol=1e-11), ImplicitStep(middle_of_step, tol=1e-11)),
}
WIDTHS = st.floats(0.7, 2)
GRIDS = st.sampled_from(["karras", "logsnr", "uniform", "quad"])


def row_errors(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).abs().amax(1)


@settings(max_examples=15)
@given(st.sampled_from(sorted(SOLVED)), GRIDS, st.integers(10, 40), WIDTHS, SEEDS)
def test_decoding_undoes_an_encoding_that_converged(name: str, grid: str, steps: int, width: float, seed: int) -> None:
    data, walk = mixture(seed, width=width), spans(grid, steps)
    x0 = draw(data, 3, seed + 1)
    found = invert(data, x0, walk, SOLVED[name])
    assert torch.equal(found.converged, found.residual <= 1e-11)
    errors = row_errors(sample(data, found.state, walk, SOLVED[name]).x0, x0)
    assert (errors[found.converged] < 3e-10).all()


@settings(max_examples=15)
@given(st.sampled_from(sorted(SOLVED)), GRIDS, st.integers(10, 40), WIDTHS, SEEDS)
def test_an_encoding_that_converged_undoes_decoding(name: str, grid: str, steps: int, width: float, seed: int) -> None:
    data, walk, z = mixture(seed, width=width), spans(grid, steps), randn(3, 1, 2, 3, seed=seed)
    found = invert(data, sample(data, (z,), walk, SOLVED[name]).x0, walk, SOLVED[name])
    assert (row_errors(found.state[0], z)[found.converged] < 3e-10).all()


@pytest.mark.parametrize("name", SOLVED)
@pytest.mark.parametrize(
    ("grid", "steps"), [("karras", 10), ("karras", 20), ("logsnr", 10), ("logsnr", 40), ("quad", 20)]
)
def test_pictures_that_the_model_knows_converge(name: str, grid: str, steps: int) -> None:
    for seed in range(3):
        data = mixture(seed, width=1.0)
        assert invert(data, draw(data, 8, seed + 1), spans(grid, steps), SOLVED[name]).converged.all()


@pytest.mark.parametrize("width", [0.0, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("times", [(0, 20), (1, 5), (5, 40), (100, 300), (600, 1000)])
def test_plain_iteration_contracts_at_the_predicted_rate(times: tuple[float, float], width: float) -> None:
    """Rho = (1 - s / s') / (1 + c^2 / s'^2) for data N(0, c^2 I)."""
    data, span, x = gaussian(width), LINEAR.span(*times), randn(1, 1, 2, 3)
    residuals: list[Tensor] = []

    def image(z: Tensor, rows: Tensor) -> tuple[Tensor, State]:
        there = ddim_step_eps(x, data(z, span.there).eps, span)
        residuals.append(there - z)
        return there, ()

    fixed_point(image, x, 0.0, AndersonAccelerator(memory=0), 3)
    rho = (1 - span.here.s / span.there.s) / (1 + width**2 / span.there.s**2)
    assert max_error(residuals[1], rho * residuals[0]) < 1e-12
    assert max_error(residuals[2], rho**2 * residuals[0]) < 1e-12


@pytest.mark.parametrize("node", [end_of_step, middle_of_step])
def test_a_gaussian_takes_three_evaluations_a_step(node: Callable[[Span], Span]) -> None:
    """All dimensions contract alike there, so one difference is all that Anderson has to learn."""
    solver, walk = SingleStateSolver(ImplicitStep(node, tol=1e-12), euler_step), spans("logsnr", 20)
    found = invert(gaussian(0.4), randn(2, 1, 2, 3), walk, solver)
    assert found.converged.all()
    assert (found.nfe <= 1 + 3 * len(walk)).all()


@given(SEEDS, st.floats(0.01, 100))
def test_extrapolation_is_exact_for_parabolas_in_log_s(seed: int, s: float) -> None:
    coefficients, levels = randn(3, 1, 2, 2, seed=seed), [LINEAR.level(t) for t in (20.0, 90.0, 300.0)]

    def parabola(log_s: float) -> Tensor:
        return coefficients[0] + coefficients[1] * log_s + coefficients[2] * log_s**2

    past = tuple(HistoryEntry(level, parabola(math.log(level.s))) for level in levels)
    target = LINEAR.level(LINEAR.time(s))
    assert max_error(extrapolate(past, target), parabola(math.log(target.s))) < 1e-11
    line = (*(seen._replace(value=coefficients[0] + math.log(seen.level.s)) for seen in past[:2]),)
    assert max_error(extrapolate(line, target), coefficients[0] + math.log(target.s)) < 1e-12
    assert torch.equal(extrapolate(past[:1], target), past[0].value)


@pytest.mark.parametrize(("steps", "gain"), [(20, 100), (50, 1000), (100, 50_000)])
def test_one_evaluation_a_step_is_a_far_better_inverse_than_the_textbook_s(steps: int, gain: float) -> None:
    data, walk = mixture(seed=1), spans("logsnr", steps)
    x0 = draw(data, 8, seed=2)
    errors = {}
    for name, solver in (("warm", SOLVERS["ddim"]), ("textbook", SingleStateSolver(euler_step, euler_step))):
        found = invert(data, x0, walk, solver)
        errors[name] = float((sample(data, found.state, walk, solver).x0 - x0).square().mean())
    assert errors["textbook"] > gain * errors["warm"]


def test_a_step_out_of_evaluations_says_what_it_left() -> None:
    data, walk, x0 = mixture(), spans("logsnr", 10), randn(3, 1, 2, 3)
    found = invert(data, x0, walk, SingleStateSolver(ImplicitStep(end_of_step, tol=1e-9, limit=2), euler_step))
    assert not found.converged.any()
    assert (found.residual > 1e-9).all()
    assert found.nfe.tolist() == [1 + 2 * len(walk)] * 3


def test_the_residual_is_the_worst_gap_between_a_point_and_where_its_eps_leads() -> None:
    data, walk, gaps = mixture(), spans("karras", 12), []
    step, account = ImplicitStep(end_of_step, tol=1e-3), TrackedDenoiser.start(data, 3)
    past: History = ()
    x = draw(data, 3)
    for span in walk:
        before = x
        x, past = step(account, x, span, past)
        eps = past[-1].value
        assert max_error(x, ddim_step_eps(before, eps, span)) == 0
        gaps.append((ddim_step_eps(before, data(x, span.there).eps, span) - x).flatten(1).abs().amax(1))
    assert account.converged.all()
    assert (torch.stack(gaps).amax(0) <= account.residual).all()
    assert (account.residual <= 1e-3).all()
