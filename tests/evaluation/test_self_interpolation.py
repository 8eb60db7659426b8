"""The self-interpolation test: on a Gaussian, whose ODE has a closed form, and on a small model by hand."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import ArgumentError, Editor, InversionConfig, Model, NetworkDenoiser, NoiseSchedule
from ddim_edit.diffusion.denoisers import MixtureDenoiser
from ddim_edit.diffusion.noise import draw_mixed_noise
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


def sample(x: Tensor) -> Tensor:
    """Solvers take the last step, from t = 1, by the mean of x_0 given x_1."""
    first = SCHEDULE.level(1)
    gain = first.alpha * WIDTH**2 / (first.alpha**2 * WIDTH**2 + first.sigma**2)
    return MEAN + gain * (move(x, float(SCHEDULE.T), 1) - first.alpha * MEAN)


@pytest.mark.parametrize("solver", ["heun", "dpm2m"])
def test_on_a_gaussian_every_point_of_the_way_is_that_of_the_closed_form(gaussian: Editor, solver: str) -> None:
    config = InversionConfig(solver, steps=200)
    (round_trip,) = make_round_trips(gaussian, [solver], ["karras:14"], [200], config)
    fractions = [0.0, 0.3, 1.0]
    made = round_trip.self_interpolate([3, 4], fractions)
    true = gaussian.noise([3, 4], config).x
    images = sample(true)
    assert torch.equal(made.true, true)
    assert torch.allclose(made.images, images, rtol=0, atol=1e-5)
    # What is inverted is the image with its own seeded noise at t = 1.
    mixes = [latent.recipe.dequantise for latent in gaussian.invert(made.images, config)]
    first = SCHEDULE.level(1)
    noisy = first.alpha * images + first.sigma * draw_mixed_noise(mixes, (3, 16, 16))
    found = move(noisy, 1, float(SCHEDULE.T))
    assert torch.allclose(made.found, found, rtol=0, atol=1e-3)
    for w, decoded in zip(fractions, made.decoded, strict=True):
        assert torch.allclose(decoded, sample(slerp(true, found, w)), rtol=0, atol=1e-4)


def test_rows_are_the_scores_of_what_is_decoded_by_hand(editor: Editor) -> None:
    found = self_interpolate(editor, [3, 4, 5], ("ddim", "bdia"), steps=(4,), fractions=(0.5, 1.0))
    assert len(found.rows) == 2 * 3 * 2
    scorer = ImageScorer()
    for solver in ("ddim", "bdia"):
        config = InversionConfig(solver, steps=4)
        true = editor.noise([3, 4, 5], config)
        images = editor.decode(true).clamp(-1, 1)
        inverted = editor.invert(images, config)
        rows = [row for row in found.rows if row.setting == EvaluationSetting(solver, "karras:14", 4)]
        assert [row.seed for row in rows] == [3, 3, 4, 4, 5, 5]
        distances = (inverted.x - true.x).flatten(1).norm(dim=1) / true.x.flatten(1).norm(dim=1)
        assert [row.distance for row in rows[::2]] == pytest.approx(distances.tolist(), rel=1e-4)
        # At w = 1 the found latent is decoded as a sample is, its second state included.
        samples = [replace(latent, recipe=like.recipe) for latent, like in zip(inverted, true, strict=True)]
        scores = scorer(editor.decode(samples).clamp(-1, 1), images)
        for name in METRICS:
            assert [row.scores[name] for row in rows[1::2]] == pytest.approx(scores[name].tolist(), rel=1e-3)


def test_at_its_true_latent_an_image_comes_back_bit_by_bit(editor: Editor) -> None:
    for row in self_interpolate(editor, [3], ("ddim",), steps=(3,), fractions=(0.0,)).rows:
        assert (row.scores["mse"], row.scores["lpips"], row.scores["psnr"]) == (0, 0, None)


def test_a_baseline_is_tested_by_its_own_loop(gaussian: Editor) -> None:
    found = self_interpolate(gaussian, [3], (), steps=(20,), against=("diffusers",), fractions=(1.0,))
    (round_trip,) = make_round_trips(gaussian, [], [], [20], against=["diffusers"])
    true = gaussian.noise([3]).x
    images = round_trip.loop.decode(true.float(), 20).double().clamp(-1, 1)
    decoded = round_trip.loop.decode(round_trip.loop.encode(images.float(), 20), 20).double()
    (row,) = found.rows
    assert row.setting == EvaluationSetting("diffusers", "leading", 20)
    assert row.scores["mse"] == pytest.approx(float(mse(decoded.clamp(-1, 1), images)), rel=1e-4)


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
