"""Read the diffusion process of a diffusers folder from its scheduler's config."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddim_edit.diffusion.parametrization import (
    PREDICTION_TYPES,
    DDPMParametrization,
    EDMParametrization,
    FlowParametrization,
    Parametrization,
)
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.io import schema
from ddim_edit.models.pretrained import component_folder, read_config

SCHEDULER_CONFIG = "scheduler_config.json"
Config = Mapping[str, Any]


class DiffusionProcess(NamedTuple):
    """The noise schedule and the parametrization that a network was trained with."""

    schedule: NoiseSchedule
    parametrization: Parametrization


def read_scheduler_config(folder: Path) -> DiffusionProcess:
    """Return the diffusion process of a diffusers folder.

    Only what was decided in training is read. Spacing, shift, clipping and steps belong to sampling: they are the
    business of grids and solvers.

    Raises:
        ModelError: no scheduler_config.json, or one of a process that is not supported.
    """
    return read_process(read_config(component_folder(folder, "scheduler") / SCHEDULER_CONFIG))


def read_process(config: Config) -> DiffusionProcess:
    """Return the diffusion process of the config of a scheduler, as `read_scheduler_config` does.

    Raises:
        ModelError: a process that is not supported.
    """
    kind = _entry(config, "_class_name", schema.text, "DDPMScheduler")
    if kind not in _PROCESSES:
        raise ModelError(
            f"{SCHEDULER_CONFIG}: schedulers of the class {kind!r} are not supported. Supported are those of discrete "
            "levels, of rectified flow and of EDM, such as DDIMScheduler."
        )
    try:
        return _PROCESSES[kind](config)
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
    kind = _entry(config, "beta_schedule", schema.one_of("linear", "scaled_linear", "squaredcos_cap_v2"), "linear")
    if kind == "squaredcos_cap_v2":
        return NoiseSchedule.cosine(T)
    return NoiseSchedule.linear(start, end, T) if kind == "linear" else NoiseSchedule.scaled_linear(start, end, T)


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


_PROCESSES: Mapping[str, Callable[[Config], DiffusionProcess]] = {
    # These all discretise the same variance-preserving process in training; they differ in how they sample.
    "DDPMScheduler": _discrete,
    "DDIMScheduler": _discrete,
    "PNDMScheduler": _discrete,
    "DPMSolverMultistepScheduler": _discrete,
    "DPMSolverSinglestepScheduler": _discrete,
    "DEISMultistepScheduler": _discrete,
    "UniPCMultistepScheduler": _discrete,
    "EulerDiscreteScheduler": _discrete,
    "EulerAncestralDiscreteScheduler": _discrete,
    "HeunDiscreteScheduler": _discrete,
    "LMSDiscreteScheduler": _discrete,
    "KDPM2DiscreteScheduler": _discrete,
    "KDPM2AncestralDiscreteScheduler": _discrete,
    "FlowMatchEulerDiscreteScheduler": _flow,
    "FlowMatchHeunDiscreteScheduler": _flow,
    "EDMEulerScheduler": _edm,
    "EDMDPMSolverMultistepScheduler": _edm,
}
