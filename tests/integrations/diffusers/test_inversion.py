"""`invert` around diffusers' own pipelines, beside `Editor.from_pipeline`: the same x_T and the same images."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from ddim_edit import ArgumentError, Condition, Editor, ModelError
from ddim_edit.integrations.diffusers import DDIMEditScheduler, invert
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
            if family in pipelines.PIXELS:
                pipe = pipelines.PIXELS[family]()
            elif family in pipelines.LATENTS:
                pipe = pipelines.LATENTS[family](tokens)
            else:
                pipe = recent_pipelines.RECENT[family]()
            for weight in pipelines.last_layer(pipe).parameters():
                weight *= SHARES.get(family, 0.002)
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


@pytest.mark.parametrize("family", ["diffusers' own", "cifar10", "ldm vq", *PROMPTED])
def test_latents_and_images_are_those_of_the_editor(pipe_of: PipeOf, photographs: list[Path], family: str) -> None:
    """Networks round to float32, and pipelines give them times in float32."""
    pipe, image = pipe_of(family), str(photographs[0])
    prompt = PROMPT if family in PROMPTED else ""
    found = invert(pipe, image, prompt, num_inference_steps=STEPS, size=pipelines.SIZE)
    editor = Editor.from_pipeline(pipe, size=pipelines.SIZE)
    latent = editor.invert(image, steps=STEPS, condition=Condition(prompt))
    kind = latents_of_pipeline(pipe, pipelines.SIZE)
    wanted = kind.to_latents(kind.to_sample(latent.x[None]), latent.x[None])
    # A straight path ends on (1 - tau) x0 + tau eps, which is x_T but for a factor of 1 - 2^-12.
    assert float((found.latents - wanted).abs().max() / wanted.abs().max()) < 3e-4
    decoded = pictures(found.decode(pipe, output_type="np"))
    assert float((decoded - in_their_range(editor.decode(latent))).abs().max()) < 1e-5


@pytest.mark.parametrize("dequantise", [0, None])
def test_photographs_return_under_guidance(pipe_of: PipeOf, photographs: list[Path], dequantise: int | None) -> None:
    """As well as the autoencoder returns them, in the pipeline's own hands, with and without the noise."""
    pipe = pipe_of("stable diffusion 1")
    own = pipe.scheduler
    options = {"guidance_scale": 3.0, "negative_prompt": NEGATIVE, "dequantise": dequantise}
    found = invert(pipe, photographs, PROMPT, num_inference_steps=20, **options)
    assert pipe.scheduler is own
    kind = latents_of_pipeline(pipe)
    pipe.scheduler = found.scheduler
    try:
        pipe(latents=found.latents, **found.arguments, output_type="latent")
    finally:
        pipe.scheduler = own
    images = torch.stack([Editor.from_pipeline(pipe).invert([each], steps=1).x[0] * 0 for each in photographs])
    assert images.shape == found.latents.shape
    x0 = kind.codec.encode(torch.stack([in_square(each) for each in photographs]))
    assert found.scheduler.latest_sample is not None
    assert float((found.scheduler.latest_sample - x0).abs().max()) < 2e-3
