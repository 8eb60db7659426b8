"""Inversion of images by a pipeline of diffusers itself, into what the same pipeline decodes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddim_edit.diffusion.noise import draw_mixed_noise, noise_of_image
from ddim_edit.errors import ArgumentError, NonFiniteError
from ddim_edit.images import CentreSquare, Crop
from ddim_edit.images.inputs import NO_IMAGES, Images
from ddim_edit.images.prepare import prepare_images
from ddim_edit.integrations.diffusers.schedulers import (
    DEFAULT_GRID,
    DEFAULT_STEPS,
    DDIMEditInverseScheduler,
    DDIMEditScheduler,
)
from ddim_edit.models.pipelines import PipelineLatents, latents_of_pipeline


@dataclass(frozen=True, eq=False)
class PipelineInversion:
    """What a pipeline decodes to the images that were inverted.

    `found.decode(pipe)` is `pipe.scheduler = found.scheduler` and `pipe(latents=found.latents, **found.arguments)`, and
    gives the pipeline its own scheduler back. Pipelines without `latents=` begin with `scheduler.set_start`.

    Attributes:
        latents: x_T as the pipeline's `latents=` takes it, in the dtype of its network.
        noise: the noise of the first level, float64, which `scheduler` takes off.
        scheduler: knows the grid and the noise.
        arguments: of the pipeline: the prompt, the size, the number of steps and so on.
    """

    latents: Tensor
    noise: Tensor
    scheduler: DDIMEditScheduler
    arguments: Mapping[str, Any]

    def decode(self, pipe: Any, **changes: Any) -> Any:
        """Return what the pipeline makes of the latents.

        Args:
            pipe: the pipeline, with the weights that it had.
            **changes: arguments of the pipeline to replace or to add, as `prompt=`, `latents=` or `output_type=`.
        """
        latents = changes.pop("latents", self.latents)
        return _run(pipe, self.scheduler, {**self.arguments, **changes}, latents)


def invert(
    pipe: Any,
    images: Images,
    prompt: str | list[str] = "",
    *,
    num_inference_steps: int = DEFAULT_STEPS,
    guidance_scale: float = 1.0,
    grid: str = DEFAULT_GRID,
    dequantise: int | None = 0,
    size: tuple[int, int] | int | None = None,
    crop: Crop | None = None,
    **arguments: Any,
) -> PipelineInversion:
    """Invert images by running a pipeline upwards, and return what it decodes to them again.

    The pipeline runs as it does otherwise, with its LoRAs, offloading and guidance; afterwards it has its own scheduler
    again.

    Args:
        pipe: a pipeline for images of one of the `FAMILIES`.
        images: whatever `Editor.invert` takes.
        prompt: of pipelines that take one: for all images, or a list of one for each.
        num_inference_steps: number of steps.
        guidance_scale: as the pipeline takes it; 1 is off in most, 0 in Z-Image. The stronger, the less exactly images
            return.
        grid: the name of a grid, as for `InversionConfig`.
        dequantise: seed of the noise of the first level, or None for no such noise.
        size: height and width in pixels, or one number for both; as trained when left out.
        crop: the part of each image to keep; the centre square when left out.
        **arguments: further arguments of the pipeline, for both directions, as `negative_prompt=`.

    Raises:
        MissingExtraError: diffusers or transformers is not installed.
        ArgumentError: no pipeline, no images, a size or a grid that cannot be had, or latents among the arguments.
        ModelError: a pipeline of another family, or with a scheduler whose process is not supported.
        NonFiniteError: the network or the autoencoder returned NaN or infinity.

    Examples:
        >>> from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
        >>> blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        >>> unet = UNet2DModel(sample_size=16, block_out_channels=(32, 32), layers_per_block=1, **blocks)
        >>> pipe = DDIMPipeline(unet, DDIMScheduler())
        >>> pipe.set_progress_bar_config(disable=True)
        >>> found = invert(pipe, torch.zeros(3, 16, 16), num_inference_steps=2)
        >>> list(found.latents.shape), found.decode(pipe).images[0].size
        ([1, 3, 16, 16], (16, 16))
    """
    if "latents" in arguments:
        raise ArgumentError("invert finds the latents of images, and takes none. Leave latents= out.")
    kind = latents_of_pipeline(pipe, size)
    x0, noise = _encode(kind, images, crop or CentreSquare(), dequantise)
    chosen = {
        "prompt": prompt,
        "batch_size": len(x0),
        "height": kind.size[0],
        "width": kind.size[1],
        "guidance_scale": guidance_scale,
        "num_inference_steps": num_inference_steps,
    }
    chosen = {name: value for name, value in chosen.items() if name in _parameters(pipe)}
    if prompt and "prompt" not in chosen:
        raise ArgumentError(f"A {type(pipe).__name__} takes no prompt. Leave it out.")
    arguments = {name: _for_each(name, value, len(x0)) for name, value in {**chosen, **arguments}.items()}

    up = DDIMEditInverseScheduler.from_config(pipe.scheduler.config, grid=grid)
    up.set_timesteps(num_inference_steps)
    start = up.add_noise(kind.to_sample(x0), noise, up.timesteps[:1])
    # Their images are not needed: "latent" spares decoding them where there is something to decode.
    output_type = "latent" if "latents" in _parameters(pipe) else "pt"
    _run(pipe, up, {**arguments, "output_type": output_type}, kind.to_latents(start, x0))
    found = up.latest_sample
    if found is None or not found.isfinite().all():
        raise NonFiniteError("The latents are NaN or infinite. Run the pipeline in float32 or bfloat16.")
    down = DDIMEditScheduler.from_config(up.config)
    down.set_noise(noise)
    latents = kind.to_latents(found, x0)
    return PipelineInversion(latents, noise, down, arguments)


def _encode(kind: PipelineLatents, images: Images, crop: Crop, dequantise: int | None) -> tuple[Tensor, Tensor]:
    """Return x_0 [B, C, H, W] of images, and their noise as the scheduler gets it; both float64."""
    prepared = list(prepare_images(images, kind.size, crop))
    if not prepared:
        raise ArgumentError(NO_IMAGES)
    with torch.no_grad():
        x0 = kind.codec.encode(torch.stack([image.pixels for image in prepared]))
    mixes = [noise_of_image(dequantise, image.origin["source"]) for image in prepared]
    return x0, kind.to_sample(draw_mixed_noise(mixes, x0.shape[1:]))


def _for_each(name: str, value: Any, count: int) -> Any:
    """Return an argument for so many images: pipelines take one text, or a list with one for each image."""
    return [value] * count if isinstance(value, str) and "prompt" in name and count > 1 else value


def _parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(pipe.__call__).parameters


def _run(pipe: Any, scheduler: Any, arguments: Mapping[str, Any], latents: Tensor) -> Any:
    """Return what a pipeline makes of latents with another scheduler; afterwards it has its own again."""
    own = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        if "latents" in _parameters(pipe):
            return pipe(**arguments, latents=latents)
        scheduler.set_start(latents)
        return pipe(**arguments)
    finally:
        pipe.scheduler = own
