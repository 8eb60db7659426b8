"""What is shown at every step: against diffusers' scheduler, the formula and the images themselves."""

from pathlib import Path

import diffusers
import pytest
import torch
from scipy import stats
from torch import Tensor

from ddim_edit import NoiseSchedule
from ddim_edit.images import to_float
from ddim_edit.training import Batch, BatchSampler, BatchShare, DiffusionLoss, ImageFolder, ValidationBatch

from .conftest import SIZE


@pytest.fixture
def images(discs: Path) -> ImageFolder:
    return ImageFolder.read(discs, SIZE)


def batches(images: ImageFolder, flip: bool = False, seed: int = 0, batch_size: int = 4) -> BatchSampler:
    return BatchSampler(images, batch_size, flip, 1000, seed)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(*pair) for pair in zip(a, b, strict=True))


def test_epochs_are_permutations_of_all_images(images: ImageFolder) -> None:
    make = batches(images)
    epochs = [torch.cat([make(3 * epoch + step, range(4)).x0 for step in (1, 2, 3)]) for epoch in range(3)]
    whole = to_float(images.pixels)
    orders = [[next(row for row in range(12) if torch.equal(whole[row], each)) for each in epoch] for epoch in epochs]
    assert [sorted(order) for order in orders] == [list(range(12))] * 3
    assert orders[0] != orders[1] != orders[2]


def test_rows_do_not_depend_on_processes_and_parts(images: ImageFolder) -> None:
    whole = batches(images, flip=True, batch_size=8)(7, range(8))
    for processes, accumulate in ((1, 1), (2, 1), (1, 4), (2, 2), (4, 2)):
        parts = [
            batches(images, flip=True, batch_size=8)(7, BatchShare(rank, processes, accumulate).rows(8, part))
            for part in range(accumulate)
            for rank in range(processes)
        ]
        assert same(Batch(*map(torch.cat, zip(*parts, strict=True))), whole)


def test_seeds_give_different_batches(images: ImageFolder) -> None:
    first, other = (batches(images, seed=seed)(1, range(4)) for seed in (0, 1))
    assert not any(torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_times_are_uniform_and_noise_is_normal(images: ImageFolder) -> None:
    shown = batches(images, batch_size=2000)(1, range(2000))
    assert stats.kstest(shown.indices.numpy() / 1000, "uniform").pvalue > 0.01
    assert shown.indices.min() >= 0
    assert shown.indices.max() <= 999
    assert stats.kstest(shown.noise[:100].flatten().numpy(), "norm").pvalue > 0.01


def test_flip_mirrors_half_of_the_images(images: ImageFolder) -> None:
    plain, flipped = (batches(images, flip, batch_size=400)(1, range(400)).x0 for flip in (False, True))
    mirrored = [not torch.equal(*pair) for pair in zip(plain, flipped, strict=True)]
    assert 160 < sum(mirrored) < 240
    for a, b, turned in zip(plain, flipped, mirrored, strict=True):
        assert torch.equal(a.flip(-1) if turned else a, b)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_loss_matches_its_formula(images: ImageFolder, prediction: str) -> None:
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction)
    batch = batches(images)(1, range(4))
    schedule = NoiseSchedule.linear()
    levels = [schedule.level(index + 1) for index in batch.indices.tolist()]
    alpha, sigma = (
        torch.tensor([getattr(level, name) for level in levels], dtype=torch.float64) for name in ("alpha", "sigma")
    )
    alpha, sigma = (each.view(4, 1, 1, 1) for each in (alpha, sigma))
    targets = {
        "epsilon": batch.noise,
        "sample": batch.x0,
        "v_prediction": alpha * batch.noise - sigma * batch.x0,
    }

    def network(x: Tensor, index: Tensor, return_dict: bool) -> tuple[Tensor]:
        torch.testing.assert_close(x.double(), alpha * batch.x0 + sigma * batch.noise, atol=1e-5, rtol=0)
        assert torch.equal(index, batch.indices)
        return (0.5 * x,)

    answer = 0.5 * (alpha * batch.x0 + sigma * batch.noise)
    wanted = (answer - targets[prediction]).square().mean((1, 2, 3))
    torch.testing.assert_close(DiffusionLoss(scheduler)(network, batch).double(), wanted, atol=1e-5, rtol=0)


def test_validation_batch_is_fixed_and_spread_over_all_levels(images: ImageFolder) -> None:
    one, other = (ValidationBatch.of(images, 1000, seed=3, least=100).batch for _ in range(2))
    assert same(one, other)
    assert len(one.indices) == 108  # nine times each of the twelve
    cells = (one.indices * 108 // 1000).tolist()
    assert all(abs(cell - want) <= 1 for cell, want in zip(sorted(cells), range(108), strict=True))
    assert torch.equal(one.x0, to_float(images.pixels).repeat(9, 1, 1, 1))


def test_validation_loss_of_zeros_is_the_mean_square_of_the_noise(images: ImageFolder) -> None:
    validation = ValidationBatch.of(images, 1000, seed=0, least=24)
    loss, device = DiffusionLoss(diffusers.DDPMScheduler()), torch.device("cpu")

    def zeros(x: Tensor, index: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (torch.zeros_like(x),)

    for chunk in (1, 7, 100):
        found = validation.mean_loss(zeros, loss, device, chunk)
        assert found == pytest.approx(float(validation.batch.noise.double().square().mean()), rel=1e-6)
