"""Exported latents in the hands of those they are for: diffusers' pipelines, and what ComfyUI does with a latent."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers.pipelines.ddim import pipeline_ddim
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddim_edit import Condition, Editor, Grid, InversionConfig, LatentError, Latents, NoiseSchedule, make_grid
from ddim_edit.diffusion.grids import Leading
from ddim_edit.latents.exchange import export_latents, import_latents

from ... import pipelines, tiny
from ...pipelines import Diffusers

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
STEPS, SEEDS = 5, [3, 4]
"""DDIMScheduler takes the step before to be T // steps earlier, so that it walks a grid only where steps divide T."""
CONDITION = Condition("a photo of the old woman")


class Case(NamedTuple):
    """A pipeline, the spacing that its scheduler is set to, and the same times as a grid of ours."""

    make: Callable[[Path], Any]
    scheduler: Callable[[Any], Any]
    grid: Callable[[NoiseSchedule], Grid]


def ddim(**options: Any) -> Callable[[Any], Any]:
    return lambda config: Diffusers.DDIMScheduler.from_config(config, clip_sample=False, **options)


def euler(spacing: str) -> Callable[[Any], Any]:
    return lambda config: Diffusers.EulerDiscreteScheduler.from_config(
        config, timestep_spacing=spacing, steps_offset=1, prediction_type="epsilon"
    )


def flow(config: Any) -> Any:
    return Diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)


def released(schedule: NoiseSchedule) -> Grid:
    """As Stable Diffusion was: steps_offset 1, and down to index 0, which is t = 1."""
    return make_grid("leading", schedule, STEPS)


def one_later(schedule: NoiseSchedule) -> Grid:
    return Leading(1)(schedule, STEPS)


CASES = {
    "leading": Case(
        pipelines.stable_diffusion,
        ddim(set_alpha_to_one=True, steps_offset=0),
        lambda s: Leading(0, clean=True)(s, STEPS),
    ),
    "leading as released": Case(
        pipelines.stable_diffusion,
        ddim(set_alpha_to_one=False, steps_offset=1),
        released,
    ),
    "trailing": Case(
        pipelines.stable_diffusion,
        ddim(timestep_spacing="trailing"),
        lambda s: make_grid("trailing", s, STEPS),
    ),
    "euler, leading": Case(pipelines.stable_diffusion_xl, euler("leading"), one_later),
    "flow": Case(pipelines.stable_diffusion_3, flow, lambda s: make_grid("flow:3", s, STEPS)),
}


def made(make: Callable[[], Any], folder: Path, share: float = 1.0) -> Any:
    """A pipeline that is written to the folder too."""
    pipes: list[Any] = []

    def keep() -> Any:
        pipes.append(make())
        return pipes[0]

    pipelines.save(keep, folder, share=share)
    return pipes[0]


@pytest.fixture(scope="module", params=CASES)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Editor, Latents]:
    """A pipeline of random weights, an editor on the same ones, and two latents of the pipeline's times."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp("pipes")
    pipe = made(lambda: case.make(folder / "tokens"), folder / "pipe", share=0.3)
    editor = Editor.from_pretrained(folder / "pipe", dtype="fp32")
    pipe.scheduler = case.scheduler(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    grid = case.grid(editor.model.schedule)
    latents = editor.noise(SEEDS, InversionConfig(solver="ddim", grid=grid, condition=CONDITION))
    # Without the last step to t = 0 where the pipeline does not take it.
    own = [replace(latent, recipe=replace(latent.recipe, times=grid.times)) for latent in latents]
    return pipe, editor, Latents(own)


@pytest.mark.slow
def test_a_pipeline_makes_our_pictures_of_exported_latents(told: tuple[Any, Editor, Latents], tmp_path: Path) -> None:
    pipe, editor, latents = told
    export_latents(tmp_path / "a.safetensors", latents, "diffusers", editor.model)
    handed = load_file(tmp_path / "a.safetensors")["latents"]
    pictures = pipe(
        prompt=[CONDITION.prompt] * 2,
        latents=handed,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        height=pipelines.SIZE,
        width=pipelines.SIZE,
        output_type="pt",
    ).images
    ours = (editor.decode(latents) / 2 + 0.5).clamp(0, 1)
    assert (pictures.double() - ours).abs().max() < 2e-4
    assert ours.std() > 0.02
    assert (ours[0] - ours[1]).abs().max() > 0.02


def test_the_unconditional_pipeline_does_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no `latents=`, so they are handed to it where it would draw noise."""
    folder = tiny.save_model(tmp_path / "tiny")
    editor = Editor.from_pretrained(folder, dtype="fp32")
    unet = Diffusers.UNet2DModel.from_pretrained(folder / "unet")
    for spacing in ("leading", "trailing"):
        latents = editor.noise(SEEDS, InversionConfig(solver="ddim", grid=spacing, steps=STEPS))
        export_latents(tmp_path / "a.safetensors", latents, "diffusers", editor.model)
        handed = load_file(tmp_path / "a.safetensors")["latents"]
        monkeypatch.setattr(pipeline_ddim, "randn_tensor", lambda shape, handed=handed, **_: handed.reshape(shape))
        config = {**{key: value for key, value in tiny.SCHEDULER.items() if key[0] != "_"}, "timestep_spacing": spacing}
        pipe = Diffusers.DDIMPipeline(unet, Diffusers.DDIMScheduler(**config))
        pipe.set_progress_bar_config(disable=True)
        pictures = torch.from_numpy(pipe(batch_size=2, num_inference_steps=STEPS, output_type="np").images)
        ours = (editor.decode(latents) / 2 + 0.5).clamp(0, 1)
        assert (pictures.permute(0, 3, 1, 2).double() - ours).abs().max() < 1e-5


class Comfy:
    """What ComfyUI does with a latent, from its nodes LoadLatent and KSamplerAdvanced, for models that predict eps.

    The latent is multiplied by the model's scale; noise, which is off, is added; then Euler walks x_0 + s eps down the
    model's own s = sigma / alpha, the network being shown x / sqrt(1 + s^2).
    """

    def __init__(self, pipe: Any, embedded: Tensor) -> None:
        self.pipe, self.embedded = pipe, embedded
        bar = pipe.scheduler.alphas_cumprod.double()
        self.levels = ((1 - bar) / bar).sqrt()

    def load(self, path: Path) -> Tensor:
        held = load_file(path)
        multiplier = 1.0 if "latent_format_version_0" in held else 1 / 0.18215
        return held["latent_tensor"].float() * multiplier

    @torch.no_grad()
    def sample(self, latent: Tensor, indices: list[int]) -> Tensor:
        x = (latent * self.pipe.vae.config.scaling_factor).double()
        for index, below in zip(indices, [*indices[1:], None], strict=True):
            s = self.levels[index]
            shown = (x / (1 + s**2).sqrt()).float()
            eps = self.pipe.unet(shown, index, self.embedded.expand(len(x), -1, -1)).sample.double()
            x = x + ((0.0 if below is None else self.levels[below]) - s) * eps
        return x.float() / self.pipe.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        return self.pipe.vae.decode(latent).sample


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comfy, Editor, Latents]:
    folder = tmp_path_factory.mktemp("comfy")
    pipe = made(lambda: pipelines.stable_diffusion(folder / "tokens"), folder / "pipe")
    editor = Editor.from_pretrained(folder / "pipe", dtype="fp32")
    with torch.no_grad():
        embedded, _ = pipe.encode_prompt(CONDITION.prompt, "cpu", 1, False)
    method = InversionConfig(solver="ddim", grid="trailing", steps=STEPS, condition=CONDITION)
    return Comfy(pipe, embedded), editor, editor.noise(SEEDS, method)


@pytest.mark.slow
def test_comfyui_makes_our_pictures_of_exported_latents(stable: tuple[Comfy, Editor, Latents], tmp_path: Path) -> None:
    comfy, editor, latents = stable
    export_latents(tmp_path / "a.latent", latents, "comfy", editor.model)
    indices = [round(t) - 1 for t in latents[0].recipe.times[:0:-1]]
    pictures = comfy.decode(comfy.sample(comfy.load(tmp_path / "a.latent"), indices))
    ours = editor.decode(latents)
    assert (pictures.double() - ours).abs().max() < 5e-4
    assert ours.std() > 0.02


@pytest.mark.slow
def test_comfyuis_latents_come_back_within_float32(stable: tuple[Comfy, Editor, Latents], tmp_path: Path) -> None:
    _, editor, latents = stable
    export_latents(tmp_path / "a.latent", latents, "comfy", editor.model)
    back = import_latents(tmp_path / "a.latent", latents[0], model=editor.model)
    assert (back.x - latents.x).abs().max() < 1e-6
    held = load_file(tmp_path / "a.latent")
    assert set(held) == {"latent_tensor", "latent_format_version_0"}
    assert (held["latent_tensor"].dtype, held["latent_format_version_0"].numel()) == (torch.float32, 0)


@pytest.mark.slow
def test_old_latents_without_the_marker_are_scaled_as_comfyui_scales_them(
    stable: tuple[Comfy, Editor, Latents], tmp_path: Path
) -> None:
    _, editor, latents = stable
    export_latents(tmp_path / "new.latent", latents, "comfy", editor.model)
    save_file({"latent_tensor": load_file(tmp_path / "new.latent")["latent_tensor"] * 0.18215}, tmp_path / "old.latent")
    new, old = (import_latents(tmp_path / f"{age}.latent", latents[0], model=editor.model).x for age in ("new", "old"))
    assert (new - old).abs().max() < 1e-6


@pytest.mark.parametrize("told", ["flow"], indirect=True)
def test_pure_noise_of_a_straight_path_is_not_for_comfyui(told: tuple[Any, Editor, Latents], tmp_path: Path) -> None:
    _, editor, latents = told
    with pytest.raises(LatentError, match="At t = 1000 this latent is pure noise"):
        export_latents(tmp_path / "a.latent", latents, "comfy", editor.model)
