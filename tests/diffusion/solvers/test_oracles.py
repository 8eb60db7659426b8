"""Our steps, along whole paths, against the schedulers of diffusers; its coefficients in float64 where it lets us."""

from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.diffusion.grids import Grid, GridMaker, Leading, make_grid, trailing
from ddim_edit.diffusion.integration import sample
from ddim_edit.diffusion.parametrization import PREDICTION_TYPES, DDPMParametrization
from ddim_edit.diffusion.schedules import NoiseSchedule, Span
from ddim_edit.diffusion.solvers.ancestral import AncestralStep, no_noise
from ddim_edit.diffusion.solvers.registered.dpm2m import dpm2m_step
from ddim_edit.diffusion.solvers.solver import SamplingOnlySolver, SingleStateSolver, Solver
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.steps import History, ddim_step_eps, euler_step

from .closed_forms import LINEAR, max_error, randn

SHAPE = (2, 3, 5, 5)
KERNEL = randn(3, 3, 3, 3, seed=7) / 4
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012}

diffusers_own_warning = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def network(x: Tensor, index: Tensor) -> Tensor:
    """A small network that means nothing, but depends on all that it is given."""
    shift = (index.double() / 300)[:, None, None, None].cos()
    return torch.nn.functional.conv2d(x, KERNEL, padding=1).tanh() + shift


def denoiser(kind: str = "epsilon") -> NetworkDenoiser:
    return NetworkDenoiser(network, DDPMParametrization(kind), torch.float64)


def answer(x: Tensor, index: Tensor) -> Tensor:
    return network(x, index.expand(len(x)))


def in_float64(oracle: Any) -> Any:
    """The scheduler with alpha_bar computed in float64 from its own betas, instead of float32."""
    linear = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    betas = linear if oracle.config.beta_schedule == "linear" else oracle.betas.double()
    oracle.alphas_cumprod = torch.cumprod(1 - betas, 0)
    if hasattr(oracle, "final_alpha_cumprod") and not oracle.config.set_alpha_to_one:
        oracle.final_alpha_cumprod = oracle.alphas_cumprod[0]
    return oracle


def ddim(steps: int, **options: Any) -> Any:
    oracle = in_float64(DDIMScheduler(clip_sample=False, **options))
    oracle.set_timesteps(steps)
    return oracle


class Path:
    """A step that remembers where it was."""

    def __init__(self, step: Any) -> None:
        self.step = step
        self.points: list[Tensor] = []

    def __call__(self, account: TrackedDenoiser, x: Tensor, span: Span, past: History) -> tuple[Tensor, History]:
        x, past = self.step(account, x, span, past)
        self.points.append(x)
        return x, past


def our_path(
    step: Any, grid: GridMaker | Grid, steps: int, kind: str = "epsilon", schedule: NoiseSchedule = LINEAR
) -> list[Tensor]:
    """Where a step leads, one point after another, from the same noise as the oracle."""
    made = grid if isinstance(grid, Grid) else grid(schedule, steps)
    path = Path(step)
    sample(denoiser(kind), (randn(*SHAPE),), schedule.spans(made), SamplingOnlySolver(path))
    return path.points


def oracle_path(oracle: Any, **options: Any) -> list[Tensor]:
    x, points = randn(*SHAPE), []
    for index in oracle.timesteps:
        x = oracle.step(answer(x, index), index, x, **options).prev_sample
        points.append(x)
    return points


def assert_same(ours: list[Tensor], theirs: list[Tensor], tol: float) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert max_error(mine, other) < tol * max(1, float(other.abs().max()))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("step", [euler_step, AncestralStep(0.0, no_noise)], ids=["euler", "eta 0"])
def test_ddim_equals_diffusers(kind: str, step: Any) -> None:
    assert_same(our_path(step, Leading(), 50, kind), oracle_path(ddim(50, prediction_type=kind)), 1e-9)


def test_ddim_equals_diffusers_as_it_comes_in_float32() -> None:
    oracle = DDIMScheduler(clip_sample=False)
    oracle.set_timesteps(50)
    assert_same(our_path(euler_step, Leading(), 50), oracle_path(oracle), 1e-5)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_every_eta_equals_diffusers_given_the_same_noise(kind: str, eta: float) -> None:
    noise = randn(*SHAPE, seed=5)
    ours = our_path(AncestralStep(eta, lambda x: noise), Leading(), 50, kind)
    theirs = oracle_path(ddim(50, prediction_type=kind), eta=eta, variance_noise=noise)
    assert_same(ours, theirs, 1e-9)


def test_trailing_ddim_equals_diffusers_where_the_steps_divide_the_levels() -> None:
    assert_same(our_path(euler_step, trailing, 40), oracle_path(ddim(40, timestep_spacing="trailing")), 1e-9)


@pytest.mark.parametrize("clean", [True, False])
def test_stable_diffusion_s_own_settings_equal_diffusers(clean: bool) -> None:
    oracle = ddim(50, steps_offset=1, set_alpha_to_one=clean, **STABLE_DIFFUSION)
    schedule = NoiseSchedule.from_betas(oracle.betas.double().numpy())
    assert_same(our_path(euler_step, Leading(1, clean), 50, schedule=schedule), oracle_path(oracle), 1e-9)


def test_without_a_clean_end_diffusers_last_step_goes_nowhere() -> None:
    theirs = oracle_path(ddim(50, set_alpha_to_one=False))
    assert max_error(theirs[-1], theirs[-2]) < 1e-12
    assert_same(our_path(euler_step, Leading(clean=False), 50), theirs[:-1], 1e-9)


def test_ancestral_steps_of_one_level_equal_diffusers_ddpm() -> None:
    oracle = in_float64(DDPMScheduler(clip_sample=False))
    oracle.set_timesteps(1000)
    x, account = randn(*SHAPE), TrackedDenoiser.start(denoiser(), 2)
    for index in (999, 500, 20, 1, 0):
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
        generator = torch.Generator().manual_seed(index)
        expected = oracle.step(answer(x, torch.tensor(index)), index, x, generator=generator).prev_sample
        span = LINEAR.span(index + 1, index)
        assert max_error(AncestralStep(1.0, lambda _, z=noise: z)(account, x, span, ())[0], expected) < 1e-10
        deviation = oracle._get_variance(index) ** 0.5 if index else 0
        assert max_error(AncestralStep(1.0, no_noise)(account, x, span, ())[0], expected - deviation * noise) < 1e-10


def dpm(indices: list[int], end: str) -> Any:
    oracle = DPMSolverMultistepScheduler(lower_order_final=False, final_sigmas_type=end)
    oracle.set_timesteps(timesteps=indices)
    return oracle


@diffusers_own_warning
@pytest.mark.parametrize(("end", "first"), [("sigma_min", 1.0), ("zero", 0.0)])
@pytest.mark.parametrize("steps", [8, 30])
def test_multistep_equals_diffusers(steps: int, end: str, first: float) -> None:
    times = sorted({round(t) for t in make_grid("karras", LINEAR, steps).times} - {1})
    theirs = oracle_path(dpm([t - 1 for t in reversed(times)], end))
    assert_same(our_path(dpm2m_step, Grid("whole", (first, *map(float, times))), 0), theirs, 1e-5)


def walk_up(solver: Solver, grid: Grid) -> Tensor:
    spans = LINEAR.spans(grid)
    return solver.invert(TrackedDenoiser.start(denoiser(), 2), randn(*SHAPE), spans).state[0]


@diffusers_own_warning
def test_multistep_walks_up_by_the_same_formula() -> None:
    times = [1.0, *sorted({round(t) for t in make_grid("karras", LINEAR, 20).times} - {1})]
    oracle = dpm([int(t) - 1 for t in times[:-1]], "sigma_min")
    oracle.sigmas[-1] = LINEAR.s(times[-1])
    solver = SingleStateSolver(dpm2m_step, dpm2m_step)
    expected = oracle_path(oracle)[-1]
    assert max_error(walk_up(solver, Grid("whole", tuple(times))), expected) < 1e-5 * float(expected.abs().max())


def borrowed(account: TrackedDenoiser, x: Tensor, span: Span, past: History) -> tuple[Tensor, History]:
    """One step of the plain fixed-point iteration from x itself: eps at x, labelled with the level ahead."""
    return ddim_step_eps(x, account(x, span.there).eps, span), past


def test_diffusers_inverse_is_the_first_iterate_of_the_implicit_step() -> None:
    oracle = in_float64(DDIMInverseScheduler(clip_sample=False))
    oracle.set_timesteps(50)
    expected = oracle_path(oracle)[-1]
    found = walk_up(SingleStateSolver(borrowed, euler_step), Leading()(LINEAR, 50))
    assert max_error(found, expected) < 1e-9 * float(expected.abs().max())
