"""Models of every family on a real GPU: loaded there, offloaded, and out of pipelines that are there, with LoRAs."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddim_edit import Condition, Editor, InversionConfig, Model, load_model
from ddim_edit.models.offloading import OFFLOADS

from ... import pipelines, recent_pipelines
from ...rounding import assert_alike
from .loras import add_lora
from .originals import NEGATIVE, PROMPT
from .test_recent_families import KNOWN

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
FAMILIES = [*pipelines.PIXELS, *pipelines.LATENTS, *KNOWN]
families = pytest.mark.parametrize("family", FAMILIES)
GUIDED = Condition(PROMPT, NEGATIVE, guidance_scale=7.5)
REQUIRED = {"classes": Condition(label=1)}
"""The condition of families that have none of their own."""
FAR = 0.05
"""How far bfloat16 may be from float32, of the largest value: it rounds by 0.004, some ten times over."""
PRODUCTS = 2e-3
"""How far the rounded products of autoencoders may be: cuDNN and cuBLAS add in another order than the CPU."""
FolderOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    shelf = tmp_path_factory.mktemp("on a GPU")

    def save(family: str) -> Path:
        if family in KNOWN:
            make = recent_pipelines.RECENT[family]
        elif family in pipelines.PIXELS:
            make = pipelines.PIXELS[family]
        else:
            make = lambda: pipelines.LATENTS[family](shelf / "tokens")  # noqa: E731 - one of three
        return pipelines.save(make, shelf / family)

    return cache(save)


def evaluated(model: Model, condition: Condition | None = None) -> Tensor:
    """The denoiser's x0 at a level in the middle, on the CPU."""
    x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = model.schedule.level(model.schedule.T / 2)
    denoiser = model.conditioned_on(condition) if condition else model.denoiser
    return denoiser(x.to(model.device), level).x0.cpu()


@families
def test_networks_and_autoencoders_compute_as_on_the_cpu(folder_of: FolderOf, family: str) -> None:
    folder = folder_of(family)
    there, here = (load_model(folder, device, size=pipelines.SIZE) for device in ("cuda", "cpu"))
    condition = REQUIRED.get(family)
    assert_alike(evaluated(there, condition), evaluated(here, condition), PRODUCTS)
    x0 = torch.randn(1, *here.shape, generator=torch.Generator().manual_seed(1))
    images = here.codec.decode(x0)
    assert_alike(there.codec.decode(x0.cuda()).cpu(), images, PRODUCTS)
    assert_alike(there.codec.encode(images.cuda()).cpu(), here.codec.encode(images), PRODUCTS)


@families
def test_networks_compute_in_bfloat16_and_invert(folder_of: FolderOf, family: str) -> None:
    condition = REQUIRED.get(family)
    half, whole = (
        load_model(folder_of(family), "cuda", dtype, size=pipelines.SIZE) for dtype in ("bfloat16", "float32")
    )
    assert_alike(evaluated(half, condition), evaluated(whole, condition), FAR)
    image = torch.rand(3, 3, *half.size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = Editor(half).invert(image, InversionConfig("ddim", steps=2, condition=condition or Condition()))
    assert len(latents) == 3
    assert all(torch.isfinite(latent.x).all() for latent in latents)


@pytest.mark.parametrize("how", OFFLOADS)
@pytest.mark.parametrize("family", ["stable diffusion 1", "stable diffusion 3", "flux dev", "qwen-image"])
def test_offloaded_models_compute_the_same_and_leave_the_gpu(folder_of: FolderOf, family: str, how: str) -> None:
    folder = folder_of(family)
    plain = load_model(folder, "cuda", size=pipelines.SIZE)
    offloaded = load_model(folder, "cuda", size=pipelines.SIZE, offload=how)
    assert_alike(evaluated(offloaded, GUIDED), evaluated(plain, GUIDED))
    images = plain.codec.decode(torch.ones(1, *plain.shape).cuda())
    assert_alike(offloaded.codec.decode(torch.ones(1, *plain.shape).cuda()), images)
    assert_alike(offloaded.codec.encode(images), plain.codec.encode(images))


@pytest.mark.parametrize("family", ["stable diffusion 1", "stable diffusion xl", "flux dev", "z-image"])
@pytest.mark.parametrize("there", ["on the GPU", "offloaded by diffusers"])
def test_pipelines_on_a_gpu_are_the_models_of_their_folders(folder_of: FolderOf, family: str, there: str) -> None:
    folder = folder_of(family)
    pipe = pipeline(folder)
    if there == "on the GPU":
        pipe.to("cuda")
    else:
        pipe.enable_model_cpu_offload()
    editor = Editor.from_pipeline(pipe, size=pipelines.SIZE)
    here = load_model(folder, size=pipelines.SIZE)
    assert editor.model.device.type == "cuda"
    assert editor.model.components == here.components
    assert_alike(evaluated(editor.model, GUIDED), evaluated(here, GUIDED), PRODUCTS)


def test_loras_of_pipelines_on_a_gpu_count(folder_of: FolderOf) -> None:
    pytest.importorskip("peft")
    here, there = (pipeline(folder_of("stable diffusion 1")) for _ in range(2))
    plain = evaluated(Editor.from_pipeline(here, size=pipelines.SIZE).model, GUIDED)
    for pipe in (here, there):
        add_lora(pipe, with_peft=True)
    there.to("cuda")
    models = [Editor.from_pipeline(pipe, size=pipelines.SIZE).model for pipe in (here, there)]
    found, wanted = evaluated(models[1], GUIDED), evaluated(models[0], GUIDED)
    assert models[0].components == models[1].components
    assert float((wanted - plain).abs().max()) > 0.01
    assert_alike(found, wanted, PRODUCTS)


def pipeline(folder: Path) -> Any:
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe
