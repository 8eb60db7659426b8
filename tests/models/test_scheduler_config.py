"""Processes as diffusers' own schedulers save them, beside the levels that those schedulers compute."""

import warnings
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from ddim_edit.diffusion.parametrization import PREDICTION_TYPES, DDPMParametrization, Prediction
from ddim_edit.errors import ArgumentError, DDIMEditError, ModelError
from ddim_edit.models.scheduler_config import (
    DiffusionProcess,
    find_scheduler_config,
    read_process,
    read_scheduler_config,
)

from .. import tiny

Diffusers: Any = diffusers  # its types are hidden from mypy
ONE_SENTENCE = r"^[^\n]+$"
FAINT = 2.0**-12

SAMPLERS = [
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DDPMParallelScheduler",
    "DDIMParallelScheduler",
    "DDIMInverseScheduler",
    "DPMSolverMultistepInverseScheduler",
    "SASolverScheduler",
    "LCMScheduler",
    "TCDScheduler",
]
SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 2e-4, "beta_end": 0.03},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "short": {"beta_schedule": "linear", "num_train_timesteps": 100},
    "short cosine": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 250},
    "trained": {"trained_betas": [0.001 * (k + 1) for k in range(50)], "num_train_timesteps": 50},
}


def made(kind: str, **options: Any) -> Any:
    """A scheduler of diffusers, some of which make arrays in a way that NumPy 2 has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(Diffusers, kind)(**options)


def saved(scheduler: Any, folder: Path) -> DiffusionProcess:
    """The process of a scheduler's own file, in its place in a pipeline's folder."""
    scheduler.save_pretrained(folder / "scheduler")
    return read_scheduler_config(folder)


def written(folder: Path, **config: Any) -> DiffusionProcess:
    tiny.write_json(folder / "scheduler_config.json", config)
    return read_scheduler_config(folder)


def randn(count: int) -> Tensor:
    """So many batches of one picture."""
    return torch.randn(count, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def assert_levels_are_theirs(process: DiffusionProcess, scheduler: Any) -> None:
    theirs = scheduler.alphas_cumprod.double()
    ours = torch.from_numpy(process.schedule.alpha_bar)
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-7)  # theirs are float32 products


@pytest.mark.parametrize(("kind", "name"), list(zip(SAMPLERS, cycle(SCHEDULES), strict=False)))
def test_levels_equal_diffusers(tmp_path: Path, kind: str, name: str) -> None:
    scheduler = made(kind, **SCHEDULES[name])
    process = saved(scheduler, tmp_path)
    assert process.parametrization == DDPMParametrization("epsilon")
    assert_levels_are_theirs(process, scheduler)


@pytest.mark.parametrize(("kind", "prediction"), list(zip(SAMPLERS, cycle(PREDICTION_TYPES), strict=False)))
def test_predictions_are_those_of_the_scheduler(tmp_path: Path, kind: str, prediction: str) -> None:
    process = saved(made(kind, prediction_type=prediction), tmp_path)
    assert process.parametrization == DDPMParametrization(prediction)


@pytest.mark.parametrize("betas", ["sigmoid", "laplace"])
@pytest.mark.parametrize("steps", [1000, 250])
def test_betas_that_ddpm_alone_knows_equal_diffusers(tmp_path: Path, betas: str, steps: int) -> None:
    scheduler = made("DDPMScheduler", beta_schedule=betas, num_train_timesteps=steps)
    assert_levels_are_theirs(saved(scheduler, tmp_path), scheduler)


@pytest.mark.parametrize("kind", ["DPMSolverSDEScheduler", "RePaintScheduler"])
def test_samplers_that_need_more_than_diffusers(tmp_path: Path, kind: str) -> None:
    """Their files can be read without what their samplers need (torchsde)."""
    process = written(tmp_path, _class_name=kind, **SCHEDULES["scaled_linear"])
    assert_levels_are_theirs(process, made("DDPMScheduler", **SCHEDULES["scaled_linear"]))


def test_how_a_sampler_walks_is_not_read(tmp_path: Path) -> None:
    """Steps, clipping and noise are the walker's business."""
    plain = saved(made("DPMSolverMultistepScheduler"), tmp_path / "a")
    odd = {"use_karras_sigmas": True, "solver_order": 3, "timestep_spacing": "trailing", "steps_offset": 1}
    other = saved(made("DPMSolverMultistepScheduler", **odd), tmp_path / "b")
    clipping = saved(made("DDIMScheduler", thresholding=True, clip_sample=True, set_alpha_to_one=False), tmp_path / "c")
    assert plain.schedule.description == other.schedule.description == clipping.schedule.description


def test_an_empty_config_has_the_defaults_of_diffusers(tmp_path: Path) -> None:
    process, theirs = written(tmp_path), made("DDPMScheduler")
    assert process.parametrization.name == theirs.config.prediction_type
    assert_levels_are_theirs(process, theirs)


ZEROING = ("DDPM", "DDIM", "DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete", "EulerAncestralDiscrete")


@pytest.mark.parametrize(("name", "prediction"), list(zip(ZEROING, cycle(["v_prediction", "sample"]), strict=False)))
def test_zero_snr_equals_diffusers_except_at_T(tmp_path: Path, name: str, prediction: str) -> None:
    """Where diffusers' alpha is 0 (or 2^-12, of the solvers that divide by it), ours is 2^-12."""
    options = {**SCHEDULES["scaled_linear"], "rescale_betas_zero_snr": True, "prediction_type": prediction}
    scheduler = made(f"{name}Scheduler", **options)
    process, theirs = saved(scheduler, tmp_path), scheduler.alphas_cumprod.double()
    torch.testing.assert_close(torch.from_numpy(process.schedule.alpha_bar)[:-1], theirs[:-1], rtol=1e-3, atol=1e-7)
    assert process.schedule.level(1000).alpha == pytest.approx(FAINT)
    assert theirs[-1] <= FAINT**2
    assert process.schedule.description["zero_snr"] is True


def test_zero_snr_with_epsilon_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=ONE_SENTENCE) as caught:
        saved(made("DDIMScheduler", rescale_betas_zero_snr=True), tmp_path)
    assert "rescale_betas_zero_snr" in str(caught.value)


# Straight paths.


@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_parametrization_equals_diffusers(tmp_path: Path, kind: str, shift: float) -> None:
    """Its sigmas are our tau, whatever the shift, which only picks some of them."""
    scheduler = made(kind, shift=shift)
    assert_straight(saved(scheduler, tmp_path), scheduler.sigmas.double(), scheduler.timesteps.double())


def assert_straight(process: DiffusionProcess, sigmas: Tensor, indices: Tensor) -> None:
    """x' = (1 - tau) x0 + tau eps at index T tau, and the velocity is eps - x0."""
    assert process.parametrization.name == "flow_prediction"
    schedule, (x0, eps) = process.schedule, randn(2)
    for tau, index in zip(sigmas.tolist(), indices.tolist(), strict=False):
        if not 0 < tau < 1 - FAINT:
            continue  # our path ends there
        level = schedule.level(schedule.time(tau / (1 - tau)))
        shown, asked = (
            process.parametrization.scale_input(level.alpha * x0 + level.sigma * eps, level),
            process.parametrization.time_condition(level),
        )
        assert asked == pytest.approx(index, rel=1e-5)
        torch.testing.assert_close(shown, (1 - tau) * x0 + tau * eps, rtol=1e-9, atol=1e-9)
        found = process.parametrization.to_prediction(eps - x0, level.alpha * x0 + level.sigma * eps, level)
        torch.testing.assert_close(found, Prediction(x0, eps), rtol=1e-9, atol=1e-9)


SOLVERS_OF_FLOW = [
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
]


@pytest.mark.parametrize("kind", SOLVERS_OF_FLOW)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_flow_sigmas_mean_a_flow(tmp_path: Path, kind: str) -> None:
    scheduler = made(kind, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    process = saved(scheduler, tmp_path)
    scheduler.set_timesteps(10)
    sigmas = scheduler.sigmas.double()
    assert_straight(process, sigmas, 1000 * sigmas)  # their timesteps are rounded


# EDM.


@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_preconditioning_equals_diffusers(tmp_path: Path, kind: str) -> None:
    scheduler = made(kind, sigma_min=0.01, sigma_max=40.0, sigma_data=0.7)
    process = saved(scheduler, tmp_path)
    schedule, (x0, eps, output) = process.schedule, randn(3)
    assert (schedule.level(1).s, schedule.level(schedule.T).s) == (pytest.approx(0.01), pytest.approx(40))
    for s in np.geomspace(0.01, 40, 7):
        level = schedule.level(schedule.time(float(s)))
        x, noisy = level.alpha * x0 + level.sigma * eps, x0 + s * eps
        shown, index = process.parametrization.scale_input(x, level), process.parametrization.time_condition(level)
        torch.testing.assert_close(shown, scheduler.precondition_inputs(noisy, float(s)), rtol=1e-6, atol=1e-6)
        assert index == pytest.approx(float(scheduler.precondition_noise(float(s))), rel=1e-6, abs=1e-6)
        wanted = scheduler.precondition_outputs(noisy, output, torch.tensor(s))
        torch.testing.assert_close(
            process.parametrization.to_prediction(output, x, level).x0, wanted, rtol=1e-6, atol=1e-6
        )


# Refusals.


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"beta_schedule": "exp"}, "'exp'"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "'ScoreSdeVeScheduler'"),
        ({"_class_name": "KarrasVeScheduler"}, "'KarrasVeScheduler'"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "'CMStochasticIterativeScheduler'"),
        ({"prediction_type": "flow_prediction"}, "'flow_prediction'"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, "'v_prediction'"),
    ],
    ids=str,
)
def test_other_processes_are_refused_by_name(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=ONE_SENTENCE) as caught:
        written(tmp_path, **change)
    assert word in str(caught.value)


@pytest.mark.parametrize("betas", [[0.1, 1.0], [0.0, 0.1], []], ids=str)
def test_degenerate_betas_are_refused(tmp_path: Path, betas: list[float]) -> None:
    with pytest.raises(DDIMEditError, match=ONE_SENTENCE):
        written(tmp_path, trained_betas=betas)


def test_a_scheduler_takes_the_place_of_the_folders_own(tmp_path: Path) -> None:
    written(tmp_path / "own", prediction_type="v_prediction")
    written(tmp_path / "other" / "scheduler", **SCHEDULES["scaled_linear"])

    def with_scheduler(scheduler: str | Path) -> DiffusionProcess:
        return read_process(find_scheduler_config(tmp_path / "own", scheduler))

    other = tmp_path / "other"
    for named in (other, other / "scheduler", other / "scheduler" / "scheduler_config.json"):
        process = with_scheduler(named)
        assert process.parametrization == DDPMParametrization("epsilon")
        assert_levels_are_theirs(process, made("DDPMScheduler", **SCHEDULES["scaled_linear"]))
    for name in ("linear", "scaled_linear", "cosine"):
        process = with_scheduler(name)
        assert process.parametrization == DDPMParametrization("v_prediction")
        assert process.schedule.description["kind"] == name
    with pytest.raises(ArgumentError, match=r"There is no scheduler .*linear, scaled_linear, cosine"):
        with_scheduler("quadratic")


def test_a_folder_without_a_scheduler_can_be_given_one(tmp_path: Path) -> None:
    assert read_process(find_scheduler_config(tmp_path, "linear")).schedule.T == 1000
    with pytest.raises(ModelError, match="--scheduler scaled_linear"):
        read_scheduler_config(tmp_path)


BROKEN: dict[str, Callable[[Path], object]] = {
    "absent": lambda path: None,
    "no json": lambda path: path.write_bytes(b"no json"),
    "a list": lambda path: path.write_bytes(b"[1, 2]"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_config_is_named(tmp_path: Path, name: str) -> None:
    BROKEN[name](tmp_path / "scheduler_config.json")
    with pytest.raises(ModelError, match=ONE_SENTENCE) as caught:
        read_scheduler_config(tmp_path)
    assert "scheduler_config.json" in str(caught.value)


@pytest.mark.parametrize("steps", [50_000, 1_000_000])
@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
def test_schedules_that_leave_nothing_of_the_image_are_refused(tmp_path: Path, kind: str, steps: int) -> None:
    config = tiny.SCHEDULER | {"beta_schedule": kind, "num_train_timesteps": steps}
    tiny.write_json(tmp_path / "scheduler" / "scheduler_config.json", config)
    with pytest.raises(ModelError, match=r"scheduler_config.json: The schedule ends on .*Take fewer timesteps"):
        read_scheduler_config(tmp_path)
