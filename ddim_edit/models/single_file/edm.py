"""EDM's checkpoints in safetensors form: `net.state_dict()` of one of NVlabs/edm's preconditioned networks.

Its own pickles hold code and are never read; convert them where you trust them, with EDM's code at hand:
`save_file(pickle.load(open("x.pkl", "rb"))["ema"].state_dict(), "x.safetensors")`.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ddim_edit.diffusion.parametrization import (
    EDMParametrization,
    Parametrization,
    Prediction,
    from_eps,
    log_noise_level,
)
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.errors import ModelError
from ddim_edit.models.checkpoint import Checkpoint, Classes, State
from ddim_edit.models.entries import choice, number
from ddim_edit.models.single_file.family import Family, Settings
from ddim_edit.models.unet.edm_unet import (
    DhariwalUNet,
    EDMConfig,
    NothingBeside,
    PictureBeside,
    ResidualBeside,
    Side,
    SongUNet,
)
from ddim_edit.models.weights import fill

_SIDES: Mapping[str, Callable[[EDMConfig, int], Side]] = {
    "aux_residual": ResidualBeside,
    "aux_down": PictureBeside,
}
_BETA_D, _BETA_MIN, _STEPS = 19.9, 0.1, 1000


class Process(NamedTuple):
    """How a network was trained: its parametrization, and the lowest and highest noise level s."""

    parametrization: Parametrization
    low: float
    high: float


def _edm(settings: Settings) -> Process:
    return Process(EDMParametrization(number(settings, "sigma_data", 0.5)), 0.002, 80.0)


def _variance_preserving(settings: Settings) -> Process:
    return Process(VPParametrization(), _level_at(1e-5), _level_at(1.0))


def _variance_exploding(settings: Settings) -> Process:
    return Process(VEParametrization(), 0.02, 100.0)


PROCESSES: Mapping[str, Callable[[Settings], Process]] = {
    "edm": _edm,
    "vp": _variance_preserving,
    "ve": _variance_exploding,
}
"""EDM's `EDMPrecond`, `VPPrecond` and `VEPrecond`; the weights do not tell which of them they were trained under."""


@dataclass(frozen=True)
class VPParametrization:
    """Parametrization of EDM's `VPPrecond`: x itself at time 999 tau, where s^2 = exp(19.9 tau^2 / 2 + 0.1 tau) - 1.

    References:
        Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
        arXiv:2206.00364, table 1.
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


def _level_at(tau: float) -> float:
    return math.sqrt(math.expm1(_BETA_D * tau**2 / 2 + _BETA_MIN * tau))


@dataclass(frozen=True)
class VEParametrization:
    """Parametrization of EDM's `VEPrecond`: x / alpha at time ln(s / 2), the output is -eps; not defined at s = 0.

    References:
        As `VPParametrization`.
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


def _matches(state: State) -> bool:
    names = {_bare(name) for name in state}
    return "map_layer0.weight" in names and any(re.match(r"enc\.(\d+)x\1_conv\.weight", name) for name in names)


def build(state: State, settings: Settings) -> Checkpoint:
    """The checkpoint of a state dict that matches; none of `iDDPMPrecond`, and no pickles.

    Nothing in the weights says how the network was preconditioned. "vp" and "ve" in the names of EDM's released files
    mean the architecture: of those only "baseline-*" need the setting `precond`. The schedule is 1000 levels evenly
    spaced in log s. The label that stands for no class is EDM's vector of zeros, written as the number after
    the last class; it is only as good as the label dropout in training, which EDM's training command leaves at 0.

    Args:
        state: `net.state_dict()`, with or without `model.` before each name.
        settings: `precond` "edm" (by default), "vp" or "ve"; `sigma_data` of "edm" (0.5); `sigma_min` and `sigma_max`,
            the ends of the schedule (0.002 and 80 for "edm", else the ends that EDM gives those processes).

    Raises:
        ModelError: a network that is not EDM's, or settings that mean nothing.
    """
    told = _Told({_bare(name): tensor for name, tensor in state.items()})
    process = PROCESSES[choice(settings, "precond", "edm", PROCESSES)](settings)
    schedule, config = _schedule(settings, process), told.config()
    network_class = DhariwalUNet if told.is_adm else SongUNet
    return Checkpoint(
        network=fill(lambda: network_class(config), told.weights, "an EDM checkpoint"),
        schedule=schedule,
        parametrization=process.parametrization,
        channels=config.channels,
        size=(config.sizes[0], config.sizes[0]),
        classes=Classes(config.classes, none=config.classes) if config.classes else None,
    )


def _bare(name: str) -> str:
    """Our name of a tensor."""
    return name.removeprefix("model.").replace("map_noise.freqs", "map_noise.weight")


def _schedule(settings: Settings, process: Process) -> NoiseSchedule:
    low, high = number(settings, "sigma_min", process.low), number(settings, "sigma_max", process.high)
    if low >= high:
        usual = f"{process.low:.3g} and {process.high:.3g} are usual"
        raise ModelError("a 'sigma_min' below 'sigma_max'", f"{low:g} and {high:g}", usual)
    return NoiseSchedule.continuous(low, high)


@dataclass(frozen=True)
class _Told:
    """What the names and shapes of the tensors tell; where they contradict one another the network will not fill."""

    weights: State

    @property
    def is_adm(self) -> bool:
        return "out_conv.weight" in self.weights

    def config(self) -> EDMConfig:
        sizes, blocks = self._sizes(), self._blocks()
        first = f"enc.{sizes[0]}x{sizes[0]}_conv.weight"
        return EDMConfig(
            channels=self._length(first, 1),
            outputs=self._outputs(),
            sizes=sizes,
            first=self._length(first, 0),
            widths=tuple(self._length(f"enc.{size}x{size}_block{blocks - 1}.conv1.weight", 0) for size in sizes),
            blocks=blocks,
            attending=frozenset(name.removesuffix(".qkv.weight") for name in self._named(r".*\.qkv\.weight")),
            noise=self._length("map_layer0.weight", 1),
            emb=self._length("map_layer1.weight", 0),
            taps=next((self._length(name, 3) for name in self._named(r".*\.resample_filter")), 2),
            classes=self._length("map_label.weight", 1) if "map_label.weight" in self.weights else 0,
            augment=self._length("map_augment.weight", 1) if "map_augment.weight" in self.weights else 0,
            fourier="map_noise.weight" in self.weights,
            side=next((side for part, side in _SIDES.items() if self._named(rf"enc\..*_{part}\..*")), NothingBeside),
            pyramid=bool(self._named(r"dec\..*_aux_up\..*")),
        )

    def _named(self, pattern: str) -> list[str]:
        return [name for name in self.weights if re.fullmatch(pattern, name)]

    def _sizes(self) -> tuple[int, ...]:
        sizes = {int(match[1]) for name in self.weights if (match := re.match(r"enc\.(\d+)x\1_", name))}
        return tuple(sorted(sizes, reverse=True))

    def _blocks(self) -> int:
        top = self._sizes()[0]
        return len(self._named(rf"enc\.{top}x{top}_block\d+\.conv1\.weight"))

    def _outputs(self) -> int:
        """Channels of the answer, which are those of x, without learned variances."""
        top = self._sizes()[0]
        outputs = self._length("out_conv.weight" if self.is_adm else f"dec.{top}x{top}_aux_conv.weight", 0)
        channels = self._length(f"enc.{top}x{top}_conv.weight", 1)
        odd = "a tensor u" if "u" in self.weights else f"{outputs} channels out for {channels} in"
        if outputs != channels or "u" in self.weights:
            remedy = "load the guided-diffusion checkpoint that it was made of"
            raise ModelError("a network of continuous noise levels", f"one of iDDPMPrecond ({odd})", remedy)
        return outputs

    def _length(self, name: str, axis: int) -> int:
        tensor = self.weights.get(name)
        if tensor is None or tensor.ndim <= axis:
            given = "none" if tensor is None else f"one of shape {list(tensor.shape)}"
            raise ModelError(f"a tensor {name} in an EDM checkpoint", given, "save its whole net.state_dict()")
        return tensor.shape[axis]


EDM = Family("edm", ("precond", "sigma_data", "sigma_min", "sigma_max"), _matches, build)
