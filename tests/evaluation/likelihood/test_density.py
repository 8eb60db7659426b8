"""The density of the ODE against closed forms, and what every density must do."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.likelihood.density import Density, RungeKuttaGrid, log_density
from ddim_edit.evaluation.likelihood.traces import FiniteDifferences, Hutchinson, exact_trace

from .closed_forms import (
    DATA,
    DIM,
    FAR,
    LINEAR,
    SHAPE,
    GaussianDenoiser,
    correlated,
    diagonal,
    exact_linearization,
    mixture,
    randn,
)

STEPS = {"diagonal": 40, "correlated": 40, "mixture": 80}
"""Between the components of a mixture the flow parts sharply, which takes short steps."""


def exactly(denoiser: Denoiser, x0: Tensor, grid: RungeKuttaGrid) -> Density:
    return log_density(denoiser, x0, grid, exact_linearization, exact_trace)


def bits(nats: Tensor, dim: int = DIM) -> Tensor:
    return nats / (dim * math.log(2))


@pytest.mark.parametrize("start", [0.0, 1.0, 300.0])
@pytest.mark.parametrize("name", DATA)
def test_densities_of_closed_forms_are_exact_but_for_the_steps(name: str, start: float) -> None:
    data = DATA[name]
    x0 = data.draw(6)
    found = exactly(data, x0, RungeKuttaGrid.make(FAR, STEPS[name], start))
    expected = data.log_density(x0, FAR.s(start))
    assert bits(found.nats - expected).abs().max() < 4e-4
    assert not found.variance.any()


@pytest.mark.parametrize("name", ["diagonal", "correlated"])
def test_errors_fall_with_the_fourth_power_of_the_step(name: str) -> None:
    data = DATA[name]
    x0 = data.draw(4)
    expected = data.log_density(x0, FAR.s(1))
    errors = [(exactly(data, x0, RungeKuttaGrid.make(FAR, steps, 1)).nats - expected).abs().max() for steps in (32, 64)]
    assert 11 < errors[0] / errors[1] < 40


def test_data_of_variance_one_stand_still() -> None:
    """Then a picture is its own code, and one step is exact."""
    one = torch.ones(DIM, dtype=torch.float64)
    still = GaussianDenoiser(0 * one, one, torch.diag(one))
    x0 = randn(3, *SHAPE)
    found = exactly(still, x0, RungeKuttaGrid.make(LINEAR, 1))
    torch.testing.assert_close(found.x, x0)
    torch.testing.assert_close(found.nats, still.log_density(x0))


def test_the_code_is_that_of_the_closed_form() -> None:
    data = correlated()
    x0 = data.draw(3)
    found = exactly(data, x0, RungeKuttaGrid.make(LINEAR, 60))
    s = LINEAR.s(LINEAR.T)
    z = (x0.flatten(1) - data.mean) @ data.axes / data.widths
    y = data.mean + (z * (data.widths**2 + s**2).sqrt()) @ data.axes.T
    torch.testing.assert_close(found.x.flatten(1), y * LINEAR.level(LINEAR.T).alpha, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", DATA)
def test_the_standard_error_covers_the_truth_as_often_as_it_should(name: str) -> None:
    """Against the whole trace on the same steps, errors over their standard error spread as normal numbers do."""
    data, rows = DATA[name], 200
    x0, grid, linearization = data.draw(rows), RungeKuttaGrid.make(LINEAR, 20), FiniteDifferences(LINEAR.level(1).sigma)
    found = log_density(data, x0, grid, linearization, Hutchinson(8, range(rows)))
    error = found.nats - exactly(data, x0, grid).nats
    if name == "diagonal":  # whose J has nothing beside its diagonal
        assert error.abs().max() < 1e-6 * DIM
        return
    shares = error / found.variance.sqrt()
    assert abs(shares.mean()) < 4 / math.sqrt(rows)
    assert 0.85 < shares.std() < 1.2
    assert 0.9 < (shares.abs() < 2).double().mean() < 0.99


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_more_probes_leave_less_error(start: float) -> None:
    data, rows = correlated(), 16
    x0, grid, linearization = (
        data.draw(rows),
        RungeKuttaGrid.make(LINEAR, 10, start),
        FiniteDifferences(LINEAR.level(1).sigma),
    )
    few, many = (
        log_density(data, x0, grid, linearization, Hutchinson(n, range(rows))).variance.mean() for n in (2, 18)
    )
    assert 6 < few / many < 13


@pytest.mark.parametrize("size", [-2.0, 0.1, 1.0])
def test_moving_data_and_picture_alike_changes_nothing(size: float) -> None:
    data, shift = correlated(), size * randn(DIM, seed=9)
    moved = GaussianDenoiser(data.mean + shift, data.widths, data.axes)
    x0, grid = data.draw(2), RungeKuttaGrid.make(FAR, 30)
    ours = exactly(moved, x0 + shift.view(SHAPE), grid).nats
    assert bits(ours - exactly(data, x0, grid).nats).abs().max() < 1e-3


@pytest.mark.parametrize("factor", [0.4, 1.5, 2.0])
def test_stretching_data_and_picture_alike_costs_one_logarithm_a_dimension(factor: float) -> None:
    data = correlated()
    stretched = GaussianDenoiser(factor * data.mean, factor * data.widths, data.axes)
    x0, grid = data.draw(2), RungeKuttaGrid.make(FAR, 30)
    ours = exactly(stretched, factor * x0, grid).nats + DIM * math.log(factor)
    assert bits(ours - exactly(data, x0, grid).nats).abs().max() < 1e-3


@settings(max_examples=5)
@given(st.integers(0, 2**31))
def test_turning_data_and_picture_alike_changes_nothing_at_all(seed: int) -> None:
    data, turn = diagonal(), torch.linalg.qr(randn(DIM, DIM, seed=seed))[0]
    turned = GaussianDenoiser(turn @ data.mean, data.widths, turn)
    x0, grid = data.draw(2), RungeKuttaGrid.make(LINEAR, 5)
    ours = exactly(turned, (x0.flatten(1) @ turn.T).view_as(x0), grid).nats
    torch.testing.assert_close(ours, exactly(data, x0, grid).nats, rtol=0, atol=1e-8)


def wild(x: Tensor, level: Level) -> Prediction:
    """A denoiser of no data at all: its eps is no gradient of any density's logarithm."""
    eps = level.sigma * (x + 0.4 * level.alpha * torch.sin(3 * x.flip(-1) + level.alpha))
    return Prediction((x - level.sigma * eps) / level.alpha, eps)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_whatever_the_denoiser_all_pictures_together_have_probability_one(start: float) -> None:
    """Two numbers a picture, summed over a fine lattice."""
    side = torch.arange(-7, 7, 0.1, dtype=torch.float64)
    lattice = torch.cartesian_prod(side, side).view(-1, 1, 1, 2)
    nats = exactly(wild, lattice, RungeKuttaGrid.make(LINEAR, 30, start)).nats
    assert abs(nats.exp().sum().item() * 0.1**2 - 1) < 1e-3


@pytest.mark.parametrize("schedule", [LINEAR, FAR, NoiseSchedule.cosine()])
@pytest.mark.parametrize("start", [0.0, 0.4, 1.0, 30.0])
def test_a_ladder_is_even_in_its_own_measure_and_ends_at_pure_noise(schedule: NoiseSchedule, start: float) -> None:
    grid = RungeKuttaGrid.make(schedule, 7, start)
    assert len(grid.levels) == 15
    assert (grid.levels[0].t, grid.levels[-1].t) == (start, schedule.T)
    u = [math.asinh(level.s / schedule.s(1)) for level in grid.levels]
    torch.testing.assert_close(torch.tensor(u).diff(), torch.full((14,), grid.h / 2), rtol=1e-4, atol=1e-5)
    assert [step[0] for step in grid.steps[1:]] == [step[2] for step in grid.steps[:-1]]


@pytest.mark.parametrize(("steps", "start"), [(0, 0.0), (5, -1.0), (5, 1000.0), (5, math.nan)])
def test_a_ladder_of_nothing_is_refused(steps: int, start: float) -> None:
    with pytest.raises(ArgumentError, match="at least 1 step"):
        RungeKuttaGrid.make(LINEAR, steps, start)


def test_evaluations_are_counted() -> None:
    x0, grid = mixture().draw(2), RungeKuttaGrid.make(LINEAR, 3)
    found = log_density(mixture(), x0, grid, FiniteDifferences(0.01), Hutchinson(5, range(2)))
    assert found.nfe == 4 * 3 * (1 + 5)
