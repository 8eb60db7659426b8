"""The baseline: the loop that users of diffusers write around its two DDIM schedulers."""

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
from ddim_edit.models.model import Model
from ddim_edit.models.pretrained import import_diffusers

IndexedNetwork = Callable[[Tensor, Tensor], Tensor]
"""A network's raw output at x [B, C, H, W] and one timestep index []."""


@dataclass(frozen=True)
class DiffusersInversion:
    """An inverse scheduler of diffusers up and its counterpart down around one network, to compare with.

    x keeps its dtype, and a step takes one evaluation. DDIMInverseScheduler calls the network at the time that it goes
    to, and takes its output for the one where it is: this is why it does not return to the image.

    Args:
        network: the network.
        up: a DDIMInverseScheduler or a DPMSolverMultistepInverseScheduler.
        down: a DDIMScheduler or a DPMSolverMultistepScheduler of the same settings.

    References:
        von Platen et al., "Diffusers: State-of-the-art diffusion models", 2022,
        https://github.com/huggingface/diffusers.
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502.
    """

    network: IndexedNetwork
    up: Any
    down: Any

    @classmethod
    def of(cls, model: Model, multistep: bool = False) -> Self:
        """Return the loop around a model's network at the model's own levels, without clipping.

        Args:
            model: of pixels, unconditional.
            multistep: take DPM-Solver++ of order 2 on Karras sigmas, the better of diffusers' two pairs, and not DDIM
                with leading spacing. Its order 3 divides by zero there.

        Raises:
            MissingExtraError: diffusers is not installed.
            ModelError: a model of latents or conditions, or one without discrete levels.
        """
        denoiser = _require_comparable(model)
        library = import_diffusers("A comparison with diffusers")
        options = {
            "num_train_timesteps": model.schedule.T,
            "trained_betas": betas(model.schedule),
            "prediction_type": model.prediction,
        }

        def network(x: Tensor, time: Tensor) -> Tensor:
            index = torch.full((len(x),), float(time), dtype=torch.float32, device=x.device)
            at_level = denoiser.at(model.schedule.level(float(time) + 1)).network
            return at_level(x.to(denoiser.dtype), index).to(x.dtype)

        if multistep:
            options |= {"solver_order": 2, "use_karras_sigmas": True}
            up = library.DPMSolverMultistepInverseScheduler(**options)
            return cls(network, up, library.DPMSolverMultistepScheduler(**options))
        options["clip_sample"] = False  # clipping is many-to-one, and far from right for latents
        return cls(network, library.DDIMInverseScheduler(**options), library.DDIMScheduler(**options))

    def encode(self, images: Tensor, steps: int) -> Tensor:
        """Return x_T of images [B, C, H, W] in [-1, 1]."""
        return self._integrate(self.up, images, steps)

    def decode(self, x: Tensor, steps: int) -> Tensor:
        """Return the images of x_T [B, C, H, W]."""
        return self._integrate(self.down, x, steps)

    def _integrate(self, scheduler: Any, x: Tensor, steps: int) -> Tensor:
        scheduler.set_timesteps(steps)
        with torch.no_grad():
            for time in scheduler.timesteps:
                x = scheduler.step(self.network(x, time), time, x).prev_sample
        return x


def betas(schedule: NoiseSchedule) -> list[float]:
    """Return the betas of a schedule's levels 1..T: 1 - alpha_bar_t / alpha_bar_{t-1}, alpha_bar = 1 / (1 + s^2)."""
    # In logarithms, since alpha_bar is near 1 at the first levels and betas are their small differences.
    log_alpha_bar = -np.logaddexp(0, 2 * schedule.log_s)
    ratios: list[float] = (-np.expm1(np.diff(log_alpha_bar, prepend=0.0))).tolist()
    return ratios


def _require_comparable(model: Model) -> NetworkDenoiser:
    """Return the model's denoiser, if diffusers' pipelines for pixels would call its network as we do."""
    denoiser = model.denoiser
    parametrization = getattr(denoiser, "parametrization", None)
    discrete = isinstance(parametrization, DDPMParametrization) and parametrization.time is timestep_index
    if model.conditioner is not None:
        reason = f"it follows {model.follows}"
    elif model.codec.lossy:
        reason = "it is one of latents or grey images"
    elif not discrete or not isinstance(denoiser, NetworkDenoiser):
        reason = "its network is not called by timestep index"
    else:
        return denoiser
    raise ModelError(
        f"{model.name} cannot be compared with diffusers' inverse scheduler, as {reason}. Leave the comparison out."
    )
