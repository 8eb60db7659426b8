"""EDM's networks in safetensors form: `net.state_dict()` of one of NVlabs/edm's preconditioned networks.

Its own pickles hold code and are never read. Convert them where you trust them, with EDM's code at hand:
`save_file(pickle.load(open("x.pkl", "rb"))["ema"].state_dict(), "x.safetensors")`.

References:
    Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
    arXiv:2206.00364.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_edit.diffusion.parametrization import EDMParametrization, Prediction, from_eps, log_noise_level
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.models.checkpoint import Checkpoint, Classes
from ddim_edit.models.families.family import FamilyNotes, Settings, SingleFileFamily
from ddim_edit.models.sizes import SizeRule

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.diffusion.parametrization import Parametrization
    from ddim_edit.models.checkpoint import StateDict
    from ddim_edit.models.unet.edm_unet import EDMConfig

_SETTINGS: schema.Schema = {
    "precond": schema.one_of("edm", "vp", "ve"),
    "sigma_data": schema.positive_number,
    "sigma_min": schema.positive_number,
    "sigma_max": schema.positive_number,
}
# Of EDM's VPPrecond: the betas of the variance-preserving SDE rise linearly from beta_min by beta_d.
_BETA_D, _BETA_MIN, _STEPS = 19.9, 0.1, 1000


@dataclass(frozen=True)
class VPParametrization:
    """Parametrization of EDM's `VPPrecond`: x itself at time 999 tau, where s^2 = exp(19.9 tau^2 / 2 + 0.1 tau) - 1.

    References:
        Karras et al. (2022), table 1.
    """

    name: str = "vp"

    def scale_input(self, x: Tensor, level: Level) -> Tensor:
        """Return x."""
        return x

    def time_condition(self, level: Level) -> float:
        """Return 999 tau."""
        tau = (math.sqrt(_BETA_MIN**2 + 2 * _BETA_D * math.log1p(level.s**2)) - _BETA_MIN) / _BETA_D
        return (_STEPS - 1) * tau

    def to_prediction(self, output: Tensor, x: Tensor, level: Level) -> Prediction:
        """Return x0 and eps from the predicted eps."""
        return from_eps(output, x, level)


def _vp_noise_level(tau: float) -> float:
    return math.sqrt(math.expm1(_BETA_D * tau**2 / 2 + _BETA_MIN * tau))


@dataclass(frozen=True)
class VEParametrization:
    """Parametrization of EDM's `VEPrecond`: x / alpha at time ln(s / 2), the output is -eps; not defined at s = 0.

    References:
        Karras et al. (2022), table 1.
    """

    name: str = "ve"

    def scale_input(self, x: Tensor, level: Level) -> Tensor:
        """Return x / alpha."""
        return x / level.alpha

    def time_condition(self, level: Level) -> float:
        """Return ln(s / 2).

        Raises:
            ArgumentError: at the clean image, where the logarithm is infinite.
        """
        return log_noise_level(level.s / 2)

    def to_prediction(self, output: Tensor, x: Tensor, level: Level) -> Prediction:
        """Return x0 and eps from the predicted -eps."""
        return from_eps(-output, x, level)


def _matches(state: StateDict) -> bool:
    names = {_bare_name(name) for name in state}
    return "map_layer0.weight" in names and any(re.match(r"enc\.(\d+)x\1_conv\.weight", name) for name in names)


def _bare_name(name: str) -> str:
    # The preconditioning wraps the network as `model`. Our features of time keep their frequencies as `weight`.
    return name.removeprefix("model.").replace("map_noise.freqs", "map_noise.weight")


def _build(state: StateDict, settings: Settings) -> Checkpoint:
    from ddim_edit.models.unet.edm_unet import DhariwalUNet, SongUNet
    from ddim_edit.models.weights import fill

    # The weights do not show how the network was preconditioned. "vp" and "ve" in the names of EDM's released files are
    # architectures (DDPM++ and NCSN++); of those only "baseline-*" were not trained under EDMPrecond.
    precond = settings.get("precond", "edm")
    parametrization: Parametrization
    # The ends of the noise levels are those that EDM's samplers give each process.
    if precond == "edm":
        parametrization = EDMParametrization(float(settings.get("sigma_data", 0.5)))
        low, high = 0.002, 80.0
    elif precond == "vp":
        parametrization = VPParametrization()
        low, high = _vp_noise_level(1e-5), _vp_noise_level(1.0)
    else:
        parametrization = VEParametrization()
        low, high = 0.02, 100.0
    sigma_min, sigma_max = float(settings.get("sigma_min", low)), float(settings.get("sigma_max", high))
    if sigma_min >= sigma_max:
        raise ModelError(
            f"sigma_min must be below sigma_max, but they are {sigma_min:g} and {sigma_max:g}. "
            f"{low:.3g} and {high:.3g} are usual."
        )
    weights = {_bare_name(name): tensor for name, tensor in state.items()}
    config = read_config(weights)
    network_class = DhariwalUNet if "out_conv.weight" in weights else SongUNet
    # The vector of zeros, which EDM gives for no class, is written as the label after the last class. It is as good as
    # the label dropout in training, which EDM's training command leaves at 0.
    classes = Classes(config.classes, none=config.classes) if config.classes else None
    return Checkpoint(
        network=fill(lambda: network_class(config), weights, "This EDM checkpoint"),
        schedule=NoiseSchedule.continuous(sigma_min, sigma_max),
        parametrization=parametrization,
        channels=config.channels,
        size=(config.sizes[0], config.sizes[0]),
        classes=classes,
        sizes=SizeRule(config.stride),
    )


def read_config(weights: StateDict) -> EDMConfig:
    """Return what the names and shapes of the tensors say of the network.

    Where they contradict one another the weights will not fit the network.

    Raises:
        ModelError: a tensor that every such network has is missing, or the network has learned variances.
    """
    from ddim_edit.models.unet.edm_unet import EDMConfig

    def length(name: str, axis: int) -> int:
        tensor = weights.get(name)
        if tensor is None or tensor.ndim <= axis:
            problem = "no tensor" if tensor is None else f"a tensor of shape {list(tensor.shape)} as"
            raise ModelError(f"This EDM checkpoint has {problem} {name}. Save its whole net.state_dict().")
        return tensor.shape[axis]

    def named(pattern: str) -> list[str]:
        return [name for name in weights if re.fullmatch(pattern, name)]

    found = {int(match[1]) for name in weights if (match := re.match(r"enc\.(\d+)x\1_", name))}
    sizes = tuple(sorted(found, reverse=True))
    top = sizes[0]
    channels = length(f"enc.{top}x{top}_conv.weight", 1)
    last = "out_conv.weight" if "out_conv.weight" in weights else f"dec.{top}x{top}_aux_conv.weight"
    outputs = length(last, 0)
    # iDDPMPrecond runs a network of discrete levels: `u` is its table of them.
    if outputs != channels or "u" in weights:
        odd = "a tensor u" if "u" in weights else f"{outputs} channels out for {channels} in"
        raise ModelError(
            f"This EDM checkpoint is an iDDPMPrecond ({odd}), not a network of continuous noise levels. "
            "Load the guided-diffusion checkpoint that it was made of."
        )
    blocks = len(named(rf"enc\.{top}x{top}_block\d+\.conv1\.weight"))
    filters = named(r".*\.resample_filter")
    encoder_type = "standard"
    if named(r"enc\..*_aux_residual\..*"):
        encoder_type = "residual"
    elif named(r"enc\..*_aux_down\..*"):
        encoder_type = "skip"
    return EDMConfig(
        channels=channels,
        outputs=outputs,
        sizes=sizes,
        first=length(f"enc.{top}x{top}_conv.weight", 0),
        widths=tuple(length(f"enc.{size}x{size}_block{blocks - 1}.conv1.weight", 0) for size in sizes),
        blocks=blocks,
        attending=frozenset(name.removesuffix(".qkv.weight") for name in named(r".*\.qkv\.weight")),
        noise=length("map_layer0.weight", 1),
        emb=length("map_layer1.weight", 0),
        taps=length(filters[0], 3) if filters else 2,
        classes=length("map_label.weight", 1) if "map_label.weight" in weights else 0,
        augment=length("map_augment.weight", 1) if "map_augment.weight" in weights else 0,
        fourier="map_noise.weight" in weights,
        encoder_type=encoder_type,
        pyramid=bool(named(r"dec\..*_aux_up\..*")),
    )


FAMILY = SingleFileFamily(
    name="edm",
    title="EDM (NVlabs/edm) in safetensors form",
    order=80,
    notes=FamilyNotes(
        example="--model edm-cifar10-32x32-cond-vp.safetensors --class 3",
        recognised="`enc.32x32_conv`, `dec.*`",
        read="DDPM++, NCSN++ and ADM networks, size, classes, filters",
        assumed=(
            "`EDMPrecond`, sigma_data 0.5, levels 0.002 to 80; the null class is the label of label dropout; "
            "grids without t = 0, as `karras`, as it is conditioned on ln(s)"
        ),
        sizes="multiples of 2 for every level but the last",
        proven="the networks of NVlabs/edm",
    ),
    settings=_SETTINGS,
    matches=_matches,
    build=_build,
)
