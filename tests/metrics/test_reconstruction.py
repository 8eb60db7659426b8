import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit import metrics
from ddim_edit.diffusion.integration import Inversion, RoundTripCheck
from ddim_edit.images import to_float
from ddim_edit.latents.provenance import Recipe
from ddim_edit.metrics import ImageScorer, identical_pixels
from ddim_edit.metrics.reconstruction import InversionBatch, score_batch

SHAPE = (3, 16, 16)


def randn(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recipe(seed: int) -> Recipe:
    return Recipe("toy", {}, {}, "epsilon", "float32", "ddim", "quad", (0.0, 3.0, 9.0), ((seed, 1.0),))


def inversion(*parts: torch.Tensor) -> Inversion:
    batch = len(parts[0])
    nfe, residual = torch.arange(10, 10 + batch), torch.linspace(0, 1, batch, dtype=torch.float64)
    decoded = torch.arange(3, 3 + batch)
    trip = RoundTripCheck(parts[0], decoded, residual / 7, torch.ones(batch, dtype=torch.int64))
    return Inversion(parts, nfe, residual, residual < 0.5, trip)


def trip_of(originals: torch.Tensor, decoded: torch.Tensor) -> InversionBatch:
    return InversionBatch(originals, inversion(randn(len(originals), 9)), decoded)


def test_each_latent_gets_its_own_row_of_everything() -> None:
    x, delta = randn(2), randn(2, 1)
    latents = InversionBatch(x, inversion(x, delta), x).latents([recipe(5), recipe(6)])
    for index, latent in enumerate(latents):
        assert torch.equal(latent.x, x[index])
        assert latent.delta is not None
        assert torch.equal(latent.delta, delta[index])
        assert latent.t == 9.0
        assert latent.recipe == recipe(5 + index)
    assert [latent.report["nfe"] for latent in latents] == [10, 11]
    assert [latent.report["converged"] for latent in latents] == [True, False]
    assert [latent.report["error"] for latent in latents] == [0, 1 / 7]
    assert [latent.report["rounds"] for latent in latents] == [1, 1]


def test_one_state_leaves_no_delta_and_no_check_no_error() -> None:
    found = inversion(randn(1))._replace(check=None)
    (latent,) = InversionBatch(randn(1), found, None).latents([recipe(0)])
    assert latent.delta is None
    assert not {"error", "rounds"} & set(latent.report)


def test_reports_hold_the_health_of_x() -> None:
    x = randn(2)
    health = metrics.health(x)
    for index, latent in enumerate(InversionBatch(x, inversion(x), None, None, health).latents([recipe(0)] * 2)):
        for name in ("mean", "std", "corr", "kurtosis", "norm"):
            assert latent.report[f"xt_{name}"] == float(getattr(health, name)[index])


def test_what_is_not_finite_is_none_so_that_json_can_say_it() -> None:
    x = torch.stack([torch.full(SHAPE, torch.nan, dtype=torch.float64), torch.zeros(SHAPE, dtype=torch.float64)])
    inverted = InversionBatch(x, inversion(x), None, None, metrics.health(x))
    reports = [latent.report for latent in inverted.latents([recipe(0)] * 2)]
    assert [report["xt_mean"] for report in reports] == [None, 0]
    assert [report["xt_corr"] for report in reports] == [None, None]
    json.dumps([dict(report) for report in reports], allow_nan=False)


def test_scores_are_the_metrics_picture_by_picture() -> None:
    a, b = randn(3).clamp(-1, 1), randn(3, 1).clamp(-1, 1)
    rows = score_batch(trip_of(a, b), metrics.ImageScorer())
    for name, metric in metrics.METRICS.items():
        assert [row[name] for row in rows] == pytest.approx(metric.make("cpu")(a, b).tolist(), rel=1e-5)
    assert [(row["nfe_in"], row["nfe_out"]) for row in rows] == [(7, 3), (7, 4), (7, 5)]


def test_what_is_clipped_when_written_makes_no_score_worse() -> None:
    """Black that overshoots is black: all pixels identical do not go with a PSNR of 34."""
    black = torch.full((1, *SHAPE), -1.0, dtype=torch.float64)
    noise = torch.rand(black.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    below, within = black - 0.08 * noise, black + 0.9 / 255 * (2 * noise - 1)
    (row,) = score_batch(trip_of(black, below), ImageScorer())
    assert (row["psnr"], row["mse"], row["lpips"], row["identical_pixels"]) == (None, 0, 0, 1)
    (row,) = score_batch(trip_of(black, within), ImageScorer())
    assert row["identical_pixels"] == 1
    assert row["psnr"] > 54.1  # half a level everywhere
    batch = trip_of(black, below)._replace(coded=below)
    assert score_batch(batch, ImageScorer())[0]["codec_psnr"] is None


def test_equal_pictures_have_no_finite_psnr() -> None:
    a = randn(1).clamp(-1, 1)
    (row,) = score_batch(trip_of(a, a), ImageScorer())
    assert row["psnr"] is None
    assert (row["mse"], row["lpips"], row["identical_pixels"]) == (0, 0, 1)
    assert row["ssim"] == pytest.approx(1)


@given(st.integers(0, 256), st.integers(0, 99))
def test_identical_pixels_are_counted(changed: int, seed: int) -> None:
    """A pixel counts only if all three of its channels have their level, and a third of a level is nothing."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(1, 255, (1, *SHAPE), generator=generator, dtype=torch.uint8)
    b = a.clone()
    places = torch.randperm(256, generator=generator)[:changed]
    channel = int(torch.randint(3, (), generator=generator))
    b[0, channel, places // 16, places % 16] += 1
    shift = (torch.rand(1, *SHAPE, generator=generator) - 0.5) * (2 / 255) * 0.6
    fraction = identical_pixels(to_float(a).double(), to_float(b).double() + shift)
    assert math.isclose(float(fraction[0]), 1 - changed / 256)
