"""Our steps against the scheduler of diffusers that each family comes with, both fed by one meaningless network.

Every process is read from the scheduler's own file. The state of ddim_edit is variance-preserving; what that of a
scheduler is instead is a number at every level, its unit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.diffusion.grids import Flow, Grid, Karras, Leading, logsnr, trailing
from ddim_edit.diffusion.integration import sample
from ddim_edit.diffusion.parametrization import PREDICTION_TYPES, DDPMParametrization
from ddim_edit.diffusion.schedules import SMALLEST_ALPHA, Level
from ddim_edit.diffusion.solvers.recording import RecordingStep
from ddim_edit.diffusion.solvers.registered.dpm2m import dpm2m_step
from ddim_edit.diffusion.solvers.solver import SamplingOnlySolver
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.steps import euler_step
from ddim_edit.models.scheduler_config import DiffusionProcess, read_scheduler_config

from ..diffusion.solvers.closed_forms import max_error, randn
from .processes import FAMILIES, alpha_bars

SHAPE = (2, 3, 8, 8)
KERNEL = randn(3, 3, 3, 3, seed=7) / 4
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
STABLE_DIFFUSION = {"beta_start": 8.5e-4, "beta_end": 0.012}
N = 10
# Of cosine's betas float32 keeps 1 - 0.999 to 6e-5, and of a state that begins at s = 2e4 it keeps 2e-3.
FLOAT32 = {"linear": 1e-5, "scaled_linear": 1e-5, "cosine": 5e-4}

Unit = Callable[[Level], float]

diffusers_own_warning = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def network(x: Tensor, index: Tensor) -> Tensor:
    """It means nothing, but depends on all that it is given."""
    shift = (index.double() / 300).expand(len(x))[:, None, None, None].cos()
    return torch.nn.functional.conv2d(x.double(), KERNEL, padding=1).tanh() + shift


def variance_preserving(level: Level) -> float:
    return 1.0


def exploding(level: Level) -> float:
    return 1 / level.alpha


def straight(level: Level) -> float:
    return (1 - level.s / (1 + level.s)) / level.alpha


def discrete(kind: Any, schedule: str, prediction: str, **options: Any) -> Any:
    """A scheduler of betas whose alpha_bar was computed in float64 instead of float32."""
    ends = STABLE_DIFFUSION if schedule == "scaled_linear" else {}
    oracle = kind(beta_schedule=SCHEDULES[schedule], prediction_type=prediction, **ends, **options)
    zero_snr = bool(options.get("rescale_betas_zero_snr"))
    oracle.alphas_cumprod = torch.from_numpy(alpha_bars(schedule, oracle.config.num_train_timesteps, zero_snr))
    if hasattr(oracle, "final_alpha_cumprod") and not oracle.config.set_alpha_to_one:
        oracle.final_alpha_cumprod = oracle.alphas_cumprod[0]
    return oracle


def started(oracle: Any, steps: int = N) -> Any:
    oracle.set_timesteps(steps)
    return oracle


def process_of(oracle: Any, folder: Path) -> DiffusionProcess:
    """What we read in the scheduler's file."""
    oracle.save_pretrained(folder)
    return read_scheduler_config(folder)


def denoiser(process: DiffusionProcess) -> NetworkDenoiser:
    return NetworkDenoiser(network, process.parametrization, torch.float64)


def our_path(process: DiffusionProcess, grid: Grid, step: Any = euler_step) -> list[Tensor]:
    """From noise to the grid's first time, one point after another."""
    states: dict[float, Tensor] = {}
    solver = SamplingOnlySolver(RecordingStep(step, states))
    sample(denoiser(process), (randn(*SHAPE),), process.schedule.spans(grid), solver)
    return list(states.values())


def their_path(oracle: Any, process: DiffusionProcess, grid: Grid, unit: Unit = variance_preserving) -> list[Tensor]:
    """The same path as the scheduler walks it, in our state."""
    levels = [process.schedule.level(t) for t in reversed(grid.times)]
    x, points = randn(*SHAPE) * unit(levels[0]), []
    for index, level in zip(oracle.timesteps, levels[1:], strict=True):
        shown = oracle.scale_model_input(x, index) if hasattr(oracle, "scale_model_input") else x
        x = oracle.step(network(shown, index), index, x).prev_sample
        points.append(x / unit(level))
    return points


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor], tol: float) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert max_error(mine, other) < tol * max(1, float(other.abs().max()))


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("options", "grid"),
    [
        ({}, Leading()),
        ({"steps_offset": 1}, Leading(1)),
        ({"timestep_spacing": "trailing"}, trailing),
    ],
    ids=["leading", "leading+1", "trailing"],
)
def test_ddim_walks_as_diffusers_does(options: Any, grid: Any, schedule: str, prediction: str, tmp_path: Path) -> None:
    oracle = started(discrete(DDIMScheduler, schedule, prediction, clip_sample=False, **options))
    process = process_of(oracle, tmp_path)
    made = grid(process.schedule, N)
    assert_same(our_path(process, made), their_path(oracle, process, made), 1e-9)


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_a_clean_end_ddim_stops_at_index_0(schedule: str, prediction: str, tmp_path: Path) -> None:
    """Where the first index is 1, diffusers takes its last step to index 0, and so do we."""
    options = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    oracle = started(discrete(DDIMScheduler, schedule, prediction, **options))
    process = process_of(oracle, tmp_path)
    grid = Leading(1, clean=False)(process.schedule, N)
    assert_same(our_path(process, grid), their_path(oracle, process, grid), 1e-9)


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("spacing", "steps"), [("linspace", N), ("trailing", 30)])
def test_single_ddim_steps_equal_diffusers_where_its_walk_does_not_hang_together(
    spacing: str, steps: int, schedule: str, prediction: str, tmp_path: Path
) -> None:
    """It steps by T // N whatever the next index is; our step between the same two times is the same."""
    options = {"clip_sample": False, "timestep_spacing": spacing}
    oracle = started(discrete(DDIMScheduler, schedule, prediction, **options), steps)
    process = process_of(oracle, tmp_path)
    x, account = randn(*SHAPE), TrackedDenoiser.start(denoiser(process), SHAPE[0])
    for index in oracle.timesteps:
        time = float(index) + 1
        span = process.schedule.span(time, max(time - 1000 // steps, 0.0))
        expected = oracle.step(network(x, index), index, x).prev_sample
        assert_same([euler_step(account, x, span, ())[0]], [expected], 1e-9)


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_walks_as_diffusers_does_out_of_the_box_in_float32(schedule: str, prediction: str, tmp_path: Path) -> None:
    ends = STABLE_DIFFUSION if schedule == "scaled_linear" else {}
    options = {"beta_schedule": SCHEDULES[schedule], "prediction_type": prediction}
    oracle = started(DDIMScheduler(clip_sample=False, **ends, **options))
    process = process_of(oracle, tmp_path)
    grid = Leading()(process.schedule, N)
    assert_same(our_path(process, grid), their_path(oracle, process, grid), FLOAT32[schedule])


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_zero_snr_ddim_walks_as_diffusers_does_from_the_alpha_of_its_other_schedulers(
    prediction: str, tmp_path: Path
) -> None:
    oracle = started(discrete(DDIMScheduler, "scaled_linear", prediction, clip_sample=False, **ZERO_SNR))
    process = process_of(oracle, tmp_path)
    grid = trailing(process.schedule, N)
    assert_same(our_path(process, grid), their_path(oracle, process, grid), 1e-9)


def test_zero_snr_ddim_is_as_near_to_diffusers_alpha_of_0_as_ours_is(tmp_path: Path) -> None:
    oracle = started(discrete(DDIMScheduler, "scaled_linear", "v_prediction", clip_sample=False, **ZERO_SNR))
    oracle.alphas_cumprod[-1] = 0
    process = process_of(oracle, tmp_path)
    grid = trailing(process.schedule, N)
    ours, theirs = our_path(process, grid), their_path(oracle, process, grid)
    assert_same(ours, theirs, 4 * SMALLEST_ALPHA)
    assert max_error(ours[0], theirs[0]) > SMALLEST_ALPHA / 4


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_improved_diffusion_walks_as_diffusers_does_when_its_indices_are_rescaled(spacing: str) -> None:
    options = {"num_train_timesteps": 4000, "clip_sample": False, "timestep_spacing": spacing}
    oracle = started(discrete(DDIMScheduler, "cosine", "epsilon", **options))
    process = FAMILIES["improved"].process
    grid = {"leading": Leading(), "trailing": trailing}[spacing](process.schedule, N)
    x, theirs = randn(*SHAPE), []
    for index in oracle.timesteps:
        x = oracle.step(network(x, index * 1000 / 4000), index, x).prev_sample
        theirs.append(x)
    assert_same(our_path(process, grid), theirs, 1e-9)


def from_indices(oracle: Any, first: float = 0.0) -> Grid:
    """The grid of a scheduler's indices, led on to its last level."""
    return Grid("theirs", (first, *(float(index) + 1 for index in reversed(oracle.timesteps))))


@diffusers_own_warning
@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_dpm2m_walks_as_diffusers_does(spacing: str, schedule: str, prediction: str, tmp_path: Path) -> None:
    oracle = started(discrete(DPMSolverMultistepScheduler, schedule, prediction, timestep_spacing=spacing))
    process = process_of(oracle, tmp_path)
    grid = from_indices(oracle)
    assert_same(our_path(process, grid, dpm2m_step), their_path(oracle, process, grid), 1e-5)


@diffusers_own_warning
@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_zero_snr_dpm2m_walks_as_diffusers_does(prediction: str, tmp_path: Path) -> None:
    oracle = started(discrete(DPMSolverMultistepScheduler, "scaled_linear", prediction, **ZERO_SNR))
    process = process_of(oracle, tmp_path)
    grid = from_indices(oracle)
    assert_same(our_path(process, grid, dpm2m_step), their_path(oracle, process, grid), 1e-5)


def at_whole_indices(process: DiffusionProcess, whole: Callable[[float], int]) -> DiffusionProcess:
    """The process with whole timestep indices only, as diffusers has them on a Karras grid."""
    parametrization = process.parametrization
    assert isinstance(parametrization, DDPMParametrization)
    time = parametrization.time
    return process._replace(parametrization=replace(parametrization, time=lambda level: float(whole(time(level)))))


@diffusers_own_warning
@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dpm2m_walks_as_diffusers_does_on_a_karras_grid(schedule: str, prediction: str, tmp_path: Path) -> None:
    oracle = started(discrete(DPMSolverMultistepScheduler, schedule, prediction, use_karras_sigmas=True))
    process = at_whole_indices(process_of(oracle, tmp_path), math.floor if schedule == "cosine" else round)
    grid = Karras()(process.schedule, N - 1).to_clean()
    assert_same(our_path(process, grid, dpm2m_step), their_path(oracle, process, grid), 1e-5)


@diffusers_own_warning
@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_euler_of_an_exploding_state_walks_as_our_ddim(
    spacing: str, schedule: str, prediction: str, tmp_path: Path
) -> None:
    oracle = started(discrete(EulerDiscreteScheduler, schedule, prediction, timestep_spacing=spacing))
    process = process_of(oracle, tmp_path)
    grid = from_indices(oracle) if spacing != "leading" else Leading()(process.schedule, N)
    tol = 1e-5 if spacing == "leading" else FLOAT32[schedule]
    assert_same(our_path(process, grid), their_path(oracle, process, grid, exploding), tol)


@diffusers_own_warning
@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_euler_walks_as_our_ddim_on_a_karras_grid(schedule: str, prediction: str, tmp_path: Path) -> None:
    oracle = started(discrete(EulerDiscreteScheduler, schedule, prediction, use_karras_sigmas=True))
    process = process_of(oracle, tmp_path)
    grid = Karras()(process.schedule, N - 1).to_clean()
    assert_same(our_path(process, grid), their_path(oracle, process, grid, exploding), 1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_walks_as_diffusers_does_but_for_what_is_left_of_the_picture_at_t(shift: float, tmp_path: Path) -> None:
    oracle = started(FlowMatchEulerDiscreteScheduler(shift=shift))
    process = process_of(oracle, tmp_path)
    grid = Flow(shift)(process.schedule, N)
    assert oracle.sigmas[0] == 1
    assert_same(our_path(process, grid), their_path(oracle, process, grid, straight), 4 * SMALLEST_ALPHA)
    last = process.schedule.level(process.schedule.T)
    oracle = started(FlowMatchEulerDiscreteScheduler(shift=shift))
    oracle.sigmas[0] = last.s / (1 + last.s)
    oracle.timesteps[0] = 1000 * oracle.sigmas[0]
    assert_same(our_path(process, grid), their_path(oracle, process, grid, straight), 1e-5)


@pytest.mark.parametrize(("spacing", "maker"), [("karras", Karras()), ("exponential", logsnr)])
def test_edm_walks_as_diffusers_does(spacing: str, maker: Any, tmp_path: Path) -> None:
    oracle = started(EDMEulerScheduler(sigma_schedule=spacing))
    process = process_of(oracle, tmp_path)
    grid = maker(process.schedule, N - 1).to_clean()
    assert_same(our_path(process, grid), their_path(oracle, process, grid, exploding), 1e-5)
