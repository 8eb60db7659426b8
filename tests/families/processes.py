"""Every family's process, and for each a float32 network that knows the answer and says it in that family's terms.

A network here is given what its family shows it and the index; how noisy that is it works out by the family's own
formula, of which nothing is taken from ddim_edit.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import MixtureDenoiser, NetworkDenoiser
from ddim_edit.diffusion.grids import GRIDS, Flow, GridMaker, Karras, Leading
from ddim_edit.diffusion.parametrization import (
    PREDICTION_TYPES,
    DDPMParametrization,
    EDMParametrization,
    FlowParametrization,
    RescaledTimestepIndex,
)
from ddim_edit.diffusion.schedules import Floats, NoiseSchedule
from ddim_edit.models.scheduler_config import DiffusionProcess

from ..diffusion.solvers.closed_forms import draw, randn

SHAPE = (3, 8, 8)
SIGMA_DATA = 0.5

# Two kinds of picture that overlap as much as they differ.
DATA = MixtureDenoiser(
    0.1 * randn(2, *SHAPE, seed=1),
    torch.ones(2, dtype=torch.float64),
    torch.tensor([0.6, 0.4], dtype=torch.float64),
)
PICTURES = draw(DATA, 2, seed=2)

Noisiness = Callable[[float], float]
"""How noisy its input is, s = sigma / alpha, by the index that a network is given."""


def betas(kind: str, T: int = 1000) -> Floats:
    """The betas that diffusers and the papers give each schedule's name, in float64."""
    if kind == "linear":
        return np.linspace(1e-4, 0.02, T)
    if kind == "scaled_linear":
        return np.linspace(math.sqrt(8.5e-4), math.sqrt(0.012), T) ** 2
    kept = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
    return np.array([min(1 - after / before, 0.999) for before, after in pairwise(kept)])


def alpha_bars(kind: str, T: int = 1000, zero_snr: bool = False) -> Floats:
    """The cumulative products, rescaled as in Lin et al. (2024), algorithm 1, but for a last alpha of 2^-12."""
    alpha_bar = np.cumprod(1 - betas(kind, T))
    if zero_snr:
        root = np.sqrt(alpha_bar)
        alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        alpha_bar[-1] = 2.0**-24
    return alpha_bar


def discrete(alpha_bar: Floats, indices: float = 1000) -> Noisiness:
    """A network of T levels; between two of them log s is interpolated, as in k-diffusion."""
    log_s = np.log((1 - alpha_bar) / alpha_bar) / 2
    known = np.arange(len(log_s)) * (indices / len(log_s))
    return lambda index: math.exp(np.interp(index, known, log_s))


class Expected(NamedTuple):
    """What the data let one expect behind y = x / alpha at s."""

    x0: Tensor
    eps: Tensor


def expected(y: Tensor, s: float) -> Expected:
    """The posterior means of x0 and eps, without a difference of large numbers, in the dtype of y."""
    means, widths, weights = (part.to(y.dtype) for part in (DATA.means, DATA.widths, DATA.weights))
    variance = widths**2 + s**2
    offset = y[:, None] - means
    energy = offset.flatten(2).square().sum(-1) / variance + offset[0, 0].numel() * variance.log()
    posterior = torch.softmax(weights.log() - energy / 2, 1)
    share = (posterior * s / variance)[:, :, None, None, None]
    shrunk = (s**2 * means + widths.square().view(-1, 1, 1, 1) * y[:, None]) / variance.view(-1, 1, 1, 1)
    return Expected((posterior[:, :, None, None, None] * shrunk).sum(1), (share * offset).sum(1))


def _epsilon(y: Tensor, s: float) -> Tensor:
    return expected(y, s).eps


def _sample(y: Tensor, s: float) -> Tensor:
    return expected(y, s).x0


def _velocity(y: Tensor, s: float) -> Tensor:
    x0, eps = expected(y, s)
    return (eps - s * x0) / math.hypot(1, s)


def _flow(y: Tensor, s: float) -> Tensor:
    x0, eps = expected(y, s)
    return eps - x0


def _edm(y: Tensor, s: float) -> Tensor:
    total = math.hypot(s, SIGMA_DATA)
    return (y * s / total - total * expected(y, s).eps) / SIGMA_DATA


OUTPUTS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "epsilon": _epsilon,
    "sample": _sample,
    "v_prediction": _velocity,
    "flow_prediction": _flow,
    "edm": _edm,
}


@dataclass(frozen=True)
class Knowing:
    """A network that knows the data.

    Args:
        noisiness: what its index means.
        scale: what its input is of y = x / alpha, by s.
        output: what it was trained to say of y at s.
    """

    noisiness: Noisiness
    scale: Callable[[float], float]
    output: Callable[[Tensor, float], Tensor]

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        s = self.noisiness(float(index[0]))
        return self.output(x / self.scale(s), s)


class Family(NamedTuple):
    """A process and a network that knows its answer."""

    process: DiffusionProcess
    network: Knowing

    def denoiser(self, dtype: torch.dtype = torch.float32) -> NetworkDenoiser:
        return NetworkDenoiser(self.network, self.process.parametrization, dtype)


def _alpha(s: float) -> float:
    return 1 / math.hypot(1, s)


def _discrete(schedule: NoiseSchedule, prediction: str, alpha_bar: Floats) -> Family:
    network = Knowing(discrete(alpha_bar, len(alpha_bar)), _alpha, OUTPUTS[prediction])
    return Family(DiffusionProcess(schedule, DDPMParametrization(prediction)), network)


def _ddpm() -> dict[str, Family]:
    schedules = {
        "linear": NoiseSchedule.linear(),
        "scaled_linear": NoiseSchedule.scaled_linear(),
        "cosine": NoiseSchedule.cosine(),
    }
    plain = {
        f"{name} {word}": _discrete(schedule, word, alpha_bars(name))
        for (name, schedule), word in product(schedules.items(), PREDICTION_TYPES)
    }
    zero, alpha_bar = schedules["scaled_linear"].with_zero_snr(), alpha_bars("scaled_linear", zero_snr=True)
    return plain | {f"zero SNR {word}": _discrete(zero, word, alpha_bar) for word in ("sample", "v_prediction")}


def _improved() -> Family:
    network = Knowing(discrete(alpha_bars("cosine", 4000), 1000), _alpha, _epsilon)
    return Family(
        DiffusionProcess(NoiseSchedule.cosine(4000), DDPMParametrization("epsilon", RescaledTimestepIndex(4000))),
        network,
    )


def _straight() -> Family:
    network = Knowing(lambda index: index / (1000 - index), lambda s: 1 / (1 + s), _flow)
    return Family(DiffusionProcess(NoiseSchedule.flow(), FlowParametrization()), network)


def _karras() -> Family:
    network = Knowing(lambda index: math.exp(4 * index), lambda s: 1 / math.hypot(s, SIGMA_DATA), _edm)
    return Family(DiffusionProcess(NoiseSchedule.continuous(0.002, 80.0), EDMParametrization(SIGMA_DATA)), network)


FAMILIES: Mapping[str, Family] = {**_ddpm(), "improved": _improved(), "flow": _straight(), "edm": _karras()}

MAKERS: Mapping[str, GridMaker] = {
    **GRIDS,
    "karras:14": Karras(14),
    "flow:3": Flow(3),
    "leading+1": Leading(1),
    "leading+1 to index 0": Leading(1, clean=False),
}
