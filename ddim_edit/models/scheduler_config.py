"""Read the diffusion process of a diffusers folder from its scheduler's config."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ddim_edit.diffusion.parametrization import (
    PREDICTION_TYPES,
    DDPMParametrization,
    EDMParametrization,
    FlowParametrization,
    Parametrization,
)
from ddim_edit.diffusion.sampler_times import DynamicShift, SamplerTimes
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.io import schema
from ddim_edit.models.pretrained import component_folder, read_config

SCHEDULER_CONFIG = "scheduler_config.json"
Config = Mapping[str, Any]
OWN_SCHEDULERS = ("DDIMEditScheduler", "DDIMEditInverseScheduler")
"""Our own, of `ddim_edit.integrations.diffusers`: `trained_with` names the one that they take the place of."""
BETAS: Mapping[str, Config] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
"""Schedulers that can be asked for by name, as DDPM, Stable Diffusion and Improved DDPM have them."""


class DiffusionProcess(NamedTuple):
    """The noise schedule and the parametrization that a network was trained with."""

    schedule: NoiseSchedule
    parametrization: Parametrization


def read_scheduler_config(folder: Path) -> DiffusionProcess:
    """Return the diffusion process of a diffusers folder, as `read_process` reads it.

    Raises:
        ModelError: no scheduler_config.json, or one of a process that is not supported.
    """
    return read_process(find_scheduler_config(folder))


def find_scheduler_config(folder: Path, scheduler: str | Path | None = None) -> Config:
    """Return the config of the scheduler of a diffusers folder.

    Args:
        folder: of the checkpoint.
        scheduler: takes the place of the folder's own: another folder, a scheduler_config.json, or the name of betas,
            one of `BETAS`, for the prediction type of the folder's own.

    Raises:
        ArgumentError: a scheduler that does not exist.
        ModelError: no scheduler_config.json.
    """
    own = component_folder(folder, "scheduler") / SCHEDULER_CONFIG
    is_needed = scheduler is None or scheduler in BETAS
    found = choose_scheduler(read_config(own) if is_needed and own.is_file() else None, scheduler)
    if found is None:
        raise ModelError(
            f"{own}: there is no such file, so the noise schedule of the training is not known. Download it too, "
            "or name one with --scheduler, as in --scheduler scaled_linear."
        )
    return found


def choose_scheduler(own: Config | None, scheduler: str | Path | None) -> Config | None:
    """Return the config of a checkpoint's own scheduler, or of what takes its place.

    Args:
        own: that of the checkpoint, if it has one.
        scheduler: as for `find_scheduler_config`.

    Raises:
        ArgumentError: a scheduler that does not exist.
    """
    if scheduler is None:
        return own
    if scheduler in BETAS:
        return {**BETAS[str(scheduler)], "prediction_type": (own or {}).get("prediction_type", "epsilon")}
    path = Path(scheduler)
    if path.is_dir():
        path = component_folder(path, "scheduler") / SCHEDULER_CONFIG
    if not path.is_file():
        raise ArgumentError(
            f"There is no scheduler {str(scheduler)!r:.200}. Give a {SCHEDULER_CONFIG}, its folder, or one of "
            f"{', '.join(BETAS)}."
        )
    return read_config(path)


def read_process(config: Config) -> DiffusionProcess:
    """Return the diffusion process in the config of a scheduler.

    What was decided in training makes the process. The offset, the last level and the shift of the sampler are read
    too, for grids that follow it; clipping, solver and steps are the business of ours.

    Raises:
        ModelError: a process that is not supported.
    """
    kind = _entry(config, "_class_name", schema.text, "DDPMScheduler")
    if kind in OWN_SCHEDULERS:
        kind = _entry(config, "trained_with", schema.text, "DDPMScheduler")
    if kind not in _PROCESSES:
        raise ModelError(
            f"{SCHEDULER_CONFIG}: schedulers of the class {kind!r} are not supported. Supported are those of discrete "
            "levels, of rectified flow and of EDM, such as DDIMScheduler."
        )
    try:
        process = _PROCESSES[kind](config)
        return process._replace(schedule=replace(process.schedule, sampler=_sampler_times(kind, config)))
    except ArgumentError as error:
        # Entries that are fine by themselves and make no schedule together, as a million timesteps of linear betas.
        raise ModelError(f"{SCHEDULER_CONFIG}: {error}") from error


def _entry(config: Config, name: str, check: schema.Check, default: Any) -> Any:
    return schema.read_entry(config, name, check, default, source=SCHEDULER_CONFIG, error=ModelError)


def _discrete(config: Config) -> DiffusionProcess:
    prediction = _entry(config, "prediction_type", schema.text, "epsilon")
    # DPM-Solver, DEIS and UniPC serve flow networks too, with use_flow_sigmas.
    if prediction == "flow_prediction" and config.get("use_flow_sigmas"):
        return _flow(config)
    if prediction not in PREDICTION_TYPES:
        raise ModelError(
            f"{SCHEDULER_CONFIG}: prediction_type must be {' or '.join(PREDICTION_TYPES)}, not {prediction!r}."
        )
    schedule = _beta_schedule(config)
    if config.get("rescale_betas_zero_snr"):
        if prediction == "epsilon":
            raise ModelError(
                f"{SCHEDULER_CONFIG}: a network with rescale_betas_zero_snr cannot predict epsilon: where no signal is "
                "left, eps says nothing of x0."
            )
        schedule = schedule.with_zero_snr()
    return DiffusionProcess(schedule, DDPMParametrization(prediction))


def _beta_schedule(config: Config) -> NoiseSchedule:
    betas = _entry(config, "trained_betas", schema.optional(schema.list_of(schema.number)), None)
    if betas is not None:
        return NoiseSchedule.from_betas(betas)
    T = _entry(config, "num_train_timesteps", schema.int_between(1, 1_000_000), 1000)
    start = float(_entry(config, "beta_start", schema.positive_number, 1e-4))
    end = float(_entry(config, "beta_end", schema.positive_number, 0.02))
    kind = _entry(config, "beta_schedule", schema.one_of(*_BETA_SCHEDULES), "linear")
    return _BETA_SCHEDULES[kind](start, end, T)


_BETA_SCHEDULES: Mapping[str, Callable[[float, float, int], NoiseSchedule]] = {
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "squaredcos_cap_v2": lambda start, end, T: NoiseSchedule.cosine(T),
    "sigmoid": NoiseSchedule.sigmoid,
    "laplace": lambda start, end, T: NoiseSchedule.laplace(T),
}


def _flow(config: Config) -> DiffusionProcess:
    # A shift decides which times a sampler visits, not what the network was trained on, so it belongs to grids.
    T = _entry(config, "num_train_timesteps", schema.int_between(1, 1_000_000), 1000)
    return DiffusionProcess(NoiseSchedule.flow(T), FlowParametrization(T))


def _edm(config: Config) -> DiffusionProcess:
    # With prediction_type "v_prediction" diffusers flips the sign of c_out, which EDMParametrization does not know.
    _entry(config, "prediction_type", schema.one_of("epsilon"), "epsilon")
    low = float(_entry(config, "sigma_min", schema.positive_number, 0.002))
    high = float(_entry(config, "sigma_max", schema.positive_number, 80.0))
    sigma_data = float(_entry(config, "sigma_data", schema.positive_number, 0.5))
    return DiffusionProcess(NoiseSchedule.continuous(low, high), EDMParametrization(sigma_data))


_DISCRETE = (
    *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "RePaintScheduler"),
    *("DDPMParallelScheduler", "DDIMParallelScheduler"),
    *("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler"),
    *("DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
    *("LCMScheduler", "TCDScheduler"),
)
"""Schedulers that all discretise the same variance-preserving process in training; they differ in how they sample."""
_PROCESSES: Mapping[str, Callable[[Config], DiffusionProcess]] = {
    **dict.fromkeys(_DISCRETE, _discrete),
    "FlowMatchEulerDiscreteScheduler": _flow,
    "FlowMatchHeunDiscreteScheduler": _flow,
    "FlowMatchLCMScheduler": _flow,
    "EDMEulerScheduler": _edm,
    "EDMDPMSolverMultistepScheduler": _edm,
}
SCHEDULERS = tuple(_PROCESSES)
"""The classes of diffusers whose processes are known."""


_HIGHER_ORDER = (
    *("DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverSinglestepScheduler"),
    *("DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler"),
)
"""Schedulers that count one index more than they visit."""
_ENDS_CLEAN: Mapping[str, bool] = {"PNDMScheduler": False, "DEISMultistepScheduler": False, "SASolverScheduler": False}
"""Whether schedulers end on the clean image where their config does not say, if not all do."""


def _sampler_times(kind: str, config: Config) -> SamplerTimes:
    """Return how a sampler chooses its times; entries that mean nothing are those of no sampler."""
    clean = _entry(config, "set_alpha_to_one", schema.flag, _ENDS_CLEAN.get(kind, True))
    if config.get("final_sigmas_type") == "sigma_min":
        clean = False
    higher = kind in _HIGHER_ORDER
    flows = higher and config.get("use_flow_sigmas")
    distilled = kind in ("LCMScheduler", "TCDScheduler")
    steps = _entry(config, "original_inference_steps", schema.int_between(1, 1000), 50) if distilled else 0
    shares = "above first" if kind == "UniPCMultistepScheduler" else "below pure"
    spread = [name for name in ("karras", "exponential", "beta") if config.get(f"use_{name}_sigmas")]
    return SamplerTimes(
        offset=_entry(config, "steps_offset", schema.int_between(0, 1000), 0),
        ends_clean=clean or distilled,
        one_more=higher,
        distilled_steps=steps,
        shift=float(_entry(config, "flow_shift" if flows else "shift", schema.positive_number, 1.0)),
        dynamic_shift=_dynamic_shift(config) if config.get("use_dynamic_shifting") else None,
        shares=shares if flows else "levels",
        terminal=float(_entry(config, "shift_terminal", schema.optional(schema.number), None) or 0.0),
        spread=spread[0] if spread else "",
    )


def _dynamic_shift(config: Config) -> DynamicShift:
    return DynamicShift(
        least=float(_entry(config, "base_shift", schema.number, 0.5)),
        most=float(_entry(config, "max_shift", schema.number, 1.15)),
        few=_entry(config, "base_image_seq_len", schema.int_between(1, 1_000_000), 256),
        many=_entry(config, "max_image_seq_len", schema.int_between(1, 1_000_000), 4096),
        exponential=_entry(config, "time_shift_type", schema.text, "exponential") == "exponential",
    )
