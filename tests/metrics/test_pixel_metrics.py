import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from ddim_edit.errors import ArgumentError
from ddim_edit.metrics import mse, psnr, ssim

SEEDS = st.integers(0, 2**31)
SHAPES = [(3, 3, 11, 11), (2, 3, 12, 40), (2, 3, 64, 64)]


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth pictures in [-1, 1] and noisy ones beside them, each noisier than the one before."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(shape, generator=generator).cumsum(-1).cumsum(-2).div(20).sin()
    scale = torch.linspace(0.02, 0.5, shape[0])[:, None, None, None]
    return a, (a + scale * torch.randn(shape, generator=generator)).clamp(-1, 1)


def as_unit_array(x: Tensor) -> np.ndarray:
    return ((x.double() + 1) / 2).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_mse_and_psnr_equal_scikit_image(shape) -> None:
    a, b = pair(shape)
    pairs = list(zip(as_unit_array(a), as_unit_array(b), strict=True))
    expected_mse = [mean_squared_error(x, y) for x, y in pairs]
    expected_psnr = [peak_signal_noise_ratio(x, y, data_range=1) for x, y in pairs]
    assert mse(a, b).tolist() == pytest.approx(expected_mse, rel=1e-12)
    assert psnr(a, b).tolist() == pytest.approx(expected_psnr, rel=1e-12)
    assert mse(a, b).dtype == torch.float64


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_equals_scikit_image(shape) -> None:
    a, b = pair(shape)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2}
    pairs = zip(as_unit_array(a), as_unit_array(b), strict=True)
    expected = [structural_similarity(x, y, data_range=1, **options) for x, y in pairs]
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_ssim_equals_torchmetrics_where_no_border_is_mirrored(shape) -> None:
    a, b = ((x.double() + 1) / 2 for x in pair(shape))
    _, every_place = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none", return_full_image=True)
    expected = every_place[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    assert ssim(2 * a - 1, 2 * b - 1).tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def test_ssim_of_constants_is_its_luminance_term() -> None:
    a, b = torch.full((1, 3, 16, 16), -0.2), torch.full((1, 3, 16, 16), 0.6)
    expected = (2 * 0.4 * 0.8 + 1e-4) / (0.4**2 + 0.8**2 + 1e-4)
    assert ssim(a, b).item() == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_laws(seed: int) -> None:
    a, b = pair((2, 3, 16, 13), seed)
    assert psnr(a, b).tolist() == pytest.approx((-10 * mse(a, b).log10()).tolist(), rel=1e-12)
    assert ssim(a, a).tolist() == pytest.approx([1.0, 1.0], abs=1e-12)
    assert ssim(a, b).tolist() == pytest.approx(ssim(b, a).tolist(), abs=1e-12)
    assert (ssim(a, b) < 1).all()
    assert mse(a, b).tolist() == mse(b, a).tolist()


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.permutations(range(3)))
def test_no_picture_depends_on_its_neighbours(seed: int, order: list[int]) -> None:
    a, b = pair((3, 3, 12, 12), seed)
    for metric in (mse, psnr, ssim):
        assert metric(a[order], b[order]).tolist() == pytest.approx(metric(a, b)[order].tolist(), rel=1e-12)


def test_the_scale_is_that_of_unit_pictures() -> None:
    black, white = -torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    assert mse(black, white).item() == 1
    assert psnr(black, white).item() == 0
    assert psnr(white, white).item() == math.inf


@pytest.mark.parametrize("metric", [mse, psnr, ssim])
@pytest.mark.parametrize("shapes", [((2, 3, 9, 9), (1, 3, 9, 9)), ((3, 9, 9),) * 2, ((2, 4, 9, 9),) * 2])
def test_pictures_that_do_not_pair_up(metric, shapes) -> None:
    with pytest.raises(ArgumentError, match="two batches of images of one shape"):
        metric(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_ssim_refuses_pictures_smaller_than_its_window() -> None:
    with pytest.raises(ArgumentError, match="at least 11x11"):
        ssim(torch.zeros(1, 3, 10, 64), torch.zeros(1, 3, 10, 64))
