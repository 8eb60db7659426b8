"""`load_model` of every family beside diffusers: the networks, step by step, and whole pipelines end to end.

Two processes end in pure noise in diffusers, where ours keep alpha = 2^-12 of the picture: the straight path, whose
network is then asked at index 999.76 instead of 1000, and zero terminal SNR. There the first step is held to a looser
bound, and the path also compared from diffusers' own second state on, where no such excuse is left.
"""

import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddim_edit import ArgumentError, Model, find_solver, load_model, sample
from ddim_edit.diffusion.denoisers import GuidedNetwork, NetworkDenoiser
from ddim_edit.diffusion.grids import Grid
from ddim_edit.models.condition import Condition
from ddim_edit.models.devices import DeviceNetwork
from ddim_edit.models.diffusers_network import DiffusersNetwork, DiffusersUNet
from ddim_edit.models.unet.network import UNet

from ... import pipelines
from ...rounding import assert_alike
from ..host_tensors import HostTensors, on_meta
from .originals import CASES, ORIGINALS, PROMPT, Original, Run, by_prompt, flow, noise, walked

Runs = Callable[[str, Condition], tuple[Original, Run]]
# Diffusers' schedulers make arrays of tensors in a way that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
FAINT = 2**-8
"""What 2^-12 of a picture and a quarter of an index may make of a random network's answer, beside the largest."""
cases = pytest.mark.parametrize(("family", "condition"), CASES, ids=str)


@pytest.fixture(scope="module")
def runs(pipe_of: Callable[[str], Any]) -> Runs:
    """Each pipeline is run once for all tests."""
    return cache(lambda family, condition: (ORIGINALS[family], ORIGINALS[family].run(pipe_of(family), condition)))


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_every_family_has_an_original() -> None:
    assert set(ORIGINALS) == {*pipelines.LATENTS, *pipelines.PIXELS}


@cases
def test_outputs_equal_the_pipeline_at_every_step(
    models: Callable[[str], Model], runs: Runs, family: str, condition: Condition
) -> None:
    """At the pipeline's own states, with its own embeddings and guidance, which magnifies what was rounded."""
    model, (original, run) = models(family), runs(family, condition)
    levels = walked(model, original.grid(model.schedule))
    assert len(run.steps) == len(levels) - 1
    for number, (step, level) in enumerate(zip(run.steps, levels, strict=False)):
        shown = model.conditioned_on(condition)(original.ours(step.x, level), level)
        near = 1e-5 if number or original.exact_start else FAINT
        assert relative(original.said(shown, level), step.output) < near * max(1, condition.guidance_scale)


@cases
def test_samples_equal_the_pipeline(
    models: Callable[[str], Model], runs: Runs, family: str, condition: Condition
) -> None:
    model, (original, run) = models(family), runs(family, condition)
    grid = original.grid(model.schedule)
    levels, last = walked(model, grid), run.steps[-1].next
    first = model.schedule.level(grid.times[0])
    wanted = original.ours(last, first) / first.alpha

    def decoded(x: Tensor, start: int) -> Tensor:
        shorter = Grid(grid.name, grid.times[: len(grid.times) - start])
        return sample(model.conditioned_on(condition), (x,), model.schedule.spans(shorter), find_solver("ddim")).x0

    x0 = decoded(original.ours(run.steps[0].x, levels[0]), 0)
    near = 1e-4 if original.exact_start else FAINT
    assert relative(x0, wanted) < near
    assert relative(decoded(original.ours(run.steps[1].x, levels[1]), 1), wanted) < 1e-4
    # The pipelines decode what they end on, at the level where they end.
    pictures = model.codec.decode(x0 * first.alpha * original.scale(first)) / 2 + 0.5
    assert float((pictures.clamp(0, 1) - run.pictures).abs().max()) < near


@pytest.mark.parametrize("family", ORIGINALS)
def test_time_conditions_equal_the_schedulers_timesteps(
    models: Callable[[str], Model], runs: Runs, family: str
) -> None:
    model, (original, run) = models(family), runs(family, ORIGINALS[family].conditions[0])
    denoiser = model.conditioned_on(original.conditions[0])
    assert isinstance(denoiser, NetworkDenoiser)
    asked = [
        denoiser.parametrization.time_condition(level) for level in walked(model, original.grid(model.schedule))[:-1]
    ]
    assert [step.index for step in run.steps] == pytest.approx(asked, rel=1e-6 if original.exact_start else FAINT)
    assert [step.index for step in run.steps[1:]] == pytest.approx(asked[1:], rel=1e-6)


@pytest.mark.parametrize("family", [family for family, original in ORIGINALS.items() if len(original.conditions) > 1])
def test_conditions_matter(models: Callable[[str], Model], family: str) -> None:
    """Otherwise none of the above would say anything about them."""
    model = models(family)
    level = model.schedule.level(500)
    x = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answers = [model.conditioned_on(condition)(x, level).eps for condition in ORIGINALS[family].conditions]
    for number, answer in enumerate(answers):
        for other in answers[:number]:
            assert relative(answer, other) > 1e-3


OWN = {"ldm vq", "ldm kl", "cifar10", "celebahq", "flipped", "learned variances", "classes"}


@pytest.mark.parametrize("family", ORIGINALS)
def test_our_own_network_runs_wherever_it_can(models: Callable[[str], Model], family: str) -> None:
    denoiser = models(family).conditioned_on(ORIGINALS[family].conditions[0])
    assert isinstance(denoiser, NetworkDenoiser)
    assert isinstance(denoiser.network, DeviceNetwork)
    theirs = DiffusersNetwork if family.startswith(("dit", "stable diffusion 3", "flux")) else DiffusersUNet
    assert type(denoiser.network.network) is (UNet if family in OWN else theirs)


@pytest.mark.parametrize("t", [1, 37.5, 500, 1000])
def test_flow_time_condition_by_hand(models: Callable[[str], Model], pipe_of: Callable[[str], Any], t: float) -> None:
    """By hand: x' = (1 - tau) x0 + tau eps at index 1000 tau, also where our path ends short of diffusers'."""
    pipe, model = pipe_of("stable diffusion 3"), models("stable diffusion 3")
    x0, eps = (noise(1, *model.shape, seed=seed).double() for seed in (0, 1))
    level = model.schedule.level(t)
    tau = level.sigma / (level.alpha + level.sigma)
    with torch.no_grad():
        states, _, pooled, _ = pipe.encode_prompt("a photo", None, None)
        shown, index = ((1 - tau) * x0 + tau * eps).float(), torch.tensor([1000 * tau])
        wanted = pipe.transformer(shown, states, pooled, index).sample
    found = model.conditioned_on(Condition("a photo"))(level.alpha * x0 + level.sigma * eps, level)
    assert relative(flow(found, level), wanted) < 1e-5


@pytest.mark.parametrize("family", ["stable diffusion 1", "stable diffusion xl", "stable diffusion 3"])
def test_other_sizes_equal_the_pipeline(
    folders: Callable[[str], Path], pipe_of: Callable[[str], Any], family: str
) -> None:
    """Higher than wide or the other way round matters: Stable Diffusion XL is told."""
    model, original = load_model(folders(family), size=(32, 48)), ORIGINALS[family]
    assert (model.size, model.shape) == ((32, 48), (4, 16, 24))
    condition = Condition(PROMPT, guidance_scale=3.0)
    step = by_prompt(pipe_of(family), condition, (16, 24)).steps[1]
    level = walked(model, original.grid(model.schedule))[1]
    found = model.conditioned_on(condition)(original.ours(step.x, level), level)
    assert relative(original.said(found, level), step.output) < 1e-5


@pytest.mark.parametrize("family", ORIGINALS)
def test_networks_take_the_sizes_that_they_say_and_no_others(models: Callable[[str], Model], family: str) -> None:
    model = models(family)
    denoiser = model.conditioned_on(ORIGINALS[family].conditions[-1])
    factor, level = model.codec.factor, model.schedule.level(500)
    most = model.sizes.largest or 0
    for cells in [(8, 8), (9, 9), (10, 10), (12, 12), (12, 16), (most // factor, 8), (most // factor + 2, 8)]:
        if min(cells) < 8:
            continue  # a network without a largest size
        x = noise(1, model.shape[0], *cells).double()
        try:
            taken = denoiser(x, level).x0.shape == x.shape
        except (ArgumentError, RuntimeError, ValueError):
            taken = False
        assert taken == model.sizes.allows((cells[0] * factor, cells[1] * factor)), cells


WRONG_SIZES = {
    ("stable diffusion 1", (32, 33)): "in multiples of 2 pixels, not 33x32. The nearest are 32x32 and 34x32.",
    ("stable diffusion 3", (36, 38)): "in multiples of 4 pixels and at most 96 pixels high and wide, not 38x36. "
    "The nearest are 36x36 and 40x36.",
    ("stable diffusion 3", (32, 104)): "in multiples of 4 pixels and at most 96 pixels high and wide, not 104x32. "
    "The nearest is 96x32.",
    ("dit", (32, 40)): "square and in multiples of 4 pixels, not 40x32. The nearest are 32x32 and 40x40.",
    ("dit", (34, 34)): "square and in multiples of 4 pixels, not 34x34. The nearest are 32x32 and 36x36.",
    ("cifar10", (0, 16)): "in multiples of 8 pixels, not 16x0. The nearest is 16x8.",
}


@pytest.mark.parametrize(("family", "size"), WRONG_SIZES)
def test_wrong_sizes_are_refused_before_weights_are_read(
    folders: Callable[[str], Path], tmp_path: Path, family: str, size: tuple[int, int]
) -> None:
    folder = shutil.copytree(folders(family), tmp_path / "folder", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ArgumentError) as caught:
        load_model(folder, size=size)
    assert str(caught.value) == f"The size must be {WRONG_SIZES[family, size]}"


@pytest.mark.parametrize(("family", "size"), [("stable diffusion 3", 32), ("stable diffusion 3", 48), ("flux dev", 32)])
def test_dynamic_shifts_follow_the_size_of_the_image(
    folders: Callable[[str], Path], tmp_path: Path, pipe_of: Callable[[str], Any], family: str, size: int
) -> None:
    """As the pipeline computes mu from its tokens: at 48 pixels there are 24 x 24 cells, and 12 x 12 tokens."""
    pipe = pipe_of(family)
    shifting = {"use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 400, "max_shift": 1.5}
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **shifting)
    folder = shutil.copytree(folders(family), tmp_path / "model")
    pipe.scheduler.save_pretrained(folder / "scheduler")
    condition, original = Condition(PROMPT), ORIGINALS[family]
    cells = (size // 2, size // 2)
    run = by_prompt(pipe, condition, cells) if family == "stable diffusion 3" else original.run(pipe, condition)
    schedule = load_model(folder, size=size).schedule
    asked = [1000 * level.s / (1 + level.s) for level in map(schedule.level, original.grid(schedule).times[:0:-1])]
    assert [step.index for step in run.steps] == pytest.approx(asked, rel=FAINT)
    assert [step.index for step in run.steps[1:]] == pytest.approx(asked[1:], rel=1e-6)


@pytest.mark.parametrize("family", ["stable diffusion 3 with t5", "ldm vq"])
def test_a_folder_of_the_float16_variant_alone_is_read(
    pipe_of: Callable[[str], Any], tmp_path: Path, family: str
) -> None:
    """In float32, so that it is the network of the rounded weights."""
    pipe = pipe_of(family)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.half()
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    assert all(".fp16." in file.name for file in (tmp_path / "half").rglob("*.safetensors"))
    pipe.save_pretrained(tmp_path / "whole")
    half, whole = load_model(tmp_path / "half"), load_model(tmp_path / "whole")
    x, level = torch.ones(1, *half.shape, dtype=torch.float64), half.schedule.level(400)
    assert_alike(half.denoiser(x, level).eps, whole.denoiser(x, level).eps)
    assert_alike(half.codec.decode(x), whole.codec.decode(x))


@pytest.mark.parametrize("family", [family for family in ORIGINALS if family not in OWN])
def test_network_makes_no_host_tensors(models: Callable[[str], Model], family: str) -> None:
    model = models(family)
    told = model.conditioned_on(ORIGINALS[family].conditions[-1])
    assert isinstance(told, NetworkDenoiser)
    placed = told.network.network if isinstance(told.network, GuidedNetwork) else told.network
    assert isinstance(placed, DeviceNetwork)
    network = deepcopy(placed.network).to("meta")
    rows = {name: value.repeat_interleave(2 // len(value), 0) for name, value in placed.conditioning.items()}
    inputs = on_meta(x=torch.zeros(2, *model.shape), index=torch.zeros(2), **rows)
    with torch.inference_mode(), HostTensors() as host:
        network(**inputs)
        if isinstance(network, DiffusersUNet):
            _, h = network.read(**inputs)
            network.shifted(**inputs, shift=h)
    assert not host.made_by
