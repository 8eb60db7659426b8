"""Grids that follow the sampler of a checkpoint, beside the times of that sampler in diffusers."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest

from ddim_edit import ArgumentError, ModelError, NoiseSchedule
from ddim_edit.diffusion.grids import Grid, make_grid
from ddim_edit.diffusion.sampler_times import EmpiricalShift, SamplerTimes
from ddim_edit.models.scheduler_config import read_process

Diffusers: Any = diffusers  # its types are hidden from mypy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SD: Mapping[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
FLOW = "FlowMatchEulerDiscreteScheduler"
TOKENS = 1024


def made(kind: str, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(Diffusers, kind)(**options)


def schedule_of(scheduler: Any) -> NoiseSchedule:
    return read_process({**scheduler.config, "_class_name": type(scheduler).__name__}).schedule


def last_level(scheduler: Any) -> float:
    """Where diffusers ends, as one of our times."""
    if hasattr(scheduler, "final_alpha_cumprod"):
        return 0.0 if scheduler.final_alpha_cumprod == 1 else 1.0
    return 0.0 if not hasattr(scheduler, "sigmas") or scheduler.sigmas[-1] == 0 else 1.0


LEADING = (
    *(
        "DDPM",
        "DDIM",
        "PNDM",
        "DDIMParallel",
        "DDPMParallel",
        "EulerDiscrete",
        "EulerAncestralDiscrete",
        "HeunDiscrete",
    ),
    *("LMSDiscrete", "DPMSolverMultistep", "DEISMultistep", "UniPCMultistep", "SASolver"),
)


@pytest.mark.parametrize("kind", LEADING)
@pytest.mark.parametrize("steps", [3, 50])
def test_leading_visits_the_times_of_the_scheduler(kind: str, steps: int) -> None:
    """Stable Diffusion as it was released, with any of its samplers."""
    options = {"skip_prk_steps": True} if kind == "PNDM" else {}
    scheduler = made(f"{kind}Scheduler", **SD, **options, timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    wanted = sorted({float(index) + 1 for index in scheduler.timesteps})  # some visit times twice
    assert list(make_grid("leading", schedule_of(scheduler), steps).times) == [last_level(scheduler), *wanted]


@pytest.mark.parametrize("kind", ["DDIM", "PNDM"])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_the_last_alpha_is_that_of_the_scheduler(kind: str, clean: bool, spacing: str) -> None:
    scheduler = made(f"{kind}Scheduler", **SD, set_alpha_to_one=clean)
    assert make_grid(spacing, schedule_of(scheduler), 20).times[0] == last_level(scheduler) == float(not clean)


@pytest.mark.parametrize("kind", ["DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep"])
def test_linspace_of_solvers_of_higher_order_leaves_index_0_out(kind: str) -> None:
    options = {} if kind == "DPMSolverSinglestep" else {"timestep_spacing": "linspace"}
    scheduler = made(f"{kind}Scheduler", **options)
    scheduler.set_timesteps(20)
    times = make_grid("linspace", schedule_of(scheduler), 20).times
    assert list(times[1:]) == [float(index) + 1 for index in scheduler.timesteps.flip(0)]


def test_a_solver_that_ends_on_its_smallest_sigma() -> None:
    scheduler = made("DPMSolverMultistepScheduler", **SD, final_sigmas_type="sigma_min")
    assert make_grid("leading", schedule_of(scheduler), 20).times[0] == 1


@pytest.mark.parametrize("kind", ["LCMScheduler", "TCDScheduler"])
@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("origin", [50, 40])
def test_consistency_models_take_some_of_the_times_of_their_teacher(kind: str, steps: int, origin: int) -> None:
    scheduler = made(kind, original_inference_steps=origin)
    scheduler.set_timesteps(steps)
    wanted = [float(index) + 1 for index in scheduler.timesteps.flip(0)]
    assert list(make_grid("leading", schedule_of(scheduler), steps).times) == [0, *wanted]


# Straight paths.


def shares(schedule: NoiseSchedule, grid: Grid) -> np.ndarray:
    """The share of noise at every time but the clean image, from noise on."""
    s = np.array([schedule.s(t) for t in grid.times[:0:-1]])
    return s / (1 + s)


def assert_shares(schedule: NoiseSchedule, grid: Grid, sigmas: Any) -> None:
    """Ours end at alpha = 2^-12 where theirs end at 0."""
    theirs = np.minimum(np.array(sigmas)[:-1], 4096 / 4097)
    np.testing.assert_allclose(shares(schedule, grid), theirs, rtol=0, atol=1e-6)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shift": {"shift": 3.0},
    "terminal": {"shift": 3.0, "shift_terminal": 0.02},
    "karras": {"shift": 2.0, "use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "dynamic": {"use_dynamic_shifting": True},
    "dynamic, as Flux has it": {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
    "dynamic, linear": {"use_dynamic_shifting": True, "time_shift_type": "linear", "base_shift": 1, "max_shift": 5},
    "dynamic and terminal": {"use_dynamic_shifting": True, "shift_terminal": 0.02, "max_shift": 0.9},
}


def mu_of(config: Any) -> float:
    """As calculate_shift of diffusers' pipelines."""
    few, many = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (many - few)
    return float(TOKENS * slope + config["base_shift"] - slope * few)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("steps", [2, 20])
@pytest.mark.parametrize("listed", [False, True], ids=["the scheduler's own", "the pipeline's list"])
def test_flow_follows_the_scheduler(name: str, steps: int, listed: bool) -> None:
    scheduler = made(FLOW, **VARIANTS[name])
    found = schedule_of(scheduler)
    sampler = found.sampler.for_tokens(TOKENS)
    if listed:
        sampler = SamplerTimes(**{**vars(sampler), "shares": "even"})
    schedule = NoiseSchedule(found.log_s, found.description, sampler)
    options: dict[str, Any] = {"mu": mu_of(scheduler.config)} if scheduler.config.use_dynamic_shifting else {}
    if listed:
        options["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    scheduler.set_timesteps(steps, **options)
    assert_shares(schedule, make_grid("flow", schedule, steps), scheduler.sigmas)


@pytest.mark.parametrize("kind", ["UniPCMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_follows_solvers_of_flows(kind: str, shift: float) -> None:
    """Sana's sampler. It begins a little below pure noise."""
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    scheduler = made(f"{kind}Scheduler", **options)
    scheduler.set_timesteps(20)
    assert len(scheduler.sigmas) == 21
    schedule = schedule_of(scheduler)
    assert_shares(schedule, make_grid("flow", schedule, 20), scheduler.sigmas)


@pytest.mark.parametrize("tokens", [256, 4096, 4400])
@pytest.mark.parametrize("steps", [4, 50, 200])
def test_the_shift_of_flux_2_depends_on_tokens_and_steps(tokens: int, steps: int) -> None:
    compute_mu = pytest.importorskip("diffusers.pipelines.flux2.pipeline_flux2").compute_empirical_mu
    sampler = SamplerTimes(dynamic_shift=EmpiricalShift()).for_tokens(tokens)
    assert sampler.shift_of(steps) == pytest.approx(np.exp(compute_mu(tokens, steps)))


def test_a_shift_that_is_asked_for_takes_the_place_of_the_schedulers() -> None:
    other = schedule_of(made(FLOW, shift=5.0))
    own = schedule_of(made(FLOW, shift=3.0))
    assert make_grid("flow:3", other, 9).times == make_grid("flow", own, 9).times
    assert make_grid("flow", NoiseSchedule.flow(), 9).times == make_grid("flow:1", own, 9).times


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "DDIMScheduler", "num_train_timesteps": 10, "steps_offset": 1000},
        {"_class_name": FLOW, "shift_terminal": 1.0},
        {"_class_name": FLOW, "use_dynamic_shifting": True, "base_image_seq_len": 4096},
        {"_class_name": FLOW, "use_dynamic_shifting": True, "max_shift": 1e9},
        {"_class_name": FLOW, "use_dynamic_shifting": True, "time_shift_type": "linear", "max_shift": -9},
        {"_class_name": FLOW, "shift": "large"},
        {"_class_name": "LCMScheduler", "original_inference_steps": 2},
    ],
    ids=str,
)
def test_odd_settings_are_no_traceback(config: dict[str, Any]) -> None:
    for name in ("leading", "trailing", "linspace", "flow"):
        with suppress(ArgumentError, ModelError):
            schedule = read_process(config).schedule
            sampler = schedule.sampler.for_tokens(TOKENS)
            make_grid(name, NoiseSchedule(schedule.log_s, schedule.description, sampler), 5)


# Times of one's own.


def test_times_are_visited_as_they_are() -> None:
    schedule = NoiseSchedule.linear()
    for name in ("times:1,21,400.5,1000", "times: 1000, 400.5,21 ,1"):
        assert make_grid(name, schedule, 20).times == (1, 21, 400.5, 1000)


@pytest.mark.parametrize("text", ["", "5", "1,x", "1,nan", "-1,5", "1,inf"])
def test_other_texts_are_no_times(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^Times must be two or more numbers from 0 with commas between them"):
        make_grid(f"times:{text}", NoiseSchedule.linear(), 20)


@pytest.mark.parametrize(("text", "words"), [("1,2000", "no time 2000"), ("1,1,5", "each larger than the one before")])
def test_times_that_a_schedule_does_not_have_are_refused(text: str, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        make_grid(f"times:{text}", NoiseSchedule.linear(), 20)


def test_samplers_are_no_part_of_what_a_model_is(tmp_path: Path) -> None:
    plain, other = schedule_of(made("DDIMScheduler")), schedule_of(made("DDIMScheduler", steps_offset=1))
    assert plain.description == other.description
    assert plain.sampler != other.sampler
