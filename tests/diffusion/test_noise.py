from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.diffusion.noise import NoiseMix, SeededNoise, combine_mixes, derive_seed, draw_mixed_noise
from ddim_edit.errors import ArgumentError

SHAPE = (1, 3, 4)
SEED = st.integers(0, 2**63 - 1)
WEIGHT = st.floats(0.1, 1)


@st.composite
def mixes(draw: st.DrawFn) -> NoiseMix:
    seeds = draw(st.lists(st.integers(0, 5), max_size=3, unique=True))
    return tuple((seed, draw(WEIGHT)) for seed in seeds)


@given(st.lists(SEED, min_size=1, max_size=5))
def test_a_row_depends_on_its_seed_alone(seeds: list[int]) -> None:
    together = SeededNoise(seeds).draw(SHAPE)
    alone = torch.cat([SeededNoise([seed]).draw(SHAPE) for seed in seeds])
    assert torch.equal(together, alone)
    assert torch.equal(SeededNoise(seeds[::-1]).draw(SHAPE), together.flip(0))


@given(SEED)
def test_equal_seeds_give_equal_rows_and_others_do_not(seed: int) -> None:
    rows = SeededNoise([seed, seed, seed ^ 1]).draw(SHAPE)
    assert torch.equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).all()


@given(SEED)
def test_draws_follow_one_another_and_begin_again_with_the_object(seed: int) -> None:
    noise, again = SeededNoise([seed]), SeededNoise([seed])
    first, second = noise.draw(SHAPE), noise.draw(SHAPE)
    assert (first != second).all()
    assert torch.equal(again.draw(SHAPE), first)
    assert torch.equal(again.draw(SHAPE), second)


def test_the_noise_of_a_seed_is_the_same_for_ever() -> None:
    """Latents keep seeds, not noise: if these figures ever change, old latents are lost."""
    row = SeededNoise([42]).draw((2, 3, 4)).flatten()
    expected = [0.2995562877502637, 0.24237779080894106, 0.30085844543180795]
    assert row[[0, 1, 23]].tolist() == pytest.approx(expected, abs=1e-12)


def test_moments_are_those_of_a_standard_normal() -> None:
    z = SeededNoise(range(20)).draw((10_000,))
    n = z.numel()
    assert float(z.mean()) == pytest.approx(0, abs=4 / n**0.5)
    assert float(z.var()) == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
    assert float((z**4).mean()) == pytest.approx(3, abs=4 * (96 / n) ** 0.5)
    correlation = torch.corrcoef(z) - torch.eye(20, dtype=torch.float64)
    assert float(correlation.abs().max()) < 5 / 100


def test_global_randomness_is_neither_used_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = SeededNoise([3]).draw(SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(SeededNoise([3]).draw(SHAPE), a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_called_with_a_state_it_answers_in_kind(dtype: torch.dtype) -> None:
    x = torch.zeros(2, *SHAPE, dtype=dtype)
    assert torch.equal(SeededNoise([1, 2])(x), SeededNoise([1, 2]).draw(SHAPE).to(dtype))


@given(mixes(), mixes())
def test_mixed_noise_is_the_weighted_sum(a: NoiseMix, b: NoiseMix) -> None:
    rows = draw_mixed_noise([a, b], SHAPE)
    for row, mix in zip(rows, (a, b), strict=True):
        parts = [weight * SeededNoise([seed]).draw(SHAPE)[0] for seed, weight in mix]
        assert torch.equal(row, sum(parts, torch.zeros(SHAPE, dtype=torch.float64)))


@given(mixes(), mixes(), st.floats(0, 1))
def test_combining_mixes_combines_their_noise(a: NoiseMix, b: NoiseMix, w: float) -> None:
    noise_a, noise_b, noise = draw_mixed_noise([a, b, combine_mixes([a, b], [1 - w, w])], SHAPE)
    assert torch.allclose(noise, (1 - w) * noise_a + w * noise_b, rtol=0, atol=1e-13)


@given(mixes(), mixes())
def test_the_ends_of_a_blend_are_the_mixes(a: NoiseMix, b: NoiseMix) -> None:
    assert dict(combine_mixes([a, b], [1, 0])) == dict(a)
    assert dict(combine_mixes([a, b], [0, 1])) == dict(b)


@given(SEED, st.text(), st.text())
def test_derived_seeds_are_fit_for_json_and_differ_by_name(seed: int, a: str, b: str) -> None:
    assert 0 <= derive_seed(seed, a) < 2**63
    assert derive_seed(seed, a) == derive_seed(seed, a)
    if a != b:
        assert derive_seed(seed, a) != derive_seed(seed, b)
    assert derive_seed(seed, a) != derive_seed(seed + 1, a)


def test_a_derived_seed_is_the_same_for_ever() -> None:
    assert derive_seed(0, "picture") == 7337273194383964812


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.5, float("nan"), "1"])
def test_seeds_that_no_generator_takes_are_refused(seed: Any) -> None:
    with pytest.raises(ArgumentError, match="Seeds must be integers of at most 64 bits"):
        SeededNoise([0, seed])


def test_mixes_can_be_drawn_in_inference_mode() -> None:
    mixes: list[NoiseMix] = [((1, 1.0),), ((1, 0.6), (2, 0.8)), ()]
    with torch.inference_mode():
        drawn = draw_mixed_noise(mixes, SHAPE)
    assert torch.equal(drawn, draw_mixed_noise(mixes, SHAPE))
    assert not drawn[2].any()
