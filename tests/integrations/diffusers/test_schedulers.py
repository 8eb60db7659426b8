"""The schedulers beside `invert` and `sample`, around networks that know the answer, and in diffusers' own ways."""

import logging
import math
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from ddim_edit import SOLVERS, ArgumentError, Editor, MissingExtraError, ModelError, invert, make_grid, sample
from ddim_edit.integrations.diffusers import DDIMEditInverseScheduler, DDIMEditScheduler
from ddim_edit.models.scheduler_config import SCHEDULERS, read_process

from ... import pipelines
from ...diffusion.solvers.closed_forms import max_error, randn
from ...families.processes import FAMILIES, PICTURES

Diffusers: Any = diffusers  # its types are hidden from mypy
STEPS = 6
NOISE = randn(*PICTURES.shape, seed=5)
ONE_SENTENCE = r"^[^\n]+$"
THEIRS: dict[str, Any] = {
    "scaled_linear epsilon": Diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=0.012, steps_offset=1, set_alpha_to_one=False
    ),
    "cosine v_prediction": Diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False
    ),
    "linear sample": Diffusers.DDPMScheduler(prediction_type="sample"),
    "flow": Diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "edm": Diffusers.EDMEulerScheduler(),
}
"""A scheduler of diffusers for every kind of process."""
FROM_CLEAN = {"scaled_linear epsilon": "leading", "flow": "flow"}
"""Grids that begin with the clean image, where the network can be asked there."""
families = pytest.mark.parametrize("family", THEIRS)
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of diffusers


def up_of(family: str, grid: str = "karras:14") -> DDIMEditInverseScheduler:
    return DDIMEditInverseScheduler.from_config(THEIRS[family].config, grid=grid)  # type: ignore[no-any-return]


def down_of(family: str, grid: str = "karras:14") -> DDIMEditScheduler:
    return DDIMEditScheduler.from_config(THEIRS[family].config, grid=grid)  # type: ignore[no-any-return]


def run(scheduler: Any, x: Tensor, network: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The loop of a pipeline."""
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t.expand(len(x))), t, x).prev_sample
    return x


def zero(x: Tensor, t: Tensor) -> Tensor:
    return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("family", "grid"),
    [*((family, "karras:14") for family in THEIRS), *FROM_CLEAN.items(), ("edm", "times:2,30,400,900")],
)
def test_both_ways_equal_the_integration_of_the_package(family: str, grid: str) -> None:
    """Times are rounded to float32 in both, once more in ours."""
    up, network = up_of(family, grid), FAMILIES[family].network
    schedule, parametrization = up.process
    spans = schedule.spans(make_grid(grid, schedule, STEPS))
    denoiser = FAMILIES[family].denoiser(torch.float64)
    found = invert(denoiser, PICTURES, spans, SOLVERS["dpm2m"], NOISE)
    up.set_timesteps(STEPS)
    x = run(up, up.add_noise(PICTURES, NOISE, up.timesteps[:1]), network)
    assert max_error(x, parametrization.scale_input(found.state[0], spans[-1].there)) < 1e-9
    down = down_of(family, grid)
    down.set_noise(NOISE)
    wanted = sample(denoiser, found.state, spans, SOLVERS["dpm2m"], NOISE).x0
    assert max_error(run(down, x, network), wanted) < 1e-9


@families
def test_new_images_end_clean(family: str) -> None:
    down = down_of(family)
    schedule, parametrization = down.process
    grid = make_grid("karras:14", schedule, STEPS).to_clean()
    x_T = NOISE / float(parametrization.scale_input(torch.ones(()), schedule.level(schedule.T)))
    denoiser = FAMILIES[family].denoiser(torch.float64)
    wanted = sample(denoiser, (x_T,), schedule.spans(grid), SOLVERS["dpm2m"]).x0
    assert max_error(run(down, NOISE, FAMILIES[family].network), wanted) < 1e-6


def test_noise_is_added_in_the_units_of_the_network() -> None:
    plain, flow = up_of("scaled_linear epsilon", "uniform"), up_of("flow", "uniform")
    for scheduler in (plain, flow):
        scheduler.set_timesteps(10)
    level = plain.process.schedule.level(400)
    at_399, at_400 = torch.tensor([399.0]), torch.tensor([400.0])
    wanted = level.alpha * PICTURES + level.sigma * NOISE
    assert max_error(plain.add_noise(PICTURES, NOISE, at_399), wanted) < 1e-12
    assert max_error(flow.scale_noise(PICTURES, at_400, NOISE), 0.6 * PICTURES + 0.4 * NOISE) < 1e-12


def test_rounding_by_the_pipeline_does_not_add_up() -> None:
    """Where the network says that there is no noise, x0 is x / alpha at every level."""
    down, x = down_of("scaled_linear epsilon"), NOISE.bfloat16()
    x0 = run(down, x, zero)
    exact = x.double() / down.process.schedule.level(1000).alpha
    assert x0.dtype == torch.bfloat16
    assert down.latest_sample is not None
    assert max_error(down.latest_sample, exact) < 1e-10
    assert max_error(x0.double(), exact) > 1e-3


@pytest.mark.parametrize("in_place", [False, True])
def test_a_sample_that_the_pipeline_has_changed_counts(in_place: bool) -> None:
    """Of a single step, as later ones extrapolate from x0 before the change."""
    down = down_of("scaled_linear epsilon", "times:1,500,1000")
    x = NOISE
    down.set_timesteps(STEPS)
    first, second, _ = down.timesteps
    x = down.step(zero(x, first), first, x).prev_sample
    x = x.mul_(2) if in_place else 2 * x
    x = down.step(zero(x, second), second, x).prev_sample
    schedule = down.process.schedule
    y, before = 2 * NOISE / schedule.level(1000).alpha, NOISE / schedule.level(1000).alpha
    levels = [schedule.level(t) for t in (1, 500, 1000)]
    h, last = (math.log(noisy.s / clean.s) for clean, noisy in pairwise(levels))
    wanted = levels[0].alpha * (y + (y - before) * h / (2 * last) * (1 - levels[0].s / levels[1].s))
    assert max_error(x, wanted) < 1e-10


def test_a_run_that_was_given_up_leaves_nothing_to_the_next_one() -> None:
    down, network = down_of("flow"), FAMILIES["flow"].network
    wanted = run(down, NOISE, network)
    for t in down.timesteps[:3]:
        down.step(NOISE, t, NOISE)
    x = NOISE
    for t in down.timesteps:
        x = down.step(network(x, t.expand(len(x))), t, x).prev_sample
    assert torch.equal(x, wanted)


def test_pipelines_that_draw_their_own_noise_begin_with_what_was_set() -> None:
    down, network = down_of("flow"), FAMILIES["flow"].network
    wanted = run(down, NOISE, network)
    down.set_start(NOISE)
    assert torch.equal(run(down, torch.zeros_like(NOISE), network), wanted)


def test_answers_with_variances_are_read_without_them() -> None:
    down, network = down_of("scaled_linear epsilon"), FAMILIES["scaled_linear epsilon"].network
    wanted = run(down, NOISE, network)
    assert torch.equal(run(down, NOISE, lambda x, t: torch.cat([network(x, t), x], 1)), wanted)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if hasattr(diffusers, name)])
def test_every_scheduler_has_its_process_taken_over(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    kind = getattr(Diffusers, name)
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    theirs = kind()
    wanted = read_process({**theirs.config, "_class_name": name})
    made = DDIMEditScheduler.from_config(theirs.config, grid="karras:7")
    made.save_pretrained(tmp_path)
    loaded = DDIMEditScheduler.from_pretrained(tmp_path)
    inverse = DDIMEditInverseScheduler.from_config(loaded.config)
    for each in (made, loaded, inverse):
        assert each.process.schedule.log_s.tolist() == wanted.schedule.log_s.tolist()
        assert each.process.schedule.sampler == wanted.schedule.sampler
        assert each.process.parametrization == wanted.parametrization
        assert each.config.grid == "karras:7"
    assert not caplog.records
    again = kind.from_config(inverse.config)
    wanted_entries = {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    assert {key: again.config[key] for key in wanted_entries} == wanted_entries


def test_pipelines_are_saved_and_loaded_with_it(tmp_path: Path) -> None:
    pipe = pipelines.pixels(pipelines.SMALL)
    pipe.scheduler = DDIMEditScheduler.from_config(pipe.scheduler.config, grid="logsnr")
    pipe.save_pretrained(tmp_path)
    loaded = Diffusers.DDPMPipeline.from_pretrained(tmp_path, local_files_only=True)
    assert isinstance(loaded.scheduler, DDIMEditScheduler)
    assert loaded.scheduler.config.grid == "logsnr"
    model = Editor.from_pretrained(tmp_path, device="cpu").model
    assert model.components == Editor.from_pipeline(loaded).model.components
    assert model.schedule.description["kind"] == "linear"


def test_bad_input_gets_one_sentence() -> None:
    down = down_of("flow")
    with pytest.raises(ArgumentError, match=ONE_SENTENCE):
        down.step(NOISE, 500.0, NOISE)
    with pytest.raises(ArgumentError, match="number of steps"):
        down.set_timesteps()
    with pytest.raises(ArgumentError, match=r"takes no sigmas.*times:"):
        down.set_timesteps(sigmas=[1.0, 0.9, 0.1])
    down.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    assert down.num_inference_steps == 4
    with pytest.raises(ArgumentError, match="eta must be 0, not 1"):
        down.step(NOISE, down.timesteps[0], NOISE, eta=1.0)
    with pytest.raises(ArgumentError, match="none of the timesteps"):
        down.add_noise(PICTURES, NOISE, torch.tensor([1.5]))
    down.set_noise(NOISE[:, :1])
    with pytest.raises(ArgumentError, match=r"noise has the shape \[2, 1, 8, 8\], and the latents \[2, 3, 8, 8\]"):
        run(down, NOISE, zero)
    with pytest.raises(ArgumentError, match="no grid"):
        down_of("flow", "zigzag")
    with pytest.raises(ModelError, match="VQDiffusionScheduler"):
        DDIMEditScheduler.from_config({"_class_name": "VQDiffusionScheduler"})


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("ddim_edit.integrations.diffusers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"ddim-edit\[diffusers\]"):
        import_module("ddim_edit.integrations.diffusers")
