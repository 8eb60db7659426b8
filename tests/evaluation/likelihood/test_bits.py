"""Bits per dimension: the scale of pixels, dequantisation, seeds and refusals."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddim_edit import Condition, Likelihood, LikelihoodConfig, Model, log_likelihood
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level
from ddim_edit.errors import ArgumentError, DDIMEditError, ModelError
from ddim_edit.evaluation.likelihood.bits import mean_and_error
from ddim_edit.images import to_float, to_uint8
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.codec.pixels import GreyCodec

from .closed_forms import DATA, DIM, SHAPE, GaussianDenoiser, model_of, randn

AS_IT_IS = LikelihoodConfig(dequantise=False, probes=None)


def isotropic(width: float, mean: float = 0.0, dim: int = DIM) -> GaussianDenoiser:
    one = torch.ones(dim, dtype=torch.float64)
    return GaussianDenoiser(mean * one, width * one, torch.diag(one))


def pixels(n: int, seed: int = 0) -> Tensor:
    """Pictures of 8-bit pixels around the middle of the scale."""
    return to_float(to_uint8(0.3 * randn(n, *SHAPE, seed=seed)))


def test_the_offset_is_that_of_grey_levels_a_unit_apart() -> None:
    """In grey levels a unit Gaussian is N(127.5, 127.5^2), whose density at its mean is 1 / (127.5 sqrt(2 pi))."""
    found = log_likelihood(model_of(isotropic(1)), torch.zeros(1, *SHAPE), AS_IT_IS)
    torch.testing.assert_close(found.bits.item(), math.log2(127.5 * math.sqrt(2 * math.pi)), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.nats.item(), -DIM * math.log(2 * math.pi) / 2, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", DATA)
def test_bits_of_closed_forms_are_right_to_three_digits(name: str) -> None:
    data = DATA[name]
    x0, steps = data.draw(4), 80 if name == "mixture" else 30
    expected = math.log2(127.5) - data.log_density(x0) / (DIM * math.log(2))
    whole = log_likelihood(model_of(data), x0, replace(AS_IT_IS, steps=steps))
    torch.testing.assert_close(whole.bits, expected, rtol=5e-4, atol=0)
    assert not whole.error.any()
    probed = log_likelihood(model_of(data), x0, replace(AS_IT_IS, steps=steps, probes=16))
    assert ((probed.bits - expected).abs() < 4 * probed.error + 5e-4 * expected).all()


def test_dequantised_bits_bound_those_of_the_discrete_model_from_above() -> None:
    """A Gaussian two grey levels wide, whose share of every level is known; there the bound is a tight one."""
    width = 2 / 127.5
    picture = to_float(torch.full((1, *SHAPE), 128).byte())
    normal = torch.distributions.Normal(0.0, torch.tensor(width).double())
    edges = picture[0, 0, 0, 0].double() + torch.tensor([-0.5, 0.5]).double() / 127.5
    discrete = -torch.log2(normal.cdf(edges[1]) - normal.cdf(edges[0]))
    found = [
        log_likelihood(model_of(isotropic(width)), picture, LikelihoodConfig(seed=seed)).bits.item()
        for seed in range(40)
    ]
    mean, error = mean_and_error(found)
    assert error is not None
    # By Jensen, half the variance of ln p within a level: here 1e-3 bits.
    assert -3 * error < mean - discrete < 3 * error + 3e-3


def first_x(seed: int, dequantise: bool) -> Tensor:
    """Where the walk of a grey picture begins."""
    seen = []

    def spy(x: Tensor, level: Level) -> Prediction:
        seen.append(x)
        return isotropic(1, dim=3 * 16 * 16)(x, level)

    picture = to_float(torch.full((1, 3, 16, 16), 100).byte())
    log_likelihood(model_of(spy, (3, 16, 16)), picture, LikelihoodConfig(1, seed=seed, dequantise=dequantise))
    return seen[0]


def test_dequantisation_is_even_over_each_pixels_own_grey_level() -> None:
    levels = (first_x(0, True) + 1) * 127.5 - 100
    assert levels.min() >= -0.5
    assert levels.max() < 0.5
    assert abs(levels.mean()) < 4 * math.sqrt(1 / 12 / levels.numel())
    torch.testing.assert_close(levels.var().item(), 1 / 12, rtol=0.1, atol=0)
    torch.testing.assert_close((first_x(0, False) + 1) * 127.5, torch.full((1, 3, 16, 16), 100.0).double())
    assert (first_x(1, True) - first_x(0, True)).abs().max() > 0.1 / 127.5


def test_neither_batch_nor_order_changes_a_picture_and_a_seed_does() -> None:
    model, pictures = model_of(DATA["correlated"]), pixels(5)
    told = LikelihoodConfig(steps=3)
    together = log_likelihood(model, pictures, told)
    alone = log_likelihood(model, pictures.flip(0), told, batch_size=2)
    torch.testing.assert_close(together.bits, alone.bits.flip(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(together.error, alone.error.flip(0), rtol=0, atol=1e-9)
    other = log_likelihood(model, pictures, replace(told, seed=1))
    assert (together.bits - other.bits).abs().min() > 1e-5


def test_what_it_cost_is_told_and_seen_as_it_happens() -> None:
    seen: list[int] = []
    found = log_likelihood(
        model_of(isotropic(0.5)), pixels(5), LikelihoodConfig(3, probes=4), batch_size=2, on_evaluation=seen.append
    )
    assert (found.nfe, found.probes, found.dim) == (3 * 4 * (1 + 4), 4, DIM)
    assert seen == [2] * found.nfe + [2] * found.nfe + [1] * found.nfe


def test_a_picture_may_stand_at_the_first_level() -> None:
    data = isotropic(0.02)
    found = log_likelihood(model_of(data), pixels(1) * 0.02, replace(AS_IT_IS, start=1))
    expected = data.log_density(pixels(1).double() * 0.02, model_of(data).schedule.s(1))
    torch.testing.assert_close(found.nats, expected, rtol=0, atol=1e-3 * DIM)


def test_a_condition_is_followed_guidance_included() -> None:
    class_0, class_1 = isotropic(0.3, 0.2), isotropic(0.3, -0.2)
    model = replace(model_of(class_0), conditioner=lambda told: (class_0, class_1)[told.label or 0])
    pictures = pixels(2)
    for label, data in enumerate((class_0, class_1)):
        ours = log_likelihood(model, pictures, LikelihoodConfig(5, condition=Condition(label=label)))
        torch.testing.assert_close(ours.bits, log_likelihood(model_of(data), pictures, LikelihoodConfig(5)).bits)


def test_a_model_of_grey_pictures_is_measured_in_grey_levels_and_takes_no_colour() -> None:
    grey = model_of(isotropic(0.5, dim=4), (1, 2, 2), codec=GreyCodec())
    picture = pixels(1)[:, :1].expand(-1, 3, -1, -1)
    found = log_likelihood(grey, picture, AS_IT_IS)
    assert found.dim == 4
    torch.testing.assert_close(
        found.nats, isotropic(0.5, dim=4).log_density(picture[:, :1].double()), rtol=0, atol=4e-3
    )
    with pytest.raises(ArgumentError, match="is a model of grey images"):
        log_likelihood(grey, pixels(1), AS_IT_IS)


class NoAutoencoder:
    """Stands for one; nothing of it is used before it is refused."""


def latent_model() -> Model:
    unused: Any = NoAutoencoder()
    codec = object.__new__(AutoencoderCodec)
    object.__setattr__(codec, "autoencoder", unused)
    return replace(model_of(isotropic(1)), codec=codec)


@pytest.mark.parametrize(
    ("model", "told", "kind", "words"),
    [
        (latent_model(), LikelihoodConfig(), ModelError, "diffuses the latents of an autoencoder"),
        (replace(model_of(isotropic(1)), dtype="mixed"), LikelihoodConfig(), ModelError, "Load it in float32"),
        (replace(model_of(isotropic(1)), dtype="tf32"), LikelihoodConfig(), ModelError, "computes in tf32"),
        (model_of(isotropic(1)), LikelihoodConfig(steps=0), ArgumentError, "at least 1 step"),
        (model_of(isotropic(1)), LikelihoodConfig(probes=1), ArgumentError, "at least 2 probes"),
        (model_of(isotropic(1)), LikelihoodConfig(start=1000), ArgumentError, "from a time in"),
        (
            model_of(isotropic(1)),
            LikelihoodConfig(condition=Condition(label=1)),
            ArgumentError,
            "closed form is unconditional",
        ),
    ],
)
def test_what_has_no_such_likelihood_is_refused(
    model: Model, told: LikelihoodConfig, kind: type[DDIMEditError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        log_likelihood(model, pixels(1), told)


def test_no_pictures_have_no_likelihood() -> None:
    with pytest.raises(ArgumentError, match="There are no images"):
        log_likelihood(model_of(isotropic(1)), pixels(0))


def test_errors_of_nats_are_those_of_bits_in_other_units() -> None:
    found = Likelihood(torch.tensor([-10.0]), torch.tensor([3.0]), 5, 2, 1)
    torch.testing.assert_close(found.bits, torch.tensor([math.log2(127.5) + 10 / 5 / math.log(2)]))
    torch.testing.assert_close(found.error, torch.tensor([3 / 5 / math.log(2)]))


def test_the_mean_over_pictures_has_the_error_of_a_mean() -> None:
    assert mean_and_error([1.0, 2.0, 3.0, 6.0]) == pytest.approx((3.0, math.sqrt(14 / 3 / 4)))
    assert mean_and_error([1.5]) == (1.5, None)
