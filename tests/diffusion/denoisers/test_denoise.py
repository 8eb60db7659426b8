import math
from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.diffusion.denoisers import (
    ClippedDenoiser,
    GuidedDenoiser,
    GuidedNetwork,
    GuidedPair,
    MixtureDenoiser,
    NetworkDenoiser,
    ProgressDenoiser,
)
from ddim_edit.diffusion.parametrization import (
    PREDICTION_TYPES,
    DDPMParametrization,
    FlowParametrization,
    Parametrization,
    from_x0,
)
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.errors import ArgumentError

LINEAR = NoiseSchedule.linear()
TIMES = st.floats(1, 1000)
SEEDS = st.integers(0, 2**31)
# What each kind of network answers where the truth is known.
OUTPUTS: dict[str, Callable[[Tensor, Tensor, Level], Tensor]] = {
    "epsilon": lambda x0, eps, level: eps,
    "sample": lambda x0, eps, level: x0,
    "v_prediction": lambda x0, eps, level: level.alpha * eps - level.sigma * x0,
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(seed: int = 0, shape: tuple[int, ...] = (1, 2, 2)) -> MixtureDenoiser:
    widths, weights = randn(3, seed=seed).exp() / 3, randn(3, seed=seed + 1).exp()
    return MixtureDenoiser(randn(3, *shape, seed=seed + 2), widths, weights)


def log_density(data: MixtureDenoiser, x: Tensor, level: Level) -> Tensor:
    """Of x = alpha x0 + sigma eps [B, ...], written with torch's own distributions."""
    deviation = (level.alpha**2 * data.widths**2 + level.sigma**2).sqrt()[:, None].expand(-1, x[0].numel())
    rows = torch.distributions.Normal(level.alpha * data.means.flatten(1), deviation)
    components = torch.distributions.Independent(rows, 1)
    weights = torch.distributions.Categorical(data.weights)
    density: Tensor = torch.distributions.MixtureSameFamily(weights, components).log_prob(x.flatten(1))
    return density


def assert_close(a: Tensor, b: Tensor, tol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@given(TIMES, SEEDS)
def test_readings_give_back_what_the_network_was_trained_on(kind: str, t: float, seed: int) -> None:
    level = LINEAR.level(t)
    x0, eps = randn(2, 1, 2, 2, seed=seed), randn(2, 1, 2, 2, seed=seed + 1)
    x = level.alpha * x0 + level.sigma * eps
    prediction = PREDICTION_TYPES[kind](OUTPUTS[kind](x0, eps, level), x, level)
    assert_close(prediction.x0, x0, 1e-15 / level.alpha)
    assert_close(prediction.eps, eps, 1e-15 / level.sigma)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("index", [0, 1, 500, 999])
def test_readings_equal_diffusers(kind: str, index: int) -> None:
    oracle = DDIMScheduler(prediction_type=kind, clip_sample=False)
    oracle.set_timesteps(1000)
    oracle.alphas_cumprod = torch.from_numpy(LINEAR.alpha_bar)
    output, x = randn(2, 1, 2, 2), randn(2, 1, 2, 2, seed=1)
    expected = oracle.step(output, index, x).pred_original_sample
    assert_close(PREDICTION_TYPES[kind](output, x, LINEAR.level(index + 1)).x0, expected, 1e-10)


def test_a_clean_image_says_nothing_of_the_noise_to_a_network_that_predicts_it() -> None:
    with pytest.raises(ArgumentError, match="predicts x0 cannot be used at the clean image"):
        from_x0(randn(1, 1, 2, 2), randn(1, 1, 2, 2), LINEAR.level(0))


@pytest.mark.parametrize(("t", "index"), [(1000, 999), (1, 0), (500.25, 499.25), (0.5, 0), (0, 0)])
def test_the_network_is_asked_with_its_own_index(t: float, index: float) -> None:
    seen = []

    def network(x: Tensor, index: Tensor) -> Tensor:
        seen.append((x.dtype, index.dtype, index.tolist()))
        return x

    x = randn(3, 1, 2, 2)
    prediction = NetworkDenoiser(network)(x, LINEAR.level(t))
    assert seen == [(torch.float32, torch.float32, [index] * 3)]
    assert prediction.eps.dtype == prediction.x0.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_only_the_network_computes_in_its_own_dtype(kind: str, dtype: torch.dtype) -> None:
    x, level = randn(2, 1, 2, 2), LINEAR.level(300)
    prediction = NetworkDenoiser(lambda x, index: x.sin(), DDPMParametrization(kind), dtype)(x, level)
    expected = PREDICTION_TYPES[kind](x.to(dtype).sin().double(), x, level)
    assert torch.equal(prediction.x0, expected.x0)
    assert torch.equal(prediction.eps, expected.eps)


@given(TIMES, SEEDS)
def test_a_gaussian_has_the_linear_denoiser(t: float, seed: int) -> None:
    level, width, mean = LINEAR.level(t), 0.3, randn(1, 1, 2, 2, seed=seed)
    x = randn(4, 1, 2, 2, seed=seed + 1)
    one = torch.ones(1, dtype=torch.float64)
    prediction = MixtureDenoiser(mean, width * one, one)(x, level)
    variance = level.alpha**2 * width**2 + level.sigma**2
    assert_close(prediction.eps, level.sigma * (x - level.alpha * mean) / variance)
    gain = level.alpha * width**2 / variance
    assert_close(prediction.x0, mean + gain * (x - level.alpha * mean), 1e-13 / level.alpha)


@given(TIMES, SEEDS)
def test_eps_is_minus_sigma_times_the_score(t: float, seed: int) -> None:
    data, level = mixture(seed), LINEAR.level(t)
    x = (level.alpha * data.means + level.sigma * randn(3, 1, 2, 2, seed=seed + 3)).requires_grad_()
    (score,) = torch.autograd.grad(log_density(data, x, level).sum(), x)
    prediction = data(x.detach(), level)
    assert_close(prediction.eps, -level.sigma * score, 1e-9)
    assert_close(level.alpha * prediction.x0 + level.sigma * prediction.eps, x.detach())


@pytest.mark.parametrize("t", [1, 100, 400, 1000])
def test_x0_is_the_posterior_mean_of_a_mixture_in_one_dimension(t: int) -> None:
    data, level = mixture(5, (1, 1, 1)), LINEAR.level(t)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None, None, None]
    x0 = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    prior = (
        data.weights / data.widths * (-((x0[:, None] - data.means.flatten()) ** 2) / 2 / data.widths**2).exp()
    ).sum(1)
    joint = prior * (-((x.flatten()[:, None] - level.alpha * x0) ** 2) / 2 / level.sigma**2).exp()
    assert_close(data(x, level).x0.flatten(), (joint * x0).sum(1) / joint.sum(1), 1e-9)


@given(TIMES, SEEDS)
def test_a_point_mass_is_known_whatever_the_noise(t: float, seed: int) -> None:
    mean, one = randn(1, 1, 2, 2, seed=seed), torch.ones(1, dtype=torch.float64)
    level, noise = LINEAR.level(t), randn(3, 1, 2, 2, seed=seed + 1)
    prediction = MixtureDenoiser(mean, 0 * one, one)(level.alpha * mean + level.sigma * noise, level)
    assert_close(prediction.eps, noise, 1e-14 / level.sigma)
    assert_close(prediction.x0, mean.expand(3, -1, -1, -1), 1e-14 / level.alpha)


def test_a_mixture_of_point_masses_is_the_nearest_one_at_little_noise() -> None:
    data = MixtureDenoiser(randn(3, 1, 2, 2), torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    level = LINEAR.level(1)
    x = level.alpha * data.means + level.sigma * randn(3, 1, 2, 2, seed=1)
    assert_close(data(x, level).x0, data.means)


@given(SEEDS, st.floats(0.1, 10))
def test_weights_need_not_sum_to_one(seed: int, scale: float) -> None:
    data, level, x = mixture(seed), LINEAR.level(300), randn(3, 1, 2, 2, seed=seed)
    scaled = MixtureDenoiser(data.means, data.widths, scale * data.weights)
    assert_close(scaled(x, level).x0, data(x, level).x0)


@given(SEEDS, st.floats(-2, 8))
def test_guidance_goes_from_one_denoiser_beyond_the_other(seed: int, w: float) -> None:
    yes, no, level, x = mixture(seed), mixture(seed + 9), LINEAR.level(300), randn(2, 1, 2, 2, seed=seed)
    prediction = GuidedDenoiser(yes, no, w)(x, level)
    a, b = no(x, level), yes(x, level)
    assert_close(prediction.eps, a.eps + w * (b.eps - a.eps))
    assert_close(prediction.x0, a.x0 + w * (b.x0 - a.x0), 1e-11)
    assert_close(level.alpha * prediction.x0 + level.sigma * prediction.eps, x, 1e-11)


EPS, V, FLOW = DDPMParametrization(), DDPMParametrization("v_prediction"), FlowParametrization()


@given(SEEDS, st.floats(-2, 8), st.sampled_from([EPS, V, FLOW]))
def test_guidance_inside_one_call_of_a_network_is_that_of_two_denoisers(
    seed: int, w: float, parametrization: Parametrization
) -> None:
    yes, no, level, x = (
        randn(2, 1, 2, 2, seed=seed),
        randn(2, 1, 2, 2, seed=seed + 1),
        LINEAR.level(300),
        randn(2, 1, 2, 2),
    )

    def both(x: Tensor, index: Tensor) -> Tensor:
        assert torch.equal(x[:2], x[2:])
        assert index.tolist() == pytest.approx([parametrization.time_condition(level)] * 4)
        return torch.cat([no, yes]).float()

    networks = [lambda x, index, out=out: out.float() for out in (yes, no)]
    alone = (NetworkDenoiser(network, parametrization) for network in networks)
    wanted = GuidedDenoiser(*alone, w)(x, level)
    for guided in (GuidedNetwork(both, w), GuidedPair(*networks, w)):
        found = NetworkDenoiser(guided, parametrization)(x, level)
        torch.testing.assert_close(found.x0, wanted.x0, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.eps, wanted.eps, rtol=1e-5, atol=1e-5)


@given(st.floats(0, 1000))
def test_another_network_is_asked_where_the_noise_is_below_the_picture(t: float) -> None:
    level, x = LINEAR.level(t), randn(2, 1, 2, 2)
    high, low = NetworkDenoiser(lambda x, index: x), NetworkDenoiser(lambda x, index: -x)
    both = NetworkDenoiser(high.network, low=low.network)
    wanted = low if level.s < 1 else high
    assert torch.equal(both(x, level).eps, wanted(x, level).eps)
    assert both.at(level).network is wanted.network
    assert both.at(level).low is None


def test_guidance_of_one_and_zero_are_the_denoisers_themselves() -> None:
    yes, no, level, x = mixture(), mixture(9), LINEAR.level(300), randn(2, 1, 2, 2)
    for w, alone in ((1.0, yes), (0.0, no)):
        guided = GuidedDenoiser(yes, no, w)(x, level)
        assert torch.equal(guided.eps, alone(x, level).eps)
        assert torch.equal(guided.x0, alone(x, level).x0)


@given(TIMES, SEEDS, st.floats(0.01, 3))
def test_clipping_bounds_x0_and_lets_eps_follow(t: float, seed: int, bound: float) -> None:
    data, level, x = mixture(seed), LINEAR.level(t), randn(3, 1, 2, 2, seed=seed)
    prediction = ClippedDenoiser(data, bound)(x, level)
    assert torch.equal(prediction.x0, data(x, level).x0.clamp(-bound, bound))
    assert_close(level.alpha * prediction.x0 + level.sigma * prediction.eps, x)


def test_clipping_equals_diffusers() -> None:
    oracle = DDIMScheduler(clip_sample=True, clip_sample_range=0.7)
    oracle.set_timesteps(1000)
    oracle.alphas_cumprod = torch.from_numpy(LINEAR.alpha_bar)
    data, x, here, there = mixture(), randn(4, 1, 2, 2), LINEAR.level(400), LINEAR.level(399)
    prediction = ClippedDenoiser(data, 0.7)(x, here)
    expected = oracle.step(data(x, here).eps, 399, x, use_clipped_model_output=True).prev_sample
    assert_close(there.alpha * prediction.x0 + there.sigma * prediction.eps, expected, 1e-10)


def test_watching_tells_of_every_evaluation_and_changes_nothing() -> None:
    told: list[int] = []
    data, level, x = mixture(), LINEAR.level(300), randn(5, 1, 2, 2)
    prediction = ProgressDenoiser(data, told.append)(x, level)
    ProgressDenoiser(data, told.append)(x[:2], level)
    assert told == [5, 2]
    assert torch.equal(prediction.eps, data(x, level).eps)


def test_eps_of_a_mixture_vanishes_at_the_clean_image() -> None:
    x = randn(3, 1, 2, 2)
    prediction = mixture()(x, LINEAR.level(0))
    assert torch.equal(prediction.eps, torch.zeros_like(x))
    assert torch.equal(prediction.x0, x)
    assert math.isclose(LINEAR.level(0).s, 0)
