import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kurtosis

from ddim_edit.errors import ArgumentError
from ddim_edit.metrics import health, patch_std

LARGE = (2, 3, 256, 256)
ERROR = 6 / math.sqrt(3 * 256 * 256)
"""Six standard errors of a mean over a latent of this size."""


def noise(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def autoregressive(shape: tuple[int, ...], rho_down: float, rho_across: float) -> torch.Tensor:
    """A Gaussian field of unit variance whose neighbours correlate by exactly these two numbers: A z B^T."""

    def factor(size: int, rho: float) -> torch.Tensor:
        lags = torch.arange(size, dtype=torch.float64)
        return torch.linalg.cholesky(rho ** (lags[:, None] - lags).abs())

    return factor(shape[-2], rho_down) @ noise(shape) @ factor(shape[-1], rho_across).mT


def test_white_noise_is_healthy() -> None:
    found = health(noise(LARGE))
    assert found.mean.tolist() == pytest.approx([0, 0], abs=ERROR)
    assert found.std.tolist() == pytest.approx([1, 1], abs=ERROR)
    assert found.corr.tolist() == pytest.approx([0, 0], abs=ERROR)
    assert found.kurtosis.tolist() == pytest.approx([3, 3], abs=5 * ERROR)
    assert found.norm.tolist() == pytest.approx([1, 1], abs=ERROR)
    assert found.mean.dtype == torch.float64


@pytest.mark.parametrize("shape", [(100, 3, 64, 64), (100, 4, 32, 32), (100, 16, 16, 16), (20, 4, 128, 96)])
def test_no_noise_deviates(shape: tuple[int, ...]) -> None:
    assert (health(noise(shape)).deviation < 1).all()


@pytest.mark.parametrize("name", ["low", "middle", "high"])
def test_bands_are_those_of_the_spectrum(name: str) -> None:
    """The spectrum of an autoregressive field is (1 - rho^2) / (1 - 2 rho cos w + rho^2) in each direction."""
    rho = torch.tensor([0.5, -0.3], dtype=torch.float64)
    w = 2 * math.pi * torch.fft.fftfreq(256, dtype=torch.float64)
    down, across = ((1 - r**2) / (1 - 2 * r * w.cos() + r**2) for r in rho)
    radius = torch.hypot(w[:, None], w) / math.pi
    low, high = {"low": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "high": (2 / 3, 2.0)}[name]
    wanted = (down[:, None] * across)[(radius > low) & (radius <= high)].mean().item()
    found = getattr(health(autoregressive(LARGE, 0.5, -0.3)), name)
    assert found.tolist() == pytest.approx([wanted] * 2, rel=0.04)


def test_a_quiet_patch_is_found() -> None:
    x = noise((1, 3, 64, 64))
    x[..., 16:24, 40:48] *= 0.34
    x *= 1.05 / x.std()
    found = health(x)
    stds = patch_std(x)[0]
    assert found.patch_low.item() == stds[2, 5].item() == pytest.approx(x[..., 16:24, 40:48].std(correction=0).item())
    assert found.deviation.item() > 1 > health(noise((1, 3, 64, 64))).deviation.item()


def test_latents_of_any_size_are_cut_into_about_equal_patches() -> None:
    stds = patch_std(noise((1, 3, 60, 9)))
    assert stds.shape == (1, 8, 2)
    assert ((stds - 1).abs() < 0.4).all()


@pytest.mark.parametrize(("down", "across"), [(0.5, 0.5), (0.9, 0.1), (0.0, -0.6)])
def test_an_autoregressive_field_has_the_mean_of_its_correlations(down: float, across: float) -> None:
    found = health(autoregressive(LARGE, down, across))
    assert found.corr.tolist() == pytest.approx([(down + across) / 2] * 2, abs=4 * ERROR)


def test_uniform_noise_has_kurtosis_nine_fifths() -> None:
    uniform = torch.rand(LARGE, generator=torch.Generator().manual_seed(1))
    found = health(uniform)
    assert found.kurtosis.tolist() == pytest.approx([1.8, 1.8], abs=ERROR)
    assert found.std.tolist() == pytest.approx([12**-0.5] * 2, abs=ERROR)
    assert found.norm.tolist() == pytest.approx([3**-0.5] * 2, abs=ERROR)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(2, 7), st.integers(2, 7))
def test_every_figure_equals_numpy_and_scipy(seed: int, c: int, h: int, w: int) -> None:
    x = noise((2, c, h, w), seed)
    found = health(x)
    for index, latent in enumerate(x.numpy()):
        across = np.corrcoef(latent[:, :, :-1].ravel(), latent[:, :, 1:].ravel())[0, 1]
        down = np.corrcoef(latent[:, :-1].ravel(), latent[:, 1:].ravel())[0, 1]
        assert found.mean[index].item() == pytest.approx(latent.mean(), abs=1e-12)
        assert found.std[index].item() == pytest.approx(latent.std(), rel=1e-12)
        assert found.corr[index].item() == pytest.approx((across + down) / 2, abs=1e-10)
        assert found.kurtosis[index].item() == pytest.approx(kurtosis(latent.ravel(), fisher=False), rel=1e-10)
        assert found.norm[index].item() == pytest.approx(np.linalg.norm(latent) / latent.size**0.5, rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_shape_does_not_depend_on_scale_or_place(scale: float, shift: float) -> None:
    x = noise((1, 3, 8, 8))
    plain, moved = health(x), health(scale * x + shift)
    assert moved.mean.item() == pytest.approx(scale * plain.mean.item() + shift, abs=1e-9)
    assert moved.std.item() == pytest.approx(scale * plain.std.item(), rel=1e-9)
    assert moved.corr.item() == pytest.approx(plain.corr.item(), abs=1e-9)
    assert moved.kurtosis.item() == pytest.approx(plain.kurtosis.item(), rel=1e-9)


def test_a_chequerboard_is_perfectly_anticorrelated() -> None:
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    found = health(board[None, None])
    assert found.corr.item() == pytest.approx(-1)
    assert found.kurtosis.item() == pytest.approx(1)


def test_one_row_has_horizontal_neighbours_only() -> None:
    row = torch.tensor([1.0, 4.0, 2.0, 8.0, 5.0, 7.0])
    expected = np.corrcoef(row[:-1], row[1:])[0, 1]
    assert health(row[None, None, None]).corr.item() == pytest.approx(expected)
    assert health(row[None, None, :, None]).corr.item() == pytest.approx(expected)


def test_what_is_undefined_is_nan() -> None:
    constant = health(torch.full((1, 1, 4, 4), 2.0))
    assert constant.corr.isnan()
    assert constant.kurtosis.isnan()
    assert (constant.mean.item(), constant.std.item(), constant.norm.item()) == (2, 0, 2)
    assert health(noise((1, 3, 1, 1))).corr.isnan()


def test_a_latent_without_its_batch_dimension_is_refused() -> None:
    with pytest.raises(ArgumentError, match="Add the batch dimension"):
        health(torch.zeros(3, 8, 8))
