"""`Editor.from_pipeline` beside the pipelines that it is given: their steps, their weights and their settings."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import pytest
import torch
from torch import Tensor, nn

from ddim_edit import ArgumentError, Condition, Editor, Model, ModelError, sample
from ddim_edit.diffusion.solvers.recording import RecordingStep
from ddim_edit.diffusion.solvers.solver import SamplingOnlySolver
from ddim_edit.diffusion.solvers.steps import euler_step
from ddim_edit.models.identity import find_difference

from ... import pipelines
from .conftest import EPS_TAME
from .loras import add_lora, disable_lora, fuse_lora, scale_lora
from .originals import NEGATIVE, ORIGINALS, PROMPT, Original, Run, walked
from .words import assert_words_are_directions

Diffusers: Any = diffusers  # its types are hidden from mypy
PipeOf = Callable[[str], Any]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
GUIDED = Condition(PROMPT, NEGATIVE, guidance_scale=7.5)
families = pytest.mark.parametrize("family", ORIGINALS)
peft = pytest.param(True, id="peft", marks=pytest.mark.skipif(not find_spec("peft"), reason="PEFT is not installed"))
adapters = pytest.mark.parametrize("with_peft", [pytest.param(False, id="own layers"), peft])


def model_of(pipe: Any) -> Model:
    return Editor.from_pipeline(pipe, size=pipelines.SIZE).model


def assert_same_steps(model: Model, original: Original, run: Run, condition: Condition) -> None:
    """Every latent of ddim's path from the second on, since some begin elsewhere (`test_networks`), and the image."""
    grid = original.grid(model.schedule)
    levels = walked(model, grid)
    spans = model.schedule.spans(type(grid)(grid.name, grid.times[:-1]))
    states: dict[float, Tensor] = {}
    solver = SamplingOnlySolver(RecordingStep(euler_step, states))
    x0 = sample(model.conditioned_on(condition), (original.ours(run.steps[1].x, levels[1]),), spans, solver).x0
    steps = list(zip(states.values(), run.steps[1:], levels[2:], strict=True))
    assert len(steps) == len(run.steps) - 1
    for x, step, level in steps:
        wanted = original.ours(step.next, level)
        assert float((x - wanted).abs().max() / wanted.abs().max()) < 1e-4
    last = levels[-1]
    images = model.codec.decode(x0 * last.alpha * original.scale(last)) / 2 + 0.5
    assert float((images.clamp(0, 1) - run.pictures).abs().max()) < 1e-3


@families
def test_latents_and_images_equal_the_pipeline(pipe_of: PipeOf, family: str) -> None:
    pipe, original = pipe_of(family), ORIGINALS[family]
    condition = original.conditions[-1]
    model = model_of(pipe)
    assert_same_steps(model, original, original.run(pipe, condition), condition)


@families
def test_a_pipeline_is_the_same_model_as_its_folder(
    pipe_of: PipeOf, models: Callable[[str], Model], family: str
) -> None:
    """So latents of the one can be decoded by the other."""
    model = model_of(pipe_of(family))
    assert model.components == models(family).components
    assert (model.shape, model.prediction, model.follows) == (
        models(family).shape,
        models(family).prediction,
        models(family).follows,
    )


@adapters
def test_latents_and_images_equal_a_pipeline_with_a_lora(pipe_of: PipeOf, with_peft: bool) -> None:
    pipe, original = pipe_of("stable diffusion 1"), ORIGINALS["stable diffusion 1"]
    plain = original.run(pipe_of("stable diffusion 1"), GUIDED)
    add_lora(pipe, with_peft)
    scale_lora(pipe, 0.7)
    run = original.run(pipe, GUIDED)
    assert float((run.pictures - plain.pictures).abs().max()) > 0.01
    assert_same_steps(model_of(pipe), original, run, GUIDED)


@adapters
def test_a_lora_is_part_of_the_identity(pipe_of: PipeOf, with_peft: bool) -> None:
    pipe = pipe_of("stable diffusion 1")
    plain = model_of(pipe).components
    add_lora(pipe, with_peft)
    loaded = model_of(pipe).components
    assert find_difference(plain, loaded) == "another network (other weights)"
    scale_lora(pipe, 0.5)
    assert find_difference(loaded, model_of(pipe).components) == "another network (other weights)"
    scale_lora(pipe, 1.0)
    fuse_lora(pipe)
    assert find_difference(loaded, model_of(pipe).components) is None


@adapters
@pytest.mark.parametrize("change", [disable_lora, lambda pipe: scale_lora(pipe, 0)], ids=["disabled", "scale 0"])
def test_a_lora_that_does_nothing_changes_nothing(
    pipe_of: PipeOf, with_peft: bool, change: Callable[[Any], None]
) -> None:
    pipe = pipe_of("stable diffusion 1")
    plain = model_of(pipe).components
    add_lora(pipe, with_peft)
    change(pipe)
    assert find_difference(plain, model_of(pipe).components) is None


def tensors(pipe: Any) -> Iterator[tuple[int, torch.dtype, bool]]:
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            for tensor in (*part.parameters(), *part.buffers()):
                yield tensor.data_ptr(), tensor.dtype, tensor.requires_grad


def modes(pipe: Any) -> list[bool]:
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    return [module.training for part in parts for module in part.modules()]


@pytest.mark.parametrize("family", ["stable diffusion xl", "flux dev", "cifar10"])
def test_the_pipeline_is_left_as_it_was(pipe_of: PipeOf, family: str) -> None:
    pipe, original = pipe_of(family), ORIGINALS[family]
    for part in ("unet", "transformer"):
        if part in pipe.components:
            pipe.components[part].train()
    condition = original.conditions[0]
    before, modes_before, config = list(tensors(pipe)), modes(pipe), dict(pipe.scheduler.config)
    images = original.run(pipe_of(family), condition).pictures
    editor = Editor.from_pipeline(pipe, size=pipelines.SIZE)
    latents = editor.invert(torch.zeros(1, 3, 32, 32), steps=2, solver="ddim", condition=condition)
    editor.decode(latents)
    assert list(tensors(pipe)) == before
    assert modes(pipe) == modes_before
    assert dict(pipe.scheduler.config) == config
    assert float((original.run(pipe, condition).pictures - images).abs().max()) < 1e-5


def test_the_network_is_the_pipelines_own(pipe_of: PipeOf) -> None:
    """What is changed in place is seen, and training goes on afterwards."""
    pipe = pipe_of("stable diffusion 1")
    model = model_of(pipe)
    x, level = torch.zeros(1, *model.shape, dtype=torch.float64), model.schedule.level(500)
    first = model.denoiser(x, level).eps
    pipe.unet.conv_out.bias.data += 1
    assert torch.allclose(model.denoiser(x, level).eps, first + 1, atol=1e-5)
    pipe.unet.requires_grad_(True)
    model.denoiser(x, level)
    output = pipe.unet(torch.zeros(1, *model.shape), 500, torch.zeros(1, 77, 16)).sample
    output.square().sum().backward()
    assert pipe.unet.conv_out.bias.grad is not None


def test_an_offloaded_pipeline_is_the_same_model(pipe_of: PipeOf) -> None:
    """Accelerate's hooks keep the tensors elsewhere until a layer runs."""
    pipe, original = pipe_of("stable diffusion 1"), ORIGINALS["stable diffusion 1"]
    wanted, run = model_of(pipe).components, original.run(pipe, GUIDED)
    for part in ("unet", "text_encoder", "vae"):
        accelerate.cpu_offload(pipe.components[part], torch.device("cpu"), offload_buffers=False)
    assert pipe.unet.conv_in.weight.is_meta
    model = model_of(pipe)
    assert model.components == wanted
    assert_same_steps(model, original, run, GUIDED)
    assert pipe.unet.conv_in.weight.is_meta


def test_dtype_is_the_pipelines_own(pipe_of: PipeOf) -> None:
    pipe = pipe_of("stable diffusion xl").to(torch.bfloat16)
    editor = Editor.from_pipeline(pipe)
    latent = editor.invert(torch.zeros(3, 32, 32), steps=1, solver="ddim")
    assert (editor.model.dtype, latent.recipe.dtype, pipe.vae.dtype) == ("bfloat16", "bfloat16", torch.bfloat16)


def test_an_autoencoder_that_overflows_in_float16_runs_in_float32(pipe_of: PipeOf) -> None:
    pipe = pipe_of("stable diffusion xl")
    pipe.vae.half()
    before = list(tensors(pipe))
    codec = model_of(pipe).codec
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x0 = codec.encode(image)
    assert list(tensors(pipe)) == before
    pipe.vae.float()
    assert torch.equal(x0, model_of(pipe).codec.encode(image))


def test_a_scheduler_of_another_class_is_the_same_process(pipe_of: PipeOf) -> None:
    pipe = pipe_of("stable diffusion 1")
    wanted = model_of(pipe).components
    pipe.scheduler = Diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert model_of(pipe).components == wanted


def test_images_return_under_a_prompt_with_guidance(folders: Callable[..., Path]) -> None:
    tame = folders("stable diffusion 1", EPS_TAME)
    pipe = Diffusers.StableDiffusionPipeline.from_pretrained(tame, local_files_only=True)
    editor = Editor.from_pipeline(pipe)
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = editor.invert(image, steps=5, solver="ddim", condition=GUIDED, exact=True, tol=1e-6)
    wanted = editor.model.codec.decode(editor.model.codec.encode(image[None]))[0]
    assert float((editor.decode(latent) - wanted).abs().max()) < 1e-4


def unet_1d(pipe: Any) -> Any:
    pipe.unet = Diffusers.UNet1DModel(block_out_channels=(8, 8, 16), layers_per_block=1, sample_size=16)
    return pipe


def without_scheduler(pipe: Any) -> Any:
    pipe.scheduler = None
    return pipe


def without_vae(pipe: Any) -> Any:
    pipe.vae = None
    return pipe


def without_tokenizer(pipe: Any) -> Any:
    pipe.tokenizer = None
    return pipe


def inpainting(pipe: Any) -> Any:
    pipe.unet = pipelines.conditional_unet(in_channels=9, out_channels=4)
    return pipe


def controlled(pipe: Any) -> Any:
    controlnet = Diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 4))
    return Diffusers.StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=controlnet, requires_safety_checker=False
    )


def unclip(pipe: Any) -> Any:
    pipe.scheduler = Diffusers.UnCLIPScheduler()
    return pipe


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda pipe: pipe.unet, ArgumentError, r"^from_pipeline takes a pipeline object of diffusers, not UNet2DCond"),
        (lambda pipe: "sd-turbo", ArgumentError, r"not str\. To load a model by its name or path, use from_pretrained"),
        (unet_1d, ModelError, r"^StableDiffusionPipeline\.unet: networks of the class 'UNet1DModel' are not supported"),
        (without_scheduler, ModelError, r"the pipeline has no scheduler"),
        (without_vae, ModelError, r"4 channels, as those of latents have, .* the pipeline has no vae\. Give it one"),
        (without_tokenizer, ModelError, r"the pipeline has no tokenizer, which prompts need\. Give it one"),
        (inpainting, ModelError, r"9 channels in and 4 out"),
        (controlled, ModelError, r"its controlnet, a ControlNetModel, steers the network"),
        (unclip, ModelError, r"schedulers of the class 'UnCLIPScheduler' are not supported"),
    ],
)
def test_unsupported_pipelines_are_refused(
    pipe_of: PipeOf, change: Callable[[Any], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Editor.from_pipeline(change(pipe_of("stable diffusion 1")))


def test_a_pipeline_without_a_network_is_refused() -> None:
    class Detector(Diffusers.DiffusionPipeline):  # type: ignore[misc]
        def __init__(self, judge: nn.Module) -> None:
            super().__init__()
            self.register_modules(judge=judge)

    with pytest.raises(ModelError, match=r"a Detector has no unet and no transformer .*, only judge\."):
        Editor.from_pipeline(Detector(pipelines.kl()))


def test_an_ip_adapter_is_refused(pipe_of: PipeOf) -> None:
    pipe = pipe_of("stable diffusion 1")
    pipe.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    with pytest.raises(ModelError, match=r"IP-Adapter .* unload_ip_adapter first"):
        Editor.from_pipeline(pipe)


@families
def test_words_lead_from_one_prompt_to_the_other(models: Callable[[str], Model], family: str) -> None:
    model = models(family)
    if model.follows == "prompts":
        assert_words_are_directions(model)
