from dataclasses import dataclass
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.diffusion.denoisers import ClippedDenoiser, ProgressDenoiser
from ddim_edit.diffusion.integration import invert, sample
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.diffusion.solvers.ancestral import AncestralStep, no_noise
from ddim_edit.diffusion.solvers.exact import ExactSolver
from ddim_edit.diffusion.solvers.registry import SOLVER_ENTRIES, SOLVERS
from ddim_edit.diffusion.solvers.solver import SamplingOnlySolver, SolverInversion, Spans, State
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.errors import ArgumentError

from ...pairwise import pairwise_cover
from .closed_forms import LINEAR, SHAPE, Counting, draw, gaussian, max_error, mixture, randn, spans

# What an inversion and a decode of S steps cost beyond S times the evaluations per step.
EXTRA_COSTS = {"ddim": (1, 0), "belm": (0, -1), "bdia": (0, -1)}
DATA = mixture()


@pytest.mark.parametrize(
    ("steps", "grid", "name"), pairwise_cover(product((2, 9, 20), ("karras", "uniform", "leading"), SOLVERS))
)
def test_evaluations_are_counted_as_reported(steps: int, grid: str, name: str) -> None:
    denoiser, walk = Counting(DATA), spans(grid, steps)
    found = invert(denoiser, draw(DATA, 3), walk, SOLVERS[name])
    up = denoiser.rows
    sampled = sample(denoiser, found.state, walk, SOLVERS[name])
    assert (up, denoiser.rows - up) == (int(found.nfe.sum()), int(sampled.nfe.sum()))
    per_step = SOLVER_ENTRIES[name].evaluations
    if per_step is not None:
        extra = EXTRA_COSTS.get(name, (0, 0))
        # Down to the clean image Heun's last step is DDIM's.
        saved = int(name == "heun" and not walk[0].here.s)
        assert found.nfe.tolist() == [steps * per_step[0] + extra[0]] * 3
        assert sampled.nfe.tolist() == [steps * per_step[1] + extra[1] - saved] * 3


@pytest.mark.parametrize("name", SOLVERS)
def test_only_levels_of_the_grid_are_evaluated(name: str) -> None:
    denoiser, walk = Counting(DATA), spans("karras", 9)
    sample(denoiser, invert(denoiser, draw(DATA, 2), walk, SOLVERS[name]).state, walk, SOLVERS[name])
    known = {level for span in walk for level in (span.here, span.there, span.middle)}
    assert set(denoiser.levels) <= known


@settings(max_examples=30)
@given(st.sampled_from(["karras", "logsnr"]), st.integers(5, 30), st.integers(0, 2**31))
def test_dequantised_images_need_their_own_noise(grid: str, steps: int, seed: int) -> None:
    walk, x0, solver = spans(grid, steps), draw(DATA, 3, seed), SOLVERS["bdia"]
    noise, other = randn(3, *SHAPE, seed=seed + 1), randn(3, *SHAPE, seed=seed + 2)
    parts = invert(DATA, x0, walk, solver, noise).state
    assert max_error(sample(DATA, parts, walk, solver, noise).x0, x0) < 1e-12
    assert max_error(sample(DATA, parts, walk, solver).x0, x0 + LINEAR.s(1) * noise) < 1e-12
    expected = x0 + LINEAR.s(1) * (noise - other)
    assert max_error(sample(DATA, parts, walk, solver, other).x0, expected) < 1e-12


@dataclass(frozen=True)
class Still:
    """A solver that goes nowhere, so that its code is the state at the first level."""

    def invert(self, account: TrackedDenoiser, x: Tensor, spans: Spans) -> SolverInversion:
        return SolverInversion((x,))

    def decode(self, account: TrackedDenoiser, parts: State, spans: Spans) -> Tensor:
        return parts[0]


def test_first_state_has_noise_of_its_level() -> None:
    schedule = NoiseSchedule.scaled_linear()
    walk, x0, noise = spans("karras", 2, schedule), randn(3, *SHAPE), randn(3, *SHAPE, seed=1)
    level = schedule.level(1)
    expected = level.alpha * x0 + level.sigma * noise
    assert max_error(invert(DATA, x0, walk, Still(), noise).state[0], expected) < 1e-15
    assert max_error(sample(DATA, (expected,), walk, Still(), noise).x0, x0) < 1e-15
    assert torch.equal(invert(DATA, x0, walk, Still()).state[0], level.alpha * x0)


@pytest.mark.parametrize("name", ["dpm2m", "ddim", "bdia"])
def test_clean_image_is_not_dequantised(name: str) -> None:
    walk, x0, noise = spans("uniform", 10), draw(DATA, 3), randn(3, *SHAPE)
    plain, seeded = (invert(DATA, x0, walk, SOLVERS[name], added).state for added in (None, noise))
    assert all(torch.equal(a, b) for a, b in zip(plain, seeded, strict=True))
    a, b = (sample(DATA, plain, walk, SOLVERS[name], added).x0 for added in (None, noise))
    assert torch.equal(a, b)


def test_exact_inversion_is_certified_with_dequantisation() -> None:
    data, walk, solver = mixture(1, width=1.0), spans("karras", 20), SOLVERS["dpm2m"]
    x0, noise = draw(data, 4, 3), randn(4, *SHAPE)
    found = invert(data, x0, walk, ExactSolver(solver, 1e-7), noise)
    assert found.converged.all()
    assert found.check is not None
    decoded = sample(data, found.state, walk, solver, noise).x0
    assert max_error(found.check.decoded, decoded) < 1e-13
    assert max_error(found.check.error, (decoded - x0).flatten(1).abs().amax(1)) < 1e-13


def test_clipped_denoiser_is_refused() -> None:
    message = "A denoiser that clips x0 cannot be inverted"
    clipping = ClippedDenoiser(DATA)
    for denoiser in (clipping, ProgressDenoiser(clipping, lambda count: None)):
        with pytest.raises(ArgumentError, match=message):
            invert(denoiser, randn(1, *SHAPE), spans(), SOLVERS["dpm2m"])
    clipped = sample(ClippedDenoiser(DATA), (randn(1, *SHAPE),), spans("leading"), SOLVERS["dpm2m"]).x0
    assert float(clipped.abs().max()) <= 1


def test_sampling_only_solver_is_refused() -> None:
    message = "This solver can only sample"
    with pytest.raises(ArgumentError, match=message):
        invert(DATA, randn(1, *SHAPE), spans(), SamplingOnlySolver(AncestralStep(1.0, no_noise)))


@pytest.mark.parametrize("name", ["dpm2m", "heun", "ddim", "midpoint"])
def test_partial_inversion_is_start_of_whole_one(name: str) -> None:
    walk, x0 = spans("karras", 40), draw(DATA, 2)
    part = invert(DATA, x0, walk[:16], SOLVERS[name]).state[0]
    decoded = sample(DATA, (part,), walk[:16], SOLVERS[name]).x0
    assert max_error(decoded, x0) < 0.02
    if name in ("heun", "midpoint"):
        rest = invert(DATA, part / walk[16].here.alpha, walk[16:], SOLVERS[name]).state[0]
        tol = 1e-12 if name == "heun" else 1e-3
        assert max_error(rest, invert(DATA, x0, walk, SOLVERS[name]).state[0]) < tol


def test_fine_inversion_whitens_gaussian_data() -> None:
    data, walk = gaussian(0.25, randn(*SHAPE)), spans("karras", 100)
    x0 = data.means + 0.25 * randn(4000, *SHAPE, seed=3)
    x = invert(data, x0, walk, SOLVERS["dpm2m"]).state[0]
    assert float(x.mean()) == pytest.approx(0, abs=0.02)
    assert float(x.std()) == pytest.approx(1, abs=0.02)
    covariance = torch.cov(x.flatten(1).T)
    assert max_error(covariance, torch.eye(6, dtype=torch.float64)) < 0.1
