"""`load_model` of every family beside diffusers: the networks, step by step, and whole pipelines end to end.

Two processes end in pure noise in diffusers, where ours keep 2^-12 of the picture: the straight path and zero terminal
SNR. Of these the first step is compared to 2^-11, and the rest of the path from diffusers' own second state on.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ddim_edit import Model, find_solver, sample
from ddim_edit.backends.adapted import Adapted, AdaptedUNet
from ddim_edit.backends.placed import Placed
from ddim_edit.backends.unet import UNet
from ddim_edit.condition import Condition
from ddim_edit.denoise import GuidedDenoiser, NetworkDenoiser
from ddim_edit.schedule import Grid

from ... import pipelines
from .originals import CASES, ORIGINALS, Original, Run, walked

Runs = Callable[[str, Condition], tuple[Original, Run]]
# Diffusers' schedulers make arrays of tensors in a way that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
cases = pytest.mark.parametrize(("family", "condition"), CASES, ids=str)


@pytest.fixture
def runs(pipe_of: Callable[[str], Any]) -> Runs:
    return lambda family, condition: (ORIGINALS[family], ORIGINALS[family].run(pipe_of(family), condition))


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_every_family_has_an_original() -> None:
    assert set(ORIGINALS) == {*pipelines.LATENTS, *pipelines.PIXELS}


@cases
def test_a_network_answers_as_in_the_pipeline_at_every_step(
    models: Callable[[str], Model], runs: Runs, family: str, condition: Condition
) -> None:
    """At the pipeline's own states, with its own embeddings and guidance."""
    model, (original, run) = models(family), runs(family, condition)
    levels = walked(model, original.grid(model.schedule))
    assert len(run.steps) == len(levels) - 1
    for number, (step, level) in enumerate(zip(run.steps, levels, strict=False)):
        shown = model.under(condition)(original.ours(step.x, level), level)
        exact = number or original.exact_start
        assert relative(original.said(shown, level), step.output) < (1e-5 if exact else 2**-11)


@cases
def test_sampling_is_the_pipeline_from_the_same_noise(
    models: Callable[[str], Model], runs: Runs, family: str, condition: Condition
) -> None:
    model, (original, run) = models(family), runs(family, condition)
    grid = original.grid(model.schedule)
    levels, last = walked(model, grid), run.steps[-1].next
    first = model.schedule.level(grid.times[0])
    wanted = original.ours(last, first) / first.alpha

    def decoded(x: Tensor, start: int) -> Tensor:
        shorter = Grid(grid.name, grid.times[: len(grid.times) - start])
        return sample(model.under(condition), (x,), model.schedule.spans(shorter), find_solver("ddim")).x0

    x0 = decoded(original.ours(run.steps[0].x, levels[0]), 0)
    assert relative(x0, wanted) < (1e-4 if original.exact_start else 2**-11)
    assert relative(decoded(original.ours(run.steps[1].x, levels[1]), 1), wanted) < 1e-4
    # The pipelines decode what they end on, at the level where they end.
    pictures = model.codec.decode(x0 * first.alpha * original.scale(first)) / 2 + 0.5
    assert float((pictures.clamp(0, 1) - run.pictures).abs().max()) < (1e-4 if original.exact_start else 2**-11)


@pytest.mark.parametrize("family", ORIGINALS)
def test_the_walks_visit_the_indices_that_the_scheduler_does(
    models: Callable[[str], Model], runs: Runs, family: str
) -> None:
    model, (original, run) = models(family), runs(family, ORIGINALS[family].conditions[0])
    shift = 0 if original.said.__name__ == "flow" else 1
    times = original.grid(model.schedule).times[:0:-1]
    assert [step.index + shift for step in run.steps] == pytest.approx(times, rel=1e-6)


@pytest.mark.parametrize("family", [family for family, original in ORIGINALS.items() if len(original.conditions) > 1])
def test_conditions_matter(models: Callable[[str], Model], family: str) -> None:
    """Otherwise none of the above would say anything about them."""
    model = models(family)
    level = model.schedule.level(500)
    x = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answers = [model.under(condition)(x, level).eps for condition in ORIGINALS[family].conditions]
    for number, answer in enumerate(answers):
        for other in answers[:number]:
            assert relative(answer, other) > 1e-3


OWN = {"ldm vq", "ldm kl", "cifar10", "celebahq", "flipped", "learned variances", "classes"}


@pytest.mark.parametrize("family", ORIGINALS)
def test_our_own_network_runs_wherever_it_can(models: Callable[[str], Model], family: str) -> None:
    denoiser = models(family).under(ORIGINALS[family].conditions[0])
    assert isinstance(denoiser, NetworkDenoiser)
    assert isinstance(denoiser.network, Placed)
    transformer = family == "dit" or family.startswith("stable diffusion 3")
    kind = UNet if family in OWN else Adapted if transformer else AdaptedUNet
    assert type(denoiser.network.network) is kind


@pytest.mark.parametrize("family", pipelines.LATENTS)
def test_another_size_in_pixels_is_another_shape(
    folders: Callable[[str], Any], pipe_of: Callable[[str], Any], family: str
) -> None:
    from ddim_edit import load_model

    model = load_model(folders(family), size=(32, 40))
    assert model.size == (32, 40)
    assert model.shape == (pipelines_channels(model), 16, 20)


def pipelines_channels(model: Model) -> int:
    return model.shape[0]
