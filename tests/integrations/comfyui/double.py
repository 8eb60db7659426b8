"""A double of the part of ComfyUI that the integration calls, with the names and signatures of its public interface.

It stands in for `comfy` where ComfyUI is not installed, which no package on PyPI carries. With COMFYUI_PATH set, the
tests run in ComfyUI itself instead (`hosts.py`).
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


class EPS:
    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise / (1 + _like(sigma, noise) ** 2) ** 0.5

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        return model_input - _like(sigma, model_input) * model_output


class V_PREDICTION(EPS):  # noqa: N801
    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        s = _like(sigma, model_input)
        return model_input / (1 + s**2) - model_output * s / (1 + s**2) ** 0.5


class CONST:
    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        return model_input - _like(sigma, model_input) * model_output


class IMG_TO_IMG(EPS):  # noqa: N801
    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise


def _like(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.view(-1, *[1] * (x.ndim - 1))


class ModelSamplingDiscrete(nn.Module):
    """Betas that are linear in their square roots, from 0.00085 to 0.012."""

    def __init__(self) -> None:
        super().__init__()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        kept = torch.cumprod(1 - betas, 0)
        self.sigmas = ((1 - kept) / kept).sqrt().float()
        self.log_sigmas = self.sigmas.log()

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.log() - self.log_sigmas[:, None]).abs().argmin(0)

    def sigma(self, timestep: Tensor) -> Tensor:
        return self.sigmas[timestep.long()]


class ModelSamplingDiscreteFlow(nn.Module):
    def __init__(self, shift: float = 1.0) -> None:
        super().__init__()
        self.shift = shift
        self.sigmas = self.sigma(torch.arange(1, 1001.0))

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma * 1000

    def sigma(self, timestep: Tensor) -> Tensor:
        t = timestep / 1000
        return self.shift * t / (1 + (self.shift - 1) * t)


def make_sampling(kind: str, shift: float) -> Any:
    """The `model_sampling` of a kind, "EPS", "V_PREDICTION", "FLOW" or "IMG_TO_IMG"."""
    if kind == "FLOW":
        return type("ModelSampling", (ModelSamplingDiscreteFlow, CONST), {})(shift)
    prediction = {"EPS": EPS, "V_PREDICTION": V_PREDICTION, "IMG_TO_IMG": IMG_TO_IMG}[kind]
    return type("ModelSampling", (ModelSamplingDiscrete, prediction), {})()


class LatentFormat:
    def __init__(self, channels: int, scale_factor: float, dimensions: int) -> None:
        self.latent_channels = channels
        self.scale_factor = scale_factor
        self.latent_dimensions = dimensions


class BaseModel(nn.Module):
    def __init__(self, sampling: Any, network: nn.Module, latent_format: LatentFormat) -> None:
        super().__init__()
        self.model_sampling = sampling
        self.diffusion_model = network
        self.latent_format = latent_format

    def get_dtype_inference(self) -> torch.dtype:
        return torch.float32

    def process_latent_in(self, latent: Tensor) -> Tensor:
        return latent * self.latent_format.scale_factor

    def process_latent_out(self, latent: Tensor) -> Tensor:
        return latent / self.latent_format.scale_factor

    def apply_model(self, sampling: Any, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        given = sampling.calculate_input(t, x).float()
        output = self.diffusion_model(given, sampling.timestep(t).float(), context=context)
        return sampling.calculate_denoised(t, output.float(), x)  # type: ignore[no-any-return]


class ModelPatcher:
    load_device = torch.device("cpu")

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        self.patches: dict[str, Any] = {}
        self.backup: dict[str, Any] = {}
        self.object_patches: dict[str, Any] = {}

    def clone(self) -> "ModelPatcher":
        cloned = ModelPatcher(self.model)
        cloned.patches = dict(self.patches)
        cloned.object_patches = dict(self.object_patches)
        return cloned

    def add_object_patch(self, name: str, obj: Any) -> None:
        self.object_patches[name] = obj

    def get_model_object(self, name: str) -> Any:
        return self.object_patches.get(name, getattr(self.model, name))


class CFGGuider:
    def __init__(self, model_patcher: ModelPatcher) -> None:
        self.model_patcher = model_patcher
        self.cfg = 1.0

    def set_conds(self, positive: Any, negative: Any) -> None:
        self.conds = positive, negative

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def __call__(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None) -> Tensor:
        sampling = self.model_patcher.get_model_object("model_sampling")
        answers = []
        for conditioning in self.conds if self.cfg != 1 else self.conds[:1]:
            context = conditioning[0][0].expand(len(x), -1, -1)
            answers.append(self.model_patcher.model.apply_model(sampling, x, timestep, context))
        cond, uncond = answers[0], answers[-1]
        return uncond + (cond - uncond) * self.cfg if self.cfg != 1 else cond  # type: ignore[no-any-return]

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callable[..., object] | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        extra_args = {"model_options": {}, "seed": seed}
        samples = sampler.sample(self, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)
        return self.model_patcher.model.process_latent_out(samples)


class InterruptProcessingException(Exception):  # noqa: N818
    pass


_interrupted = False


def interrupt_current_processing(value: bool = True) -> None:
    global _interrupted
    _interrupted = value


def throw_exception_if_processing_interrupted() -> None:
    global _interrupted
    if _interrupted:
        _interrupted = False
        raise InterruptProcessingException


def install() -> None:
    """Make `import comfy` find this double."""
    comfy, samplers, management = (ModuleType(f"comfy{end}") for end in ("", ".samplers", ".model_management"))
    samplers.CFGGuider = CFGGuider  # type: ignore[attr-defined]
    for each in (InterruptProcessingException, interrupt_current_processing, throw_exception_if_processing_interrupted):
        setattr(management, each.__name__, each)
    comfy.samplers, comfy.model_management = samplers, management  # type: ignore[attr-defined]
    sys.modules.update({module.__name__: module for module in (comfy, samplers, management)})


def make_model(
    kind: str, network: nn.Module, channels: int, scale: float, shift: float, dimensions: int
) -> ModelPatcher:
    """A MODEL around a network, as `hosts.Host` has it."""
    return ModelPatcher(BaseModel(make_sampling(kind, shift), network, LatentFormat(channels, scale, dimensions)))
