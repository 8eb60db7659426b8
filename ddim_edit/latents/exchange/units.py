"""In which units other programs keep the state of a walk."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.schedules import FAINTEST, Level
from ddim_edit.errors import ArgumentError, LatentError
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.model import Model


class Affine(NamedTuple):
    """z = x scale + shift, of numbers or of tensors [C, 1, 1]."""

    scale: Tensor | float = 1.0
    shift: Tensor | float = 0.0

    def of(self, x: Tensor) -> Tensor:
        """The other program's z of our x."""
        return x * self.scale + self.shift

    def undone(self, z: Tensor) -> Tensor:
        """Our x of the other program's z."""
        return (z - self.shift) / self.scale


class Units(Protocol):
    """Another program's units of the state at a time."""

    def __call__(self, model: Model | None, t: float) -> Affine:
        """From our state to theirs, for a model at time t."""
        ...


def plain(model: Model | None, t: float) -> Affine:
    """Ours: x_t = alpha_t x_0 + sigma_t eps, alpha^2 + sigma^2 = 1, whatever the model was trained with."""
    return Affine()


def for_diffusers(model: Model | None, t: float) -> Affine:
    """What pipelines take as `latents=`, to be multiplied by the scheduler's `init_noise_sigma` in there.

    For schedules of betas that is x_t itself: with DDIM, DPM-Solver++ and PNDM the factor is 1, and with Euler on
    leading spacing it is 1 / alpha_T, the unit of its own state. For straight paths it is x_t / (alpha_t + sigma_t).

    Raises:
        ArgumentError: no model.
    """
    schedule = _given(model).schedule
    level = schedule.level(t)
    return Affine(1 / (level.alpha + level.sigma)) if schedule.description.get("kind") == "flow" else Affine()


def for_comfy(model: Model | None, t: float) -> Affine:
    """What KSamplerAdvanced walks on from with `add_noise` disabled: z = x_t / alpha_t / scale + shift.

    ComfyUI scales latents by its model's own factor on the way in, and takes a state to be x_0 + s eps.

    Raises:
        ArgumentError: no model, or one without an autoencoder, which ComfyUI has no nodes for.
        LatentError: pure noise of a straight path or of zero terminal SNR, of which ComfyUI would keep nothing.
    """
    model = _given(model)
    if not isinstance(model.codec, AutoencoderCodec):
        raise ArgumentError("a model with an autoencoder for ComfyUI", model.name, "use npy or safetensors")
    level = model.schedule.level(t)
    _require_signal(level)
    scale, shift = (
        torch.tensor(value, dtype=torch.float64).view(-1, 1, 1)
        for value in (model.codec.scaling_factor, model.codec.shift_factor)
    )
    return Affine(1 / (level.alpha * scale), shift)


def _require_signal(level: Level) -> None:
    if level.alpha < 2 * FAINTEST:
        given = f"one at t = {level.t:g}, where no picture is left"
        raise LatentError("a latent below pure noise for ComfyUI", given, "use diffusers, npy or safetensors")


def _given(model: Model | None) -> Model:
    if model is None:
        raise ArgumentError("a model, whose units the file is to have", "none", "hand it in")
    return model
