"""The self-interpolation test: on a Gaussian, whose ODE has a closed form, and on a small model by hand."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import ArgumentError, Editor, InversionConfig, Model, NetworkDenoiser, NoiseSchedule
from ddim_edit.diffusion.denoisers import MixtureDenoiser
from ddim_edit.evaluation import EvaluationSetting, SelfInterpolation, make_round_trips, self_interpolate
from ddim_edit.images import read_recipe
from ddim_edit.latents.interpolation import slerp
from ddim_edit.metrics import METRICS, mse
from ddim_edit.metrics.registry import ImageScorer
from ddim_edit.models.codec.pixels import ColourCodec
from ddim_edit.plots import self_interpolation_curves

from . import closed_form

SCHEDULE = NoiseSchedule.linear()
WIDTH = 0.1
MEAN = 0.2 * closed_form.pictures(1)[0]


@pytest.fixture(scope="module")
def gaussian() -> Editor:
    """An editor on the exact denoiser of N(MEAN, WIDTH^2 I)."""
    one = torch.ones(1, dtype=torch.float64)
    exact = MixtureDenoiser(MEAN[None], WIDTH * one, one)

    def network(x: Tensor, index: Tensor) -> Tensor:
        return exact(x, SCHEDULE.level(float(index[0]) + 1)).eps

    denoiser = NetworkDenoiser(network, dtype=torch.float64)
    return Editor(Model(denoiser, ColourCodec(), SCHEDULE, (3, 16, 16), "gaussian", {}, "epsilon"))


def move(x: Tensor, start: float, end: float) -> Tensor:
    """The ODE of a Gaussian keeps how many of its standard deviations x is from its mean."""
    a, b = SCHEDULE.level(start), SCHEDULE.level(end)
    spread_a = (a.alpha**2 * WIDTH**2 + a.sigma**2) ** 0.5
    spread_b = (b.alpha**2 * WIDTH**2 + b.sigma**2) ** 0.5
    return b.alpha * MEAN + (x - a.alpha * MEAN) * spread_b / spread_a


@pytest.mark.parametrize("solver", ["heun", "dpm2m", "ddim", "bdia"])
def test_on_a_gaussian_the_true_latent_is_found(gaussian: Editor, solver: str) -> None:
    """To the order of the solver: errors of a second-order one are a quarter with twice the steps."""
    errors = []
    for steps in (40, 80):
        (round_trip,) = make_round_trips(gaussian, [solver], ["karras:14"], [steps])
        made = round_trip.self_interpolate([3, 4], [0.5])
        assert torch.equal(made.true, gaussian.noise([3, 4]).x)
        images = move(made.true, SCHEDULE.T, 1) / SCHEDULE.level(1).alpha
        errors.append(float((made.images - images).abs().max()))
        assert float((made.found - made.true).norm() / made.true.norm()) < 0.03
        assert float((made.decoded[0] - made.images).abs().max()) < 0.01
    assert errors[1] < (0.6 if solver == "ddim" else 0.35) * errors[0] < 0.02


@pytest.mark.parametrize("solver", ["heun", "dpm2m", "ddim"])
def test_on_a_gaussian_the_way_is_linear_however_few_the_steps(gaussian: Editor, solver: str) -> None:
    """Its denoiser is affine, and so is what solvers make of it: f(a x + b y) = a f(x) + b f(y) + (1 - a - b) f(0)."""
    (round_trip,) = make_round_trips(gaussian, [solver], ["karras:14"], [4])
    made = round_trip.self_interpolate([3], [0.3, 1.0])
    x, y = made.true.flatten(), made.found.flatten()
    assert 0.01 < float((x - y).norm() / x.norm()) < 1
    between = slerp(made.true, made.found, 0.3).flatten()
    a, b = torch.linalg.lstsq(torch.stack([x, y], 1), between[:, None]).solution.flatten()
    (latent,) = gaussian.noise([3], solver=solver, steps=4)
    times = gaussian.invert(MEAN, solver=solver, grid="karras:14", steps=4).recipe.times
    origin = replace(latent, x=torch.zeros_like(latent.x), recipe=replace(latent.recipe, times=times))
    expected = a * made.images + b * made.decoded[1] + (1 - a - b) * gaussian.decode(origin)
    assert torch.allclose(made.decoded[0], expected, rtol=0, atol=1e-9)


def test_rows_are_the_scores_of_what_is_decoded_by_hand(editor: Editor) -> None:
    found = self_interpolate(editor, [3, 4, 5], ("ddim", "bdia"), ("karras:14",), (4,), fractions=(0.5, 1.0))
    assert len(found.rows) == 2 * 3 * 2
    scorer = ImageScorer()
    for solver in ("ddim", "bdia"):
        config = InversionConfig(solver, "karras:14", steps=4, dequantise=None)
        true = editor.noise([3, 4, 5], config)
        times = config.make_grid(editor.model.schedule).times
        images = editor.decode([replace(each, recipe=replace(each.recipe, times=times)) for each in true])
        inverted = editor.invert(images, config)
        rows = [row for row in found.rows if row.setting == EvaluationSetting(solver, "karras:14", 4)]
        assert [row.seed for row in rows] == [3, 3, 4, 4, 5, 5]
        distances = (inverted.x - true.x).flatten(1).norm(dim=1) / true.x.flatten(1).norm(dim=1)
        assert [row.distance for row in rows[::2]] == pytest.approx(distances.tolist(), rel=1e-4)
        # At w = 1 it is the round trip, of which the second state is a part.
        scores = scorer(editor.decode(inverted).clamp(-1, 1), images.clamp(-1, 1))
        for name in METRICS:
            # Two states return to the very image, whose PSNR is infinite.
            for row, expected in zip(rows[1::2], scores[name].tolist(), strict=True):
                value = row.scores[name]
                assert (math.inf if value is None else value) == pytest.approx(expected, rel=1e-3, abs=1e-12)


def test_at_its_true_latent_an_image_comes_back_bit_by_bit(editor: Editor) -> None:
    for row in self_interpolate(editor, [3], ("ddim",), steps=(3,), fractions=(0.0,)).rows:
        assert (row.scores["mse"], row.scores["lpips"], row.scores["psnr"]) == (0, 0, None)


def test_a_baseline_is_tested_by_its_own_loop(gaussian: Editor) -> None:
    found = self_interpolate(gaussian, [3], (), steps=(20,), against=("diffusers",), fractions=(1.0,))
    (round_trip,) = make_round_trips(gaussian, [], [], [20], against=["diffusers"])
    true = gaussian.noise([3]).x
    images = round_trip.loop.decode(true.float(), 20).double()
    decoded = round_trip.loop.decode(round_trip.loop.encode(images.float(), 20), 20).double()
    (row,) = found.rows
    assert row.setting == EvaluationSetting("diffusers", "leading", 20)
    assert row.scores["mse"] == pytest.approx(float(mse(decoded.clamp(-1, 1), images.clamp(-1, 1))), rel=1e-4)


def test_the_workload_is_what_is_evaluated(editor: Editor) -> None:
    counted: list[int] = []
    counting = Editor(editor.model, 2, counted.append)
    for round_trip in make_round_trips(counting, ("heun", "dpm2m"), ("karras:14",), (3,)):
        counted.clear()
        round_trip.self_interpolate([1, 2], [0.5, 1.0])
        assert sum(counted) == 2 * round_trip.self_interpolation_workload(2).expected


@pytest.mark.parametrize(("seeds", "fractions"), [([], [0.5]), ([1], [])])
def test_nothing_to_test_is_refused(editor: Editor, seeds: list[int], fractions: list[float]) -> None:
    with pytest.raises(ArgumentError, match="at least one seed and one fraction"):
        self_interpolate(editor, seeds, ("ddim",), steps=(2,), fractions=fractions)


@pytest.fixture(scope="module")
def result(editor: Editor) -> SelfInterpolation:
    return self_interpolate(editor, [1, 2], ("ddim", "dpm2m"), steps=(2,))


def test_summaries_are_means_over_the_seeds(result: SelfInterpolation) -> None:
    assert [(each.setting.solver, each.w) for each in result.summaries] == [
        (solver, w) for solver in ("ddim", "dpm2m") for w in (0.25, 0.5, 0.75, 1.0)
    ]
    for summary in result.summaries:
        rows = [row for row in result.rows if (row.setting, row.w) == (summary.setting, summary.w)]
        assert summary.seeds == len(rows) == 2
        assert summary.distance.mean == pytest.approx(sum(row.distance for row in rows) / 2)
        score = summary.scores["mse"]
        assert score is not None
        assert score.mean == pytest.approx(sum(row.scores["mse"] or 0 for row in rows) / 2)


def test_the_files_hold_rows_means_and_the_table(result: SelfInterpolation, tmp_path: Path) -> None:
    result.save(tmp_path)
    with (tmp_path / "self-interpolation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lpips"]) for row in rows] == [row.scores["lpips"] for row in result.rows]
    assert [int(row["seed"]) for row in rows[::4]] == [1, 2, 1, 2]
    assert json.loads((tmp_path / "self-interpolation.json").read_text()) == result.to_json()
    table = (tmp_path / "self-interpolation.md").read_text()
    assert table == result.markdown() + "\n"
    assert "| ddim karras:14" in table
    assert "| PSNR at 0.75" in table


def test_the_plot_has_the_recipe(result: SelfInterpolation, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    self_interpolation_curves(result, tmp_path / "plot.png", {"kind": "x"})
    assert read_recipe(tmp_path / "plot.png") == {"kind": "x"}
    with pytest.raises(ArgumentError, match="has no rows"):
        self_interpolation_curves(SelfInterpolation((), {}), tmp_path / "plot.png")
