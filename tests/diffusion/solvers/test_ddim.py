"""DDIM on a Gaussian N(mean, c^2 I): each decode step shrinks y - mean by g = (c^2 + s s') / (c^2 + s^2)."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.diffusion.grids import Grid
from ddim_edit.diffusion.integration import invert, sample
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level, Span
from ddim_edit.diffusion.solvers.implicit import ImplicitStep, end_of_step
from ddim_edit.diffusion.solvers.solver import SingleStateSolver
from ddim_edit.diffusion.solvers.steps import euler_step

from .closed_forms import LINEAR, SHAPE, gain, gaussian, max_error, randn, spans

EXACT = SingleStateSolver(ImplicitStep(end_of_step, tol=1e-13), euler_step)
TEXTBOOK = SingleStateSolver(euler_step, euler_step)
GRIDS = st.sampled_from(["karras", "logsnr", "uniform", "quad", "leading", "trailing", "linspace"])
WIDTHS, STEPS, SEEDS = st.floats(0.05, 2), st.integers(10, 50), st.integers(0, 2**31)

# Standard deviation of x_T that the exact inverse of DDIM finds for data N(0, c^2 I), as the project's survey of
# inversion printed it for S = 10, 20, 50, 100, 250: the coarser the grid, the more x_T is bent. "logs" there steps
# from index 0 to index 5 and is even in log s from then on.
COUNTS = (10, 20, 50, 100, 250)
BENT = {
    ("uniform", 0.25): (1.79, 1.33, 1.12, 1.06, 1.02),
    ("uniform", 0.10): (3.58, 2.07, 1.35, 1.16, 1.07),
    ("uniform", 0.05): (6.88, 3.64, 1.89, 1.40, 1.16),
    ("logs", 0.25): (1.27, 1.12, 1.05, 1.02, 1.01),
    ("logs", 0.10): (1.26, 1.12, 1.06, 1.03, 1.02),
    ("logs", 0.05): (1.24, 1.13, 1.08, 1.06, 1.05),
}


def surveyed(grid: str, steps: int) -> tuple[Span, ...]:
    if grid == "uniform":
        return spans(grid, steps)
    ratios = [LINEAR.s(6) * (LINEAR.s(1000) / LINEAR.s(6)) ** (i / (steps - 1)) for i in range(steps)]
    return LINEAR.spans(Grid(grid, (1.0, *(LINEAR.time(s) for s in ratios))))


def scaled(x: Tensor, mean: Tensor, factor: float, start: float, end: float) -> Tensor:
    """X at alpha = start whose y - mean was multiplied by a factor, at alpha = end."""
    return end * (mean + factor * (x / start - mean))


@given(GRIDS, STEPS, WIDTHS, SEEDS)
def test_decoding_multiplies_by_the_gains(grid: str, steps: int, width: float, seed: int) -> None:
    walk, mean, x = spans(grid, steps), randn(*SHAPE, seed=seed), randn(3, *SHAPE, seed=seed + 1)
    top = walk[-1].there.alpha
    decoded = sample(gaussian(width, mean), (top * (mean + x),), walk, TEXTBOOK).x0
    expected = scaled(top * (mean + x), mean, gain(width, walk), top, 1.0)
    assert max_error(decoded, expected) < 1e-12


@settings(max_examples=15)
@given(GRIDS, STEPS, WIDTHS, SEEDS)
def test_the_exact_inverse_divides_by_the_gains(grid: str, steps: int, width: float, seed: int) -> None:
    walk, mean, x0 = spans(grid, steps), randn(*SHAPE, seed=seed), randn(3, *SHAPE, seed=seed + 1)
    found = invert(gaussian(width, mean), x0, walk, EXACT)
    expected = scaled(x0, mean, 1 / gain(width, walk), 1.0, walk[-1].there.alpha)
    assert max_error(found.state[0], expected) < 2e-13 * max(1, float(expected.abs().max()))
    assert found.converged.all()
    assert float(found.residual.max()) <= 1e-13


@given(GRIDS, STEPS, WIDTHS, SEEDS)
def test_the_textbook_round_trip_loses_contrast_as_predicted(grid: str, steps: int, width: float, seed: int) -> None:
    walk, mean, x0 = spans(grid, steps), randn(*SHAPE, seed=seed), randn(3, *SHAPE, seed=seed + 1)
    data = gaussian(width, mean)
    decoded = sample(data, invert(data, x0, walk, TEXTBOOK).state, walk, TEXTBOOK).x0
    loss = math.prod(_loss(width, span) for span in walk)
    assert 0 <= loss < 1
    assert max_error(decoded, mean + loss * (x0 - mean)) < 1e-12


def _loss(width: float, span: Span) -> float:
    squares = (width**2 + span.here.s**2) * (width**2 + span.there.s**2)
    return 1 - (width * span.h) ** 2 / squares


@pytest.mark.parametrize(("grid", "width"), BENT)
def test_x_t_of_gaussian_data_is_as_bent_as_predicted(grid: str, width: float) -> None:
    x0 = torch.full((1, *SHAPE), width, dtype=torch.float64)
    for steps, printed in zip(COUNTS, BENT[grid, width], strict=True):
        walk = surveyed(grid, steps)
        deviation = float(invert(gaussian(width), x0, walk, EXACT).state[0].mean())
        assert deviation == pytest.approx(printed, abs=0.0056)
        assert deviation == pytest.approx(walk[-1].there.alpha * width / gain(width, walk), rel=1e-12)


@given(st.floats(1, 999), st.floats(0.5, 1000), SEEDS)
def test_a_point_mass_is_exact_in_one_step_both_ways(start: float, length: float, seed: int) -> None:
    span = LINEAR.span(start, min(start + length, 1000.0))
    mean, x = randn(*SHAPE, seed=seed), randn(2, *SHAPE, seed=seed + 1)
    data = gaussian(0.0, mean)
    up = invert(data, x, [span], TEXTBOOK).state[0]
    ratio = span.there.s / span.here.s
    assert max_error(up, scaled(x, mean, ratio, 1.0, span.there.alpha)) < 1e-12
    assert max_error(sample(data, (up,), [span], TEXTBOOK).x0, x) < 1e-12 * ratio
    assert max_error(invert(data, x, [span], EXACT).state[0], up) < 1e-12 * ratio


@settings(max_examples=10)
@given(GRIDS, STEPS, SEEDS)
def test_a_flat_prior_moves_nothing(grid: str, steps: int, seed: int) -> None:
    walk, x0 = spans(grid, steps), randn(2, *SHAPE, seed=seed)
    for solver in (TEXTBOOK, EXACT):
        assert max_error(invert(gaussian(1e9), x0, walk, solver).state[0], walk[-1].there.alpha * x0) < 1e-12


@dataclass(frozen=True)
class Wide:
    """The exact denoiser of N(0, diag(widths^2))."""

    widths: Tensor

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        y = x / level.alpha
        eps = level.s * y / (self.widths**2 + level.s**2)
        return Prediction(y - level.s * eps, eps)


def test_every_direction_of_a_gaussian_goes_its_own_way() -> None:
    walk, x0 = spans("logsnr", 20), randn(2, *SHAPE)
    widths = torch.linspace(0.1, 1.5, 6, dtype=torch.float64).view(SHAPE)
    gains = torch.tensor([gain(float(width), walk) for width in widths.flatten()], dtype=torch.float64).view(SHAPE)
    found = invert(Wide(widths), x0, walk, EXACT)
    assert max_error(found.state[0], walk[-1].there.alpha * x0 / gains) < 1e-12
