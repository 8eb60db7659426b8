"""`invert` around diffusers' own pipelines, beside `Editor.from_pipeline`: the same x_T and the same images."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from ddim_edit import ArgumentError, Condition, Editor, ModelError
from ddim_edit.images import read
from ddim_edit.integrations.diffusers import DDIMEditScheduler, invert
from ddim_edit.integrations.diffusers.schedulers import DEFAULT_GRID
from ddim_edit.models.pipelines import latents_of_pipeline

from ... import pipelines, recent_pipelines, tiny

Diffusers: Any = diffusers  # its types are hidden from mypy
PipeOf = Callable[[str], Any]
STEPS = 5
PROMPT, NEGATIVE = "a photo of the old man", "young woman smiling"
SHARES = {"stable diffusion 3": 0.02, "flux dev": 0.02, "flux 2 klein": 0.02}
"""So much of a network's answer is left where the flow is to be a tame one; an eps is divided by alpha_T."""
PROMPTED = ("stable diffusion 1", "stable diffusion xl", *SHARES)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers


@pytest.fixture(scope="module")
def pipe_of(tmp_path_factory: pytest.TempPathFactory) -> PipeOf:
    """A pipeline by its family, with random weights."""
    tokens = tmp_path_factory.mktemp("tokens")

    @cache
    def make(family: str) -> Any:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            if family == "ddim":
                scheduler = Diffusers.DDIMScheduler(clip_sample=False)
                pipe = Diffusers.DDIMPipeline(pipelines.pixels(pipelines.SMALL).unet, scheduler)
            elif family in pipelines.PIXELS:
                pipe = pipelines.PIXELS[family]()
            elif family in pipelines.LATENTS:
                pipe = pipelines.LATENTS[family](tokens)
            else:
                pipe = recent_pipelines.RECENT[family]()
            for weight in pipelines.last_layer(pipe).parameters():
                weight *= SHARES.get(family, 0.002)
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.eval()  # as what is loaded is: text encoders have dropout
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    return [tiny.save_picture(folder / f"{seed}.png", seed, 40, 32) for seed in range(2)]


def pictures(output: Any) -> Tensor:
    """[B, 3, H, W] in [0, 1]."""
    images = output.images
    return images if isinstance(images, Tensor) else torch.from_numpy(images).permute(0, 3, 1, 2)


def in_their_range(x: Tensor) -> Tensor:
    return (x / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("family", ["diffusers' own", "ddim", "ldm vq", *PROMPTED])
def test_latents_and_images_are_those_of_the_editor(pipe_of: PipeOf, photographs: list[Path], family: str) -> None:
    """Networks round to float32, and pipelines give them times in float32."""
    pipe, image = pipe_of(family), str(photographs[0])
    prompt = PROMPT if family in PROMPTED else ""
    found = invert(pipe, image, prompt, num_inference_steps=STEPS, size=pipelines.SIZE)
    editor = Editor.from_pipeline(pipe, size=pipelines.SIZE)
    latent = editor.invert(image, grid=DEFAULT_GRID, steps=STEPS, condition=Condition(prompt))
    kind = latents_of_pipeline(pipe, pipelines.SIZE)
    # A straight path ends on (1 - tau) x0 + tau eps, which is x_T over 1 + 2^-12.
    unit = 1 / (1 + 2**-12) if family in SHARES else 1.0
    wanted = kind.to_latents(unit * kind.to_sample(latent.x[None]), latent.x[None])
    assert float((found.latents - wanted).abs().max() / wanted.abs().max()) < 5e-6
    decoded = pictures(found.decode(pipe, output_type="np"))
    assert float((decoded - in_their_range(editor.decode(latent))).abs().max()) < 1e-5


@pytest.mark.parametrize("dequantise", [0, None])
def test_photographs_return_in_the_pipelines_own_hands(
    pipe_of: PipeOf, photographs: list[Path], dequantise: int | None
) -> None:
    """Under guidance, to x_0, which the autoencoder makes images of."""
    pipe = pipe_of("stable diffusion 1")
    own = pipe.scheduler
    options = {"guidance_scale": 3.0, "negative_prompt": NEGATIVE, "dequantise": dequantise}
    found = invert(pipe, photographs, PROMPT, num_inference_steps=20, **options)
    assert pipe.scheduler is own
    pipe.scheduler = found.scheduler
    try:
        x0 = pipe(latents=found.latents, **found.arguments, output_type="latent").images
    finally:
        pipe.scheduler = own
    size = (pipelines.SIZE, pipelines.SIZE)
    pixels = torch.stack([read(each, size).tensor.double() for each in photographs])
    wanted = latents_of_pipeline(pipe).codec.encode(pixels)
    assert float((x0 - wanted).abs().max()) < 5e-3
    assert float(found.noise.abs().max() > 0) == (dequantise is not None)


def test_latents_and_prompts_can_be_changed(pipe_of: PipeOf, photographs: list[Path]) -> None:
    pipe = pipe_of("stable diffusion 3")
    found = invert(pipe, photographs[0], PROMPT, num_inference_steps=STEPS)
    same, mixed = (found.decode(pipe, latents=x, output_type="pt").images for x in (found.latents, -found.latents))
    assert torch.equal(same, found.decode(pipe, output_type="pt").images)
    assert float((same - mixed).abs().max()) > 0.1
    assert not torch.equal(same, found.decode(pipe, prompt=NEGATIVE, output_type="pt").images)


def test_pipelines_without_latents_begin_with_those_of_the_image(pipe_of: PipeOf, photographs: list[Path]) -> None:
    pipe = pipe_of("diffusers' own")
    found = invert(pipe, photographs, num_inference_steps=STEPS)
    assert found.arguments == {"batch_size": 2, "num_inference_steps": STEPS}
    images = found.decode(pipe, output_type="np").images
    swapped = found.decode(pipe, latents=found.latents.flip(0), output_type="np").images
    assert abs(swapped[::-1] - images).max() < 0.05 < abs(swapped - images).max()  # each with the noise of the other


def test_a_pipeline_that_has_our_scheduler_is_inverted_too(pipe_of: PipeOf, photographs: list[Path]) -> None:
    pipe = pipe_of("flux dev")
    own, wanted = pipe.scheduler, invert(pipe, photographs[0], num_inference_steps=2, size=pipelines.SIZE)
    pipe.scheduler = DDIMEditScheduler.from_config(own.config)
    try:
        found = invert(pipe, photographs[0], num_inference_steps=2, size=pipelines.SIZE)
    finally:
        pipe.scheduler = own
    assert torch.equal(found.latents, wanted.latents)


def test_a_pipeline_begins_with_a_noisy_image(pipe_of: PipeOf, photographs: list[Path]) -> None:
    """Image to image, which adds noise and goes down from there."""
    pipe = pipe_of("stable diffusion 1")
    scheduler = DDIMEditScheduler.from_config(pipe.scheduler.config)
    edited = Diffusers.StableDiffusionImg2ImgPipeline(**{**pipe.components, "scheduler": scheduler})
    edited.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, pipelines.SIZE, pipelines.SIZE, generator=torch.Generator().manual_seed(0))
    options = {"guidance_scale": 1.0, "output_type": "latent", "num_inference_steps": 10}
    x0 = edited(PROMPT, image, strength=0.2, generator=torch.Generator().manual_seed(1), **options).images
    wanted = latents_of_pipeline(pipe).codec.encode(2 * image.double() - 1)
    assert float((x0 - wanted).square().mean().sqrt()) < 0.5
    assert x0.isfinite().all()


def test_bad_input_gets_one_sentence(pipe_of: PipeOf, photographs: list[Path]) -> None:
    pipe = pipe_of("cifar10")
    with pytest.raises(ArgumentError, match="takes no prompt"):
        invert(pipe, photographs, PROMPT)
    with pytest.raises(ArgumentError, match="Leave latents= out"):
        invert(pipe, photographs, latents=torch.zeros(1))
    with pytest.raises(ArgumentError, match="invert takes a pipeline object of diffusers, not int"):
        invert(3, photographs)
    with pytest.raises(ArgumentError, match="images"):
        invert(pipe, [])
    with pytest.raises(ModelError, match=r"give times of their own.*Use Editor\.from_pipeline"):
        invert(pipe_of("cog view 4"), photographs)
