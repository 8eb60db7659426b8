"""The loop that diffusers' users write around its two DDIM schedulers: to compare with, never to walk by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.diffusion.parametrization import DDPMParametrization, timestep_index
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ModelError
from ddim_edit.models.extra import diffusers
from ddim_edit.models.model import Model

Ask = Callable[[Tensor, Tensor], Tensor]
"""A network's own output at x [B, C, H, W] and one index [], as diffusers calls it."""


@dataclass(frozen=True)
class InverseScheduler:
    """DDIMInverseScheduler up and DDIMScheduler down around one network; x keeps its dtype, and nothing is promised.

    One evaluation a step. The inverse scheduler asks the network at the time that it goes to, and takes the answer
    for the one where it is.

    Args:
        network: what to ask.
        up: a DDIMInverseScheduler.
        down: a DDIMScheduler of the same settings.

    von Platen et al. (2022), Diffusers; the inversion is Song, Meng, Ermon's (2021).
    """

    network: Ask
    up: Any
    down: Any

    @classmethod
    def of(cls, model: Model) -> Self:
        """The loop around a model's network at the model's own levels, leading spacing, without clipping.

        Raises:
            ModelError: a model of latents or conditions, one without discrete levels, or no diffusers.
        """
        denoiser = _comparable(model)
        library = diffusers("a comparison with its inverse scheduler")
        options = {
            "num_train_timesteps": model.schedule.T,
            "trained_betas": betas(model.schedule),
            "prediction_type": model.prediction,
            "clip_sample": False,  # many-to-one, and far from right for latents
        }

        def ask(x: Tensor, time: Tensor) -> Tensor:
            index = torch.full((len(x),), float(time), dtype=torch.float32, device=x.device)
            network = denoiser.at(model.schedule.level(float(time) + 1)).network
            return network(x.to(denoiser.dtype), index).to(x.dtype)

        return cls(ask, library.DDIMInverseScheduler(**options), library.DDIMScheduler(**options))

    def encode(self, pictures: Tensor, steps: int) -> Tensor:
        """From pictures [B, C, H, W] in [-1, 1] to codes."""
        return self._walk(self.up, pictures, steps)

    def decode(self, x: Tensor, steps: int) -> Tensor:
        """From codes [B, C, H, W] to pictures."""
        return self._walk(self.down, x, steps)

    def _walk(self, scheduler: Any, x: Tensor, steps: int) -> Tensor:
        scheduler.set_timesteps(steps)
        with torch.no_grad():
            for time in scheduler.timesteps:
                x = scheduler.step(self.network(x, time), time, x).prev_sample
        return x


def betas(schedule: NoiseSchedule) -> list[float]:
    """The betas of a schedule's levels 1..T: 1 - alpha_bar_t / alpha_bar_{t-1}, alpha_bar = 1 / (1 + s^2)."""
    log_alpha_bar = -np.logaddexp(0, 2 * schedule.log_s)
    ratios: list[float] = (-np.expm1(np.diff(log_alpha_bar, prepend=0.0))).tolist()
    return ratios


def _comparable(model: Model) -> NetworkDenoiser:
    """The model's denoiser, if diffusers' pipelines for pixels would ask it the same."""
    denoiser, remedy = model.denoiser, "leave the comparison out"
    wanted = "an unconditional model of pixels at discrete levels, for diffusers' inverse scheduler"
    if model.conditioner is not None or model.codec.lossy:
        kind = "latents or grey pictures" if model.codec.lossy else f"a {model.follows}"
        raise ModelError(wanted, f"{model.name}, which is one of {kind}", remedy)
    parametrization = getattr(denoiser, "parametrization", None)
    discrete = isinstance(parametrization, DDPMParametrization) and parametrization.time is timestep_index
    if not isinstance(denoiser, NetworkDenoiser) or not discrete:
        raise ModelError(wanted, f"{model.name}, which is asked otherwise", remedy)
    return denoiser
