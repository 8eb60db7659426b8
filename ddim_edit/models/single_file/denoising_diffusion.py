"""Checkpoints of denoising-diffusion-pytorch (Phil Wang, releases 1.9 to 2.3), with or without their diffusion.

Four of its diffusions are told apart by what is in the file:

- `GaussianDiffusion` and `LearnedGaussianDiffusion` hold their levels and the weight of their loss, which tells what
  the network predicts. A network with learned variances was trained to predict eps whatever its `objective` says.
- `ElucidatedDiffusion` holds its network as `net`, and is EDM's.
- `ContinuousTimeGaussianDiffusion` and its v-predicting twin hold nothing but a network with learned (or random)
  frequencies, which is shown log SNR; a network alone with such frequencies is taken for one of theirs.
- A network alone without them is taken for a `GaussianDiffusion` with the package's defaults.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ddim_edit.diffusion.parametrization import DDPMParametrization, EDMParametrization, Parametrization
from ddim_edit.diffusion.schedules import SMALLEST_ALPHA, Floats, Level, NoiseSchedule
from ddim_edit.errors import ModelError
from ddim_edit.models.checkpoint import Checkpoint, State
from ddim_edit.models.entries import choice, count, number
from ddim_edit.models.single_file.family import Family, Settings, linear
from ddim_edit.models.unet.denoising_unet import DenoisingUNet, Layout
from ddim_edit.models.weights import fill

NAME = "denoising-diffusion-pytorch"
OBJECTIVES: Mapping[str, str] = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}
_WRAPPERS = ("model.", "net.", "")
_LEVELS = "sqrt_recipm1_alphas_cumprod"


@dataclass(frozen=True)
class _File:
    """A checkpoint in two: the network's tensors by its own names, and those of the diffusion around it.

    wrapper is what the diffusion calls its network: "model.", "net.", or "" where there is none.
    """

    network: State
    diffusion: State
    wrapper: str

    @property
    def learned(self) -> bool:
        """Whether the frequencies of time are in the file."""
        return "time_mlp.0.weights" in self.network


def _opened(state: State) -> _File | None:
    """The file behind a state dict, or None if it is of another family; an averaged copy (EMA) wins."""
    averaged = _within(state, "ema_model.")
    state = averaged or state
    for wrapper in _WRAPPERS:
        network = _within(state, wrapper)
        if {"init_conv.weight", "mid_block1.block1.proj.weight", "final_conv.weight"} <= network.keys():
            diffusion = {name: tensor for name, tensor in state.items() if not name.startswith(wrapper)}
            return _File(network, diffusion, wrapper)
    return None


def _within(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _matches(state: State) -> bool:
    return _opened(state) is not None


def build(state: State, settings: Settings) -> Checkpoint:
    """The checkpoint of a state dict that matches; not self-conditioned, class-conditional or 1-D ones.

    Args:
        state: of a diffusion, of its network alone, or of ema-pytorch's EMA of either.
        settings: `Family.settings` under the package's names; `image_size` a number or a pair.

    Raises:
        ModelError: a network that cannot be run, or settings that mean nothing or contradict the file.
    """
    file = _opened(state)
    if file is None:
        raise ModelError(f"a checkpoint of {NAME}", "another one", "name another family")
    _check_told(file, settings)
    network = _network(file, settings)
    return replace(_process(file, settings, network), size=_size(settings))


def _network(file: _File, settings: Settings) -> DenoisingUNet:
    shapes = {name: tensor.shape for name, tensor in file.network.items()}
    groups = count(settings, "resnet_block_groups", 8)
    layout = Layout.of(shapes, groups, number(settings, "sinusoidal_pos_emb_theta", 10000))
    C, answers = layout.channels, layout.answers
    if 2 * answers == C:
        given = f"one with {C} channels in and {answers} out, as self-conditioned ones have"
        remedy = "use one trained without self_condition, whose last x0 is no part of a latent"
        raise ModelError("a network of x alone", given, remedy)
    if answers not in (C, 2 * C):
        given = f"{answers} channels for {C}"
        raise ModelError("one answer, and its variances if any", given, "use another checkpoint")
    return fill(lambda: DenoisingUNet(layout), file.network, f"a checkpoint of {NAME}")


def _check_told(file: _File, settings: Settings) -> None:
    """Refuse at once what no network here can be."""
    if "classes_emb.weight" in file.network:
        raise ModelError("an unconditional network", "one of classifier_free_guidance", "train one without classes")
    if any(name.startswith("log_snr.") for name in file.diffusion):
        raise ModelError("a noise_schedule 'linear' or 'cosine'", "a learned one", "use another checkpoint")
    if settings.get("auto_normalize", True) is not True:
        given = f"one of [0, 1] (auto_normalize {settings['auto_normalize']!r})"
        raise ModelError("a network of pictures in [-1, 1]", given, "use one trained with auto_normalize")


def _process(file: _File, settings: Settings, network: DenoisingUNet) -> Checkpoint:
    """The checkpoint without its size."""
    if file.wrapper == "net.":
        return _elucidated(settings, network)
    if file.learned and _LEVELS not in file.diffusion:
        return _continuous(settings, network)
    return _discrete(file, settings, network)


def _checkpoint(network: DenoisingUNet, schedule: NoiseSchedule, parametrization: Parametrization) -> Checkpoint:
    return Checkpoint(network, schedule, parametrization, network.layout.channels, None)


def _discrete(file: _File, settings: Settings, network: DenoisingUNet) -> Checkpoint:
    """`GaussianDiffusion`: T levels, asked by index."""
    schedule = _schedule(file, settings)
    prediction = OBJECTIVES[_objective(file, settings, schedule, network)]
    return _checkpoint(network, schedule, DDPMParametrization(prediction))


def _objective(file: _File, settings: Settings, schedule: NoiseSchedule, network: DenoisingUNet) -> str:
    told = _told_objective(file, schedule, network)
    given = choice(settings, "objective", told or "pred_v", OBJECTIVES)
    if told and given != told:
        raise ModelError(f"the objective {told!r}, which the file tells", f"{given!r}", "leave the setting out")
    return given


def _told_objective(file: _File, schedule: NoiseSchedule, network: DenoisingUNet) -> str | None:
    """What the network predicts: eps beside variances, else what the weight of the loss was made for.

    loss_weight is min(snr, gamma) (1 / snr for eps, 1 for x0, 1 / (1 + snr) for v), gamma infinite by default. What
    each would make of min(snr, gamma) is compared with it.
    """
    if network.layout.answers != network.layout.channels:
        return "pred_noise"
    if "loss_weight" not in file.diffusion:
        return None
    weight, snr = _floats(file.diffusion["loss_weight"]), np.exp(-2 * schedule.log_s)
    if weight.shape != snr.shape:
        return None
    clipped = {"pred_noise": weight * snr, "pred_x0": weight, "pred_v": weight * (1 + snr)}
    errors = {name: np.abs(each / np.minimum(snr, each.max()) - 1).max() for name, each in clipped.items()}
    best = min(errors, key=lambda name: errors[name])
    return best if errors[best] < 1e-2 else None


def _schedule(file: _File, settings: Settings) -> NoiseSchedule:
    """The levels that the file holds, else those of the settings.

    s itself is among the buffers, rounded once; betas, which end at 0.999, would give the last s to 1e-5 only.
    """
    if _LEVELS not in file.diffusion:
        return _chosen_schedule(settings, 1000)
    told = NoiseSchedule(np.log(_floats(file.diffusion[_LEVELS])))
    _check_levels(told, settings)
    return told


def _check_levels(told: NoiseSchedule, settings: Settings) -> None:
    """Refuse settings that say otherwise than the file."""
    named = [str(settings[name]) for name in ("timesteps", "beta_schedule") if name in settings]
    given = _chosen_schedule(settings, told.T) if named else told
    # A file may have a schedule of its own, which is never the one that is assumed where none is named.
    compared = told if "beta_schedule" not in settings else given
    if given.T != told.T or not np.allclose(compared.log_s, told.log_s, rtol=0, atol=1e-2):
        raise ModelError(f"the {told.T} levels that the file holds", " ".join(named), "leave the settings out")


def _chosen_schedule(settings: Settings, T: int) -> NoiseSchedule:
    kind = choice(settings, "beta_schedule", "sigmoid", BETA_SCHEDULES)
    return BETA_SCHEDULES[kind](count(settings, "timesteps", T))


def _sigmoid(T: int) -> NoiseSchedule:
    """The package's default: alpha_bar falls as a logistic from -3 to 3, betas capped at 0.999.

    alpha_bar_t = (f(3) - f(6 t / T - 3)) / (f(3) - f(-3)), f the logistic function.

    Jabri, Fleet, Chen (2022), figure 8.
    """

    def logistic(x: Floats) -> Floats:
        return 1 / (1 + np.exp(-x))

    # The package rounds the ends to float32, which moves the last levels by 1e-4.
    low, high = logistic(np.array([-3.0, 3.0])).astype(np.float32).astype(np.float64)
    alpha_bar = (high - logistic(6 * np.arange(T + 1) / T - 3)) / (high - low)
    betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return NoiseSchedule.from_betas(betas, {"kind": "sigmoid", "start": -3, "end": 3, "T": T})


BETA_SCHEDULES: Mapping[str, Callable[[int], NoiseSchedule]] = {
    "linear": linear,
    "cosine": NoiseSchedule.cosine,
    "sigmoid": _sigmoid,
}


def _elucidated(settings: Settings, network: DenoisingUNet) -> Checkpoint:
    """`ElucidatedDiffusion`: EDM's preconditioning of any level."""
    parametrization = EDMParametrization(number(settings, "sigma_data", 0.5))
    low, high = number(settings, "sigma_min", 0.002), number(settings, "sigma_max", 80)
    schedule = NoiseSchedule.continuous(low, high)
    return _checkpoint(network, schedule, parametrization)


@dataclass(frozen=True)
class LogSNRTime:
    """Time condition log SNR = -2 ln s of networks of continuous time.

    Args:
        lowest_s: the lowest s that the network was trained at, above 0; lower levels are clamped to it.

    References:
        Kingma, Salimans, Poole, Ho, "Variational Diffusion Models", NeurIPS 2021, arXiv:2107.00630.
    """

    lowest_s: float

    def __call__(self, level: Level) -> float:
        """Return log SNR at a level."""
        return -2 * math.log(max(level.s, self.lowest_s))


def _linear_s(time: Floats) -> Floats:
    """Close to the linear betas of Ho et al.: s^2 = exp(1e-4 + 10 time^2) - 1."""
    s: Floats = np.sqrt(np.expm1(1e-4 + 10 * time**2))
    return s


def _cosine_s(time: Floats) -> Floats:
    """The squared cosine of Nichol and Dhariwal: s = tan(pi/2 (time + 0.008) / 1.008)."""
    s: Floats = np.tan((time + 0.008) / 1.008 * math.pi / 2)
    return s


NOISE_SCHEDULES: Mapping[str, Callable[[Floats], Floats]] = {"linear": _linear_s, "cosine": _cosine_s}


def _continuous(settings: Settings, network: DenoisingUNet) -> Checkpoint:
    """`ContinuousTimeGaussianDiffusion`, or its v-predicting twin, which knows no schedule but "cosine"."""
    prediction = OBJECTIVES[choice(settings, "objective", "pred_noise", ("pred_noise", "pred_v"))]
    usual = "cosine" if prediction == "v_prediction" else "linear"
    kind = choice(settings, "noise_schedule", usual, NOISE_SCHEDULES)
    T = count(settings, "timesteps", 1000)
    # At time 1 the cosine leaves nothing of the picture to invert to.
    s = np.minimum(NOISE_SCHEDULES[kind](np.arange(T + 1) / T), 1 / SMALLEST_ALPHA)
    schedule = NoiseSchedule(np.log(s[1:]), {"kind": f"continuous {kind}", "T": T})
    return _checkpoint(network, schedule, DDPMParametrization(prediction, LogSNRTime(float(s[0]))))


def _floats(tensor: Tensor) -> Floats:
    floats: Floats = tensor.detach().to("cpu", torch.float64).numpy()
    return floats


def _size(settings: Settings) -> tuple[int, int] | None:
    """Of the training pictures, height first; weights do not tell it."""
    value = settings.get("image_size")
    if value is None:
        return None
    sides = [value, value] if type(value) is int else value
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(type(n) is int and n > 0 for n in sides):
        raise ModelError("'image_size' to be a number of pixels or [height, width]", f"{value!r}", "64 is an example")
    return sides[0], sides[1]


DENOISING_DIFFUSION = Family(
    NAME,
    (
        "objective",
        "beta_schedule",
        "timesteps",
        "image_size",
        "auto_normalize",
        "sinusoidal_pos_emb_theta",
        "resnet_block_groups",
        "noise_schedule",
        "sigma_data",
        "sigma_min",
        "sigma_max",
    ),
    _matches,
    build,
)
