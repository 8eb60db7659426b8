"""The way up of DPM-Solver++(2M), which looks for the states that the way down passes through."""

from math import log
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import NoiseSchedule, load_model
from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.integration import invert, sample
from ddim_edit.diffusion.noise import SeededNoise
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level, Span
from ddim_edit.diffusion.solvers.registered.dpm2m import LARGEST_UNDONE_STEP, dpm2m_step
from ddim_edit.diffusion.solvers.registry import find_solver
from ddim_edit.diffusion.solvers.solver import SingleStateSolver, Solver
from ddim_edit.images import read

from .closed_forms import SHAPE, draw, max_error, mixture, randn, spans

IMAGES = Path(__file__).parents[3] / "assets" / "images"
EXPLICIT = SingleStateSolver(dpm2m_step, dpm2m_step)
INVERSE = find_solver("dpm2m")


class PolynomialDenoiser:
    """Predicts an x0 that is a polynomial in log s, whatever the state."""

    def __init__(self, degree: int) -> None:
        self.coefficients = randn(degree + 1, 2, *SHAPE)

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        # Scaled as the grids here are, so that no power outgrows the others.
        powers = [(log(level.s) / 5) ** power for power in range(len(self.coefficients))]
        x0 = torch.einsum("p...,p->...", self.coefficients, torch.tensor(powers, dtype=torch.float64))
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)


def round_trip_error(denoiser: Denoiser, x0: Tensor, walk: tuple[Span, ...], solver: Solver) -> Tensor:
    noise = SeededNoise(range(len(x0))).draw(x0.shape[1:]).double()
    state = invert(denoiser, x0, walk, solver, noise).state
    return (sample(denoiser, state, walk, solver, noise).x0 - x0).square().mean().sqrt()


@pytest.mark.parametrize("grid", ["karras:14@0.16T", "karras:-5@0.2T", "karras:40@0.1T"])
def test_decoding_undoes_it_where_x0_is_linear_in_log_s(grid: str) -> None:
    """Unevenly spaced steps among them; the first step down is of order 1, which is undone as well."""
    x0, walk = randn(2, *SHAPE, seed=1), spans(grid, 20)
    assert max(log(span.there.s / span.here.s) for span in walk) < LARGEST_UNDONE_STEP
    assert round_trip_error(PolynomialDenoiser(1), x0, walk, INVERSE) < 1e-11
    assert round_trip_error(PolynomialDenoiser(1), x0, walk, EXPLICIT) > 1e-3


def test_curvature_is_undone_where_four_predictions_are_known() -> None:
    """Of a cubic x0 only the ends are wrong, where the steps are smaller the more there are: order 3, not 2."""
    x0 = randn(2, *SHAPE, seed=1)
    coarse, fine = (round_trip_error(PolynomialDenoiser(3), x0, spans("karras:14@0.16T", n), INVERSE) for n in (20, 80))
    assert coarse / fine > 4**2.5


@pytest.mark.parametrize("grid", ["leading", "uniform"])
def test_steps_too_large_to_be_undone_are_explicit(grid: str) -> None:
    """Such grids begin with a step that would magnify what is wrong with x0 a hundred times and more."""
    data = mixture(seed=1, width=0.5)
    x0, walk = draw(data, 16), spans(grid, 20)
    assert round_trip_error(data, x0, walk, INVERSE) < 2 * round_trip_error(data, x0, walk, EXPLICIT)


@pytest.mark.parametrize("grid", ["karras:-2.2@0.318T", "karras:-4@0.318T", "karras:-20@0.318T"])
def test_grids_whose_steps_grow_come_back_nearer_too(grid: str) -> None:
    """Had every state been corrected there, the first of these would come back worse than after explicit steps."""
    data = mixture(seed=1, width=1.0)
    x0, walk = draw(data, 64), spans(grid, 20, NoiseSchedule.cosine())
    assert round_trip_error(data, x0, walk, INVERSE) < 0.8 * round_trip_error(data, x0, walk, EXPLICIT)


def test_network_decodes_nearer_to_the_image_than_after_explicit_steps() -> None:
    """By 7 dB on 32 photographs; by half of that, at least, on one."""
    model = load_model("faces64")
    x0 = read(IMAGES / "astronaut_face.png", 64).tensor[None].double()
    walk = spans("standard", 20, model.schedule)
    with torch.no_grad():
        ours = round_trip_error(model.denoiser, x0, walk, INVERSE)
        explicit = round_trip_error(model.denoiser, x0, walk, EXPLICIT)
    assert ours < explicit / 1.5


def test_inverse_evaluates_once_a_step() -> None:
    data = mixture(seed=1)
    assert invert(data, draw(data, 1), spans("karras:14@0.16T", 9), INVERSE).nfe.tolist() == [9]


def test_errors_fall_with_the_order_of_the_solver() -> None:
    data = mixture(seed=1, width=1.0)
    x0 = draw(data, 32)
    coarse, fine = (max_error(trip(data, x0, n), x0) for n in (40, 160))
    assert coarse / fine > 4**1.7


def trip(data: Denoiser, x0: Tensor, steps: int) -> Tensor:
    walk = spans("karras:14@0.16T", steps)
    return sample(data, invert(data, x0, walk, INVERSE).state, walk, INVERSE).x0
