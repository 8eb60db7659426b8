"""ComfyUI's `model_sampling` as a noise schedule of ours, and its guided models as denoisers."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddim_edit.diffusion.parametrization import Prediction, from_eps
from ddim_edit.diffusion.sampler_times import SamplerTimes
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.errors import ModelError
from ddim_edit.models.devices import state_device

_SMALLEST_S = 1e-6
_SMALLEST_S_OF_FLOAT32 = 1e-3
"""At these noise-to-signal ratios a network is evaluated for the clean image, s = 0."""
_STRAIGHT = "CONST"
_STATES: Mapping[str, bool] = {"EPS": False, "COSMOS_RFLOW": False, _STRAIGHT: True}
"""Whether the state is on the straight path, by the class whose `calculate_input` it has; else it is x_0 + s eps."""
_PREDICTIONS: Mapping[str, str] = {
    "EPS": "epsilon",
    "V_PREDICTION": "v_prediction",
    "X0": "sample",
    "EDM": "edm",
    _STRAIGHT: "flow_prediction",
    "COSMOS_RFLOW": "flow_prediction",
}
"""Prediction types in diffusers' words, by the class whose `calculate_denoised` a `model_sampling` has."""


class SamplingProcess(NamedTuple):
    """What a `model_sampling` of ComfyUI says of the training.

    Attributes:
        schedule: the noise schedule.
        prediction: the prediction type, in diffusers' words; others by the name of their class.
        straight: whether ComfyUI's state is (1 - sigma) x_0 + sigma eps; else it is x_0 + sigma eps.
    """

    schedule: NoiseSchedule
    prediction: str
    straight: bool


def read_sampling(sampling: Any) -> SamplingProcess:
    """Return the process of a `model_sampling`.

    Raises:
        ModelError: a state that is neither x_0 + sigma eps nor on the straight path.
    """
    state = _definer(sampling, "calculate_input")
    scale = float(getattr(sampling, "noise_scale", 1.0))
    if state not in _STATES or scale != 1:
        problem = f"a noise scale of {scale:g}" if state in _STATES else f"states of the kind {state}"
        raise ModelError(
            f"This MODEL has {problem}, which cannot be inverted. Use one of the kinds {', '.join(_STATES)}."
        )
    kind = _definer(sampling, "calculate_denoised")
    if _STATES[state]:
        # The shift decides which times a sampler visits, not what the network was trained on.
        schedule = replace(NoiseSchedule.flow(), sampler=SamplerTimes(shift=_shift(sampling)))
    else:
        # Clamped schedules have some levels several times.
        sigmas = np.unique(sampling.sigmas.double().cpu().numpy())
        schedule = NoiseSchedule(np.log(sigmas))
    return SamplingProcess(schedule, _PREDICTIONS.get(kind, kind.lower()), _STATES[state])


def _definer(sampling: Any, method: str) -> str:
    """Return the name of the class whose method an object has."""
    return next(kind.__name__ for kind in type(sampling).__mro__ if method in vars(kind))


def _shift(sampling: Any) -> float:
    shift = float(getattr(sampling, "shift", 1.0))
    return math.exp(shift) if _definer(sampling, "sigma") == "ModelSamplingFlux" else shift


def with_fractional_times(model: Any) -> Any:
    """Return a MODEL whose network is told the noise level that it is given, also between two of its training.

    ComfyUI rounds it to the nearest of 1000 discrete levels, and x_T would differ from that of `Editor`.
    """
    own = model.get_model_object("model_sampling")
    if _definer(own, "timestep") != "ModelSamplingDiscrete":
        return model
    sampling = copy.copy(own)
    levels = own.log_sigmas

    def timestep(sigma: Tensor) -> Tensor:
        """Return the index of a level, from 0, linear in log sigma between those of the training."""
        log_s = levels.to(sigma.device, sigma.dtype)
        wanted = sigma.log().clamp(log_s[0], log_s[-1])
        above = torch.searchsorted(log_s, wanted).clamp(1, len(log_s) - 1)
        below = above - 1
        index: Tensor = below + (wanted - log_s[below]) / (log_s[above] - log_s[below])
        return index

    sampling.timestep = timestep
    patched = model.clone()
    patched.add_object_patch("model_sampling", sampling)
    return patched


@dataclass(frozen=True)
class GuiderDenoiser:
    """A guider of ComfyUI, in the middle of its `sample`, as a denoiser.

    A guider returns the guided x_0 of a state in ComfyUI's units, whatever its network predicts. With y = x / alpha the
    state is y, or y / (1 + s) on straight paths.

    Args:
        guider: what samplers of ComfyUI are given as `model_wrap`.
        extra: the keywords that they call it with.
        straight: as `SamplingProcess` has it.
        device: where the network is.
        shape: of a batch of states as the guider takes it, [B, C, H, W], or with one frame [B, C, 1, H, W].
        on_prediction: called before and after every evaluation, with None and with x_0.
    """

    guider: Callable[..., Tensor]
    extra: Mapping[str, Any]
    straight: bool
    device: torch.device
    shape: tuple[int, ...]
    on_prediction: Callable[[Tensor | None], object]

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the guided prediction at x [B, C, H, W]."""
        self.on_prediction(None)
        # In float64 where the device has it: then only the network itself rounds.
        wide = state_device(self.device) == self.device
        dtype = torch.float64 if wide else torch.float32
        # x_0 says nothing of eps at the clean image itself, but a little above it.
        s = max(level.s, _SMALLEST_S if wide else _SMALLEST_S_OF_FLOAT32)
        sigma, scale = (s / (1 + s), 1 / (1 + s)) if self.straight else (s, 1.0)
        y = (x / level.alpha).to(self.device, dtype).reshape(-1, *self.shape[1:])
        sigmas = torch.full((len(x),), sigma, dtype=dtype, device=self.device)
        x0 = self.guider(y * scale, sigmas, **self.extra)
        self.on_prediction(x0)
        eps = (y - x0) / s
        return from_eps(eps.reshape(x.shape).to(x.device, x.dtype), x, level)
