"""The diffusion process of a diffusers folder: its schedule, what its network predicts and what it is shown."""

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
from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.models.component import component, read_json
from ddim_edit.models.entries import count, number, word

# All of them say how the same variance-preserving process was discretised in training; others mean other processes.
_DISCRETE = (
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
)
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")


class Process(NamedTuple):
    """How a network was trained: its noise schedule and its parametrization."""

    schedule: NoiseSchedule
    parametrization: Parametrization


Config = Mapping[str, Any]


def read_process(folder: Path) -> Process:
    """The process of a diffusers folder, from its scheduler_config.json; which steps a sampler takes is not read.

    Raises:
        ModelError: no scheduler_config.json, or one whose process is not supported.
    """
    config = read_json(component(folder, "scheduler") / "scheduler_config.json")
    kind = word(config, "_class_name", "DDPMScheduler")
    readers: dict[str, Callable[[Config], Process]] = {
        **dict.fromkeys(_DISCRETE, _discrete),
        **dict.fromkeys(_FLOW, _flow),
        **dict.fromkeys(_EDM, _edm),
    }
    if kind not in readers:
        wanted = "a scheduler of discrete levels, of a straight path or of EDM, such as DDIMScheduler"
        raise ModelError(wanted, f"{kind!r}", "use another model")
    return readers[kind](config)


def _discrete(config: Config) -> Process:
    prediction = word(config, "prediction_type", "epsilon")
    if prediction == "flow_prediction" and config.get("use_flow_sigmas"):
        return _flow(config)
    if prediction not in PREDICTION_TYPES:
        raise ModelError(
            f"a prediction_type out of {', '.join(PREDICTION_TYPES)}", f"{prediction!r}", "use another model"
        )
    schedule = _schedule(config)
    if config.get("rescale_betas_zero_snr"):
        if prediction == "epsilon":
            wanted = "a network that predicts v or x0 where no signal is left at T"
            raise ModelError(wanted, "epsilon with rescale_betas_zero_snr", "its eps says nothing of x0 there")
        schedule = schedule.with_zero_snr()
    return Process(schedule, DDPMParametrization(prediction))


def _schedule(config: Config) -> NoiseSchedule:
    if (betas := config.get("trained_betas")) is not None:
        if problem := schema.list_of(schema.number).find_problem(betas, "trained_betas"):
            raise ModelError(f"scheduler_config.json: {problem}. Fetch the checkpoint again.")
        return NoiseSchedule.from_betas(betas)
    kind, T = word(config, "beta_schedule", "linear"), count(config, "num_train_timesteps", 1000)
    ends = number(config, "beta_start", 1e-4), number(config, "beta_end", 0.02)
    makers: Mapping[str, Callable[[], NoiseSchedule]] = {
        "linear": lambda: NoiseSchedule.linear(*ends, T),
        "scaled_linear": lambda: NoiseSchedule.scaled_linear(*ends, T),
        "squaredcos_cap_v2": lambda: NoiseSchedule.cosine(T),
    }
    if kind not in makers:
        raise ModelError(f"a beta_schedule out of {', '.join(makers)}", f"{kind!r}", "give its trained_betas")
    return makers[kind]()


def _flow(config: Config) -> Process:
    """Shifts say which times a sampler visits, not what the network was taught, so they are the grid's business."""
    T = count(config, "num_train_timesteps", 1000)
    return Process(NoiseSchedule.flow(T), FlowParametrization(T))


def _edm(config: Config) -> Process:
    if (prediction := word(config, "prediction_type", "epsilon")) != "epsilon":
        wanted = "EDM's own preconditioning (prediction_type epsilon)"
        raise ModelError(wanted, f"{prediction!r}", "use another model")
    schedule = NoiseSchedule.continuous(number(config, "sigma_min", 0.002), number(config, "sigma_max", 80.0))
    return Process(schedule, EDMParametrization(number(config, "sigma_data", 0.5)))
