"""Diffusers' way: our loop around its schedulers is its users' loop and its pipeline, step by step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMPipeline,
    DDIMScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    UNet2DModel,
)
from torch import Tensor

from ddim_edit import Editor, FlowParametrization, ModelError, NoiseSchedule, evaluate, load_model, metrics
from ddim_edit.models.codec.pixels import GreyCodec
from ddim_edit.models.diffusers_inversion import DiffusersInversion, betas

from .. import tiny
from ..rounding import ROUNDING
from . import closed_form

STEPS = 7


def assert_same_states(ours: Tensor, oracle: Tensor) -> None:
    """Fail unless these are one state but for the rounding of as many evaluations as there are steps."""
    size = float(oracle.nan_to_num().abs().max())
    torch.testing.assert_close(ours, oracle, atol=STEPS * ROUNDING * size, rtol=0, equal_nan=True)


@pytest.fixture(params=["epsilon", "v_prediction", "sample"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tiny.save_model(tmp_path / "model", prediction_type=request.param)


def users_path(scheduler: Any, network: Any, x: Tensor) -> list[Tensor]:
    """Every state on the way, as diffusers' users write the loop."""
    scheduler.set_timesteps(STEPS)
    path = []
    with torch.no_grad():
        for time in scheduler.timesteps:
            x = scheduler.step(network(x, time).sample, time, x).prev_sample
            path.append(x)
    return path


class Recorded:
    """A scheduler that remembers what its steps led to."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.path = scheduler, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    def step(self, *arguments: Any) -> Any:
        made = self.scheduler.step(*arguments)
        self.path.append(made.prev_sample)
        return made


def test_every_step_up_and_down_is_that_of_the_loop_of_diffusers_users(checkpoint: Path) -> None:
    network = UNet2DModel.from_pretrained(checkpoint / "unet").eval()
    forward = DDIMScheduler.from_pretrained(checkpoint / "scheduler")
    inverse = DDIMInverseScheduler.from_pretrained(checkpoint / "scheduler")
    loop = DiffusersInversion.of(load_model(checkpoint))
    watched = replace(loop, up=Recorded(loop.up), down=Recorded(loop.down))
    x = closed_form.drawn(2).float()
    up = users_path(inverse, network, x)
    down = users_path(forward, network, up[-1])
    watched.decode(watched.encode(x, STEPS), STEPS)
    for mine, theirs in ((watched.up.path, up), (watched.down.path, down)):
        assert len(mine) == STEPS
        for ours, oracle in zip(mine, theirs, strict=True):
            assert_same_states(ours, oracle)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers with NumPy 2
def test_the_multistep_pair_is_that_of_diffusers_and_returns_better(checkpoint: Path) -> None:
    network = UNet2DModel.from_pretrained(checkpoint / "unet").eval()
    config = DDIMScheduler.from_pretrained(checkpoint / "scheduler").config
    options = {"solver_order": 2, "use_karras_sigmas": True}
    loop = DiffusersInversion.of(load_model(checkpoint), multistep=True)
    x = closed_form.drawn(2).float()
    up = users_path(DPMSolverMultistepInverseScheduler.from_config(config, **options), network, x)[-1]
    down = users_path(DPMSolverMultistepScheduler.from_config(config, **options), network, up)[-1]
    assert_same_states(loop.encode(x, STEPS), up)
    assert_same_states(loop.decode(up, STEPS), down)

    editor = Editor(closed_form.model())
    found = evaluate(editor, closed_form.drawn(3), (), steps=(20,), against=("diffusers", "diffusers-dpm"))
    errors = {each.setting.solver: each.scores["mse"].mean for each in found.summaries}
    assert errors["diffusers-dpm"] < errors["diffusers"] / 10


def test_the_way_down_is_diffusers_own_pipeline(checkpoint: Path) -> None:
    pipeline = DDIMPipeline(
        UNet2DModel.from_pretrained(checkpoint / "unet"), DDIMScheduler.from_pretrained(checkpoint / "scheduler")
    )
    pipeline.set_progress_bar_config(disable=True)
    shown = pipeline(2, torch.Generator().manual_seed(5), num_inference_steps=STEPS, output_type="np").images
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    decoded = DiffusersInversion.of(load_model(checkpoint)).decode(noise, STEPS)
    mine = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert_same_states(mine, torch.from_numpy(shown))


def test_rows_beside_the_editor_s_are_scores_of_that_loop(editor: Editor) -> None:
    x = closed_form.drawn(3)
    found = evaluate(editor, x, ("ddim",), steps=(5, STEPS), against=("diffusers",))
    rows = [row for row in found.rows if row.setting.solver == "diffusers" and row.setting.steps == STEPS]
    loop = DiffusersInversion.of(editor.model)
    back = loop.decode(loop.encode(x.float(), STEPS), STEPS)
    assert [row.scores["mse"] for row in rows] == pytest.approx(metrics.mse(x, back).tolist(), rel=1e-4)
    assert [row.scores["ssim"] for row in rows] == pytest.approx(metrics.ssim(x, back).tolist(), rel=1e-4)
    assert {(row.setting.grid, row.nfe_in, row.nfe_out, row.converged) for row in rows} == {
        ("leading", STEPS, STEPS, True)
    }
    assert {(row.source, row.image) for row in rows} == {
        (row.source, row.image) for row in found.rows if row.setting.solver == "ddim"
    }


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (NoiseSchedule.linear(), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
        (NoiseSchedule.linear(1e-3, 0.1, 50), torch.linspace(1e-3, 0.1, 50, dtype=torch.float64)),
    ],
)
def test_betas_are_those_that_the_levels_were_made_of(schedule: NoiseSchedule, wanted: Tensor) -> None:
    torch.testing.assert_close(torch.tensor(betas(schedule), dtype=torch.float64), wanted, atol=0, rtol=1e-9)


def test_models_that_diffusers_pipelines_for_pixels_do_not_run_are_refused() -> None:
    own = closed_form.model()
    others = {
        "latents or grey images": replace(own, codec=GreyCodec()),
        "it follows class": replace(own, conditioner=lambda condition: own.denoiser, follows="class"),
        "not called by timestep": replace(own, denoiser=replace(own.denoiser, parametrization=FlowParametrization())),
        "called by timestep": replace(own, denoiser=closed_form.MixtureDenoiser(*[torch.ones(1)] * 3)),
    }
    for given, model in others.items():
        with pytest.raises(ModelError, match=rf"{given}.*Leave the comparison out\."):
            DiffusersInversion.of(model)
