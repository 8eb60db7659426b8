"""Checkpoints of denoising-diffusion-pytorch (Phil Wang, releases 1.9 to 2.3), with or without their diffusion.

Four of its diffusions are told apart by what is in the file:

- `GaussianDiffusion` and `LearnedGaussianDiffusion` hold their levels and the weights of their loss, which tell what
  the network predicts. A network with learned variances was trained to predict eps, regardless of its `objective`.
- `ElucidatedDiffusion` holds its network as `net`, and is EDM's.
- `ContinuousTimeGaussianDiffusion` and its v-predicting twin hold nothing but a network with learned (or random)
  frequencies, which is conditioned on log SNR; a network alone with such frequencies is taken for one of theirs.
- A network alone without them is taken for a `GaussianDiffusion` with the package's defaults.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
    Kingma, Salimans, Poole, Ho, "Variational Diffusion Models", NeurIPS 2021, arXiv:2107.00630.
    Jabri, Fleet, Chen, "Scalable Adaptive Computation for Iterative Generation", ICML 2023, arXiv:2212.11972.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ddim_edit.diffusion.parametrization import DDPMParametrization, EDMParametrization, Parametrization
from ddim_edit.diffusion.schedules import SMALLEST_ALPHA, Floats, Level, NoiseSchedule
from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.models.checkpoint import Checkpoint
from ddim_edit.models.families.family import COUNT, FamilyNotes, Settings, SingleFileFamily, scaled_linear_betas
from ddim_edit.models.sizes import SizeRule

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.models.checkpoint import StateDict
    from ddim_edit.models.unet.denoising_unet import DenoisingUNet

_PREDICTION_TYPES = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}
_SETTINGS: schema.Schema = {
    "objective": schema.one_of(*_PREDICTION_TYPES),
    "beta_schedule": schema.one_of("linear", "cosine", "sigmoid"),
    "timesteps": COUNT,
    "image_size": schema.either(COUNT, schema.list_of(COUNT, 2), schema.one_of(None)),
    "auto_normalize": schema.anything,
    "sinusoidal_pos_emb_theta": schema.positive_number,
    "resnet_block_groups": COUNT,
    "noise_schedule": schema.one_of("linear", "cosine"),
    "sigma_data": schema.positive_number,
    "sigma_min": schema.positive_number,
    "sigma_max": schema.positive_number,
}
# s = sqrt(1 / alpha_bar - 1) itself is among the buffers of a diffusion, rounded to float32 once. From betas, which
# are capped at 0.999, the last s would come out to 1e-5 only.
_LEVELS = "sqrt_recipm1_alphas_cumprod"


@dataclass(frozen=True)
class _File:
    """A state dict in two: the network's tensors by its own names, and those of the diffusion around it.

    wrapper is what the diffusion calls its network: "model.", "net.", or "" where there is no diffusion.
    """

    network: StateDict
    diffusion: StateDict
    wrapper: str

    @property
    def has_frequencies(self) -> bool:
        """Whether the frequencies of the features of time are in the file."""
        return "time_mlp.0.weights" in self.network


def _split(state: StateDict) -> _File | None:
    """Return a state dict in its parts, or None if it is of another family."""
    # ema-pytorch keeps the averaged copy as `ema_model`, beside `online_model`.
    averaged = {name.removeprefix("ema_model."): state[name] for name in state if name.startswith("ema_model.")}
    state = averaged or state
    for wrapper in ("model.", "net.", ""):
        network = {name.removeprefix(wrapper): state[name] for name in state if name.startswith(wrapper)}
        if network.keys() >= {"init_conv.weight", "mid_block1.block1.proj.weight", "final_conv.weight"}:
            diffusion = {name: tensor for name, tensor in state.items() if not name.startswith(wrapper)}
            return _File(network, diffusion, wrapper)
    return None


def _matches(state: StateDict) -> bool:
    return _split(state) is not None


def _build(state: StateDict, settings: Settings) -> Checkpoint:
    from ddim_edit.models.unet.denoising_unet import DenoisingUNet, DenoisingUNetConfig
    from ddim_edit.models.weights import fill

    file = _split(state)
    if file is None:
        raise ModelError("This is no denoising-diffusion-pytorch checkpoint.")
    if "classes_emb.weight" in file.network:
        raise ModelError(
            "Networks of classifier_free_guidance in denoising-diffusion-pytorch are not supported. Use an "
            "unconditional one."
        )
    if any(name.startswith("log_snr.") for name in file.diffusion):
        raise ModelError("A learned noise schedule is not supported. Use a checkpoint of the linear or the cosine one.")
    if settings.get("auto_normalize", True) is not True:
        raise ModelError(
            f"auto_normalize {settings['auto_normalize']!r} means a network of images in [0, 1], which is not "
            "supported. Use one of images in [-1, 1]."
        )
    shapes = {name: tensor.shape for name, tensor in file.network.items()}
    groups = settings.get("resnet_block_groups", 8)
    theta = float(settings.get("sinusoidal_pos_emb_theta", 10000))
    config = DenoisingUNetConfig.from_shapes(shapes, groups, theta)
    if config.channels == 2 * config.out_channels:
        raise ModelError(
            f"This network has {config.channels} channels in and {config.out_channels} out, as self-conditioned ones "
            "have. Their last x0 is no part of a latent: use one trained without self_condition."
        )
    if config.out_channels not in (config.channels, 2 * config.channels):
        raise ModelError(
            f"This network has {config.out_channels} channels out for {config.channels} in, but it should have as "
            "many, or twice as many with learned variances. Use another checkpoint."
        )
    network = fill(lambda: DenoisingUNet(config), file.network, "This denoising-diffusion-pytorch checkpoint")
    schedule, parametrization = _process(file, settings, network)
    size = settings.get("image_size")
    if size is not None:
        size = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return Checkpoint(network, schedule, parametrization, config.channels, size, sizes=SizeRule(config.stride))


def _process(file: _File, settings: Settings, network: DenoisingUNet) -> tuple[NoiseSchedule, Parametrization]:
    if file.wrapper == "net.":  # ElucidatedDiffusion
        low, high = float(settings.get("sigma_min", 0.002)), float(settings.get("sigma_max", 80))
        sigma_data = float(settings.get("sigma_data", 0.5))
        return NoiseSchedule.continuous(low, high), EDMParametrization(sigma_data)
    if file.has_frequencies and _LEVELS not in file.diffusion:
        return _continuous_time(settings)
    schedule = _schedule(file, settings)
    known = _recorded_objective(file, schedule, network)
    objective = settings.get("objective", known or "pred_v")
    if known and objective != known:
        raise ModelError(f"objective is {objective!r}, but the file tells that it is {known!r}. Leave the setting out.")
    return schedule, DDPMParametrization(_PREDICTION_TYPES[objective])


def _recorded_objective(file: _File, schedule: NoiseSchedule, network: DenoisingUNet) -> str | None:
    """Return what the network predicts, if the file tells.

    The diffusion's loss_weight is min(snr, gamma) times 1 / snr for eps, 1 for x0 and 1 / (1 + snr) for v, with gamma
    infinite by default. The objective is the one under which loss_weight turns out to be min(snr, gamma).
    """
    # LearnedGaussianDiffusion compares the first channels with the noise, although pred_v is its default objective.
    if network.config.out_channels != network.config.channels:
        return "pred_noise"
    if "loss_weight" not in file.diffusion:
        return None
    weight = _float64(file.diffusion["loss_weight"])
    snr = np.exp(-2 * schedule.log_s)
    if weight.shape != snr.shape:
        return None
    clipped = {"pred_noise": weight * snr, "pred_x0": weight, "pred_v": weight * (1 + snr)}
    errors = {}
    for name, values in clipped.items():
        errors[name] = np.abs(values / np.minimum(snr, values.max()) - 1).max()
    best = min(errors, key=lambda name: errors[name])
    return best if errors[best] < 1e-2 else None


def _schedule(file: _File, settings: Settings) -> NoiseSchedule:
    """Return the levels that the file holds, or else those of the settings.

    Raises:
        ModelError: settings that contradict the file.
    """
    if _LEVELS not in file.diffusion:
        return _named_schedule(settings, 1000)
    schedule = NoiseSchedule(np.log(_float64(file.diffusion[_LEVELS])))
    given = [str(settings[name]) for name in ("timesteps", "beta_schedule") if name in settings]
    if given:
        named = _named_schedule(settings, schedule.T)
        # A file may have levels of its own. Without a name they are not to be compared with the default schedule.
        compared = named if "beta_schedule" in settings else schedule
        if named.T != schedule.T or not np.allclose(compared.log_s, schedule.log_s, rtol=0, atol=1e-2):
            raise ModelError(
                f"The settings {' and '.join(given)} contradict the {schedule.T} levels that the file holds. "
                "Leave them out."
            )
    return schedule


def _named_schedule(settings: Settings, default_steps: int) -> NoiseSchedule:
    T = settings.get("timesteps", default_steps)
    kind = settings.get("beta_schedule", "sigmoid")
    if kind == "linear":
        return scaled_linear_betas(T)
    return NoiseSchedule.cosine(T) if kind == "cosine" else _sigmoid_schedule(T)


def _sigmoid_schedule(T: int) -> NoiseSchedule:
    """Return the package's default: alpha_bar falls as a logistic from -3 to 3, betas are capped at 0.999.

    alpha_bar_t = (f(3) - f(6 t / T - 3)) / (f(3) - f(-3)), f the logistic function (Jabri et al., figure 8).
    """

    def logistic(x: Floats) -> Floats:
        return 1 / (1 + np.exp(-x))

    # The package rounds the ends to float32, which moves the last levels by 1e-4.
    low, high = logistic(np.array([-3.0, 3.0])).astype(np.float32).astype(np.float64)
    alpha_bar = (high - logistic(6 * np.arange(T + 1) / T - 3)) / (high - low)
    betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return NoiseSchedule.from_betas(betas, {"kind": "sigmoid", "start": -3, "end": 3, "T": T})


@dataclass(frozen=True)
class LogSNRTime:
    """Time condition log SNR = -2 ln s of networks of continuous time.

    Args:
        lowest_s: the lowest s that the network was trained at, above 0; lower levels are clamped to it.

    References:
        Kingma et al. (2021).
    """

    lowest_s: float

    def __call__(self, level: Level) -> float:
        """Return log SNR at a level."""
        return -2 * math.log(max(level.s, self.lowest_s))


def _continuous_time(settings: Settings) -> tuple[NoiseSchedule, Parametrization]:
    """Return the process of `ContinuousTimeGaussianDiffusion`, or of its v-predicting twin."""
    objective = settings.get("objective", "pred_noise")
    if objective == "pred_x0":
        raise ModelError("The objective of a continuous-time diffusion must be pred_noise or pred_v, not pred_x0.")
    prediction = _PREDICTION_TYPES[objective]
    # The v-predicting twin was only ever trained on the cosine schedule.
    kind = settings.get("noise_schedule", "cosine" if prediction == "v_prediction" else "linear")
    T = settings.get("timesteps", 1000)
    time = np.arange(T + 1) / T
    # Linear is close to the betas of Ho et al., s^2 = exp(1e-4 + 10 time^2) - 1; cosine is that of Nichol and Dhariwal.
    linear = np.sqrt(np.expm1(1e-4 + 10 * time**2))
    cosine = np.tan((time + 0.008) / 1.008 * math.pi / 2)
    # At time 1 the cosine leaves nothing of the image to invert to.
    s = np.minimum(linear if kind == "linear" else cosine, 1 / SMALLEST_ALPHA)
    schedule = NoiseSchedule(np.log(s[1:]), {"kind": f"continuous {kind}", "T": T})
    return schedule, DDPMParametrization(prediction, LogSNRTime(float(s[0])))


def _float64(tensor: Tensor) -> Floats:
    values: Floats = tensor.detach().cpu().double().numpy()
    return values


FAMILY = SingleFileFamily(
    name="denoising-diffusion-pytorch",
    title="denoising-diffusion-pytorch 1.9 and later",
    order=70,
    notes=FamilyNotes(
        example="--model model-100.pt --size 128",
        recognised="`init_conv`, `downs.*`, with or without the prefixes `model.` and `ema_model.`",
        read="widths, heads, betas, objective (from `loss_weight`), EDM and continuous-time variants",
        assumed=(
            "for a network alone: v, sigmoid betas, 1000 steps; size from `image_size` or `--size`; no "
            "self-conditioning"
        ),
        sizes="multiples of 2 for every level but the last",
        proven="the networks and diffusions of denoising-diffusion-pytorch",
    ),
    settings=_SETTINGS,
    matches=_matches,
    build=_build,
)
