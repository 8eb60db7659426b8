from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddim_edit import Editor, InversionConfig, Model, make_grid, metrics
from ddim_edit.diffusion.solvers.registry import SOLVERS

from .measures import QUICK, as_tensor, max_error


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("exact", [False, True], ids=["plain", "exact"])
def test_reports_count_every_evaluation(model: Model, files: list[Path], solver: str, exact: bool) -> None:
    """Beside an independent count at the denoiser, picture by picture."""
    spent: list[int] = []
    editor = Editor(model, on_evaluation=spent.append)
    method = InversionConfig(solver, steps=4, exact=exact)
    latents = editor.invert(files[:2], method)
    assert sum(latent.report["nfe"] for latent in latents) == sum(spent)
    spent.clear()
    trip = editor.reconstruct(files[:2], method)
    assert sum(score["nfe"] for score in trip.scores) == sum(spent)
    assert all(score["nfe_in"] + score["nfe_out"] == score["nfe"] for score in trip.scores)
    spent.clear()
    editor.decode(trip.latents)
    assert sum(score["nfe_out"] for score in trip.scores) == sum(spent)


def test_pictures_that_have_converged_or_stalled_cost_nothing_more(model: Model, files: list[Path]) -> None:
    """A picture of one grey is a stiff case: the network's norms divide by a deviation of nearly nothing."""
    batches: list[int] = []
    editor = Editor(model, on_evaluation=batches.append)
    grey = torch.zeros(1, 3, 16, 16)
    latents = editor.invert(
        torch.cat([grey, as_tensor(files[:1])]), InversionConfig(steps=10, exact=True, dequantise=None)
    )
    assert [latent.report["converged"] for latent in latents] == [False, True]
    stalled, quick = (latent.report["nfe"] for latent in latents)
    assert batches == [2] * quick + [1] * (stalled - quick)
    assert latents[0].report["error"] > 1 / 255


def test_reports_are_json_and_tell_the_health_of_the_code(editor: Editor, files: list[Path]) -> None:
    latents = editor.invert(files, replace(QUICK, check=True))
    health = metrics.health(latents.x)
    decoded = editor.decode(latents)
    for index, latent in enumerate(latents):
        for name in ("mean", "std", "corr", "kurtosis", "norm"):
            assert latent.report[f"xt_{name}"] == pytest.approx(float(getattr(health, name)[index]), rel=1e-12)
        assert latent.report["error"] == pytest.approx(max_error(decoded[index], as_tensor(files)[index]), rel=1e-4)
        assert {type(value) for value in latent.report.values()} <= {float, int, bool}


def test_a_code_stands_at_the_end_of_its_grid(editor: Editor, files: list[Path]) -> None:
    for name in ("karras:7", "leading", "quad"):
        latent = editor.invert(files[0], InversionConfig("ddim", name, 5))
        grid = make_grid(name, editor.model.schedule, 5)
        assert latent.recipe.times == grid.times
        assert latent.t == grid.times[-1]
        assert latent.recipe.grid == grid.name


def test_the_recipe_names_the_model(editor: Editor, files: list[Path]) -> None:
    latent = editor.invert(files[0], QUICK)
    model, recipe = editor.model, latent.recipe
    assert (recipe.model, recipe.components, recipe.dtype) == (model.name, model.components, model.dtype)
    assert (recipe.prediction, recipe.schedule) == (model.prediction, model.schedule.description)


@pytest.mark.parametrize("solver", ["dpm2m", "ddim", "heun", "midpoint", "bdia"])  # the others amplify a last bit
def test_neither_batch_nor_order_moves_a_code(model: Model, files: list[Path], solver: str) -> None:
    method = InversionConfig(solver, steps=8)
    whole = Editor(model).invert(files, method)
    for size in (1, 2):
        shuffled = Editor(model, size).invert(files[::-1], method)
        for latent, other in zip(whole, reversed(shuffled), strict=True):
            assert latent.recipe == other.recipe
            assert max_error(latent.x, other.x) < 1e-5
    assert max_error(Editor(model, 2).decode(whole), Editor(model).decode(whole)) < 1e-5


def test_the_same_twice_is_the_same_bit_by_bit(editor: Editor, files: list[Path]) -> None:
    method = InversionConfig(steps=6, exact=True)
    first, second = editor.invert(files, method), editor.invert(files, method)
    assert torch.equal(first.x, second.x)
    assert [latent.report for latent in first] == [latent.report for latent in second]
    assert torch.equal(editor.decode(first), editor.decode(second))
    assert torch.equal(editor.sample(3), editor.sample(3))


def test_no_global_randomness_is_used_or_moved(editor: Editor, files: list[Path]) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = editor.reconstruct(files[:1], QUICK).decoded
    editor.sample(1, eta=1.0, config=QUICK)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(editor.reconstruct(files[:1], QUICK).decoded, first)
