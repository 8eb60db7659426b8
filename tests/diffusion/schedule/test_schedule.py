import math
from typing import Any

import numpy as np
import pytest
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.diffusion.schedules import SMALLEST_ALPHA, Level, NoiseSchedule
from ddim_edit.errors import ArgumentError

TRAINED = np.geomspace(2e-4, 0.05, 300)
PAIRS: dict[str, tuple[NoiseSchedule, dict[str, Any]]] = {
    "linear": (NoiseSchedule.linear(), {"beta_schedule": "linear"}),
    "linear, short": (
        NoiseSchedule.linear(1e-3, 0.05, 200),
        {"beta_start": 1e-3, "beta_end": 0.05, "num_train_timesteps": 200},
    ),
    "scaled_linear": (
        NoiseSchedule.scaled_linear(),
        {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
    ),
    "cosine": (NoiseSchedule.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    "trained": (NoiseSchedule.from_betas(TRAINED), {"trained_betas": TRAINED}),
}
COSINE = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
EXACT_BETAS = {
    "linear": np.linspace(1e-4, 0.02, 1000),
    "linear, short": np.linspace(1e-3, 0.05, 200),
    "scaled_linear": np.linspace(8.5e-4**0.5, 0.012**0.5, 1000) ** 2,
    "cosine": np.minimum(1 - COSINE[1:] / COSINE[:-1], 0.999),
    "trained": TRAINED,
}
OTHERS = [NoiseSchedule.flow(), NoiseSchedule.continuous(0.002, 80), NoiseSchedule.scaled_linear().with_zero_snr()]
SCHEDULES = st.sampled_from([schedule for schedule, _ in PAIRS.values()] + OTHERS)
FRACTIONS = st.floats(0, 1)


@pytest.mark.parametrize("name", PAIRS)
def test_alpha_bar_equals_diffusers(name: str) -> None:
    schedule, options = PAIRS[name]
    oracle = DDPMScheduler(**options)
    ours = np.array([schedule.level(t).alpha ** 2 for t in range(1, schedule.T + 1)])
    assert ours == pytest.approx(oracle.alphas_cumprod.double().numpy(), rel=1e-4, abs=1e-7)
    assert ours == pytest.approx(np.cumprod(1 - EXACT_BETAS[name]), rel=1e-11)
    assert schedule.alpha_bar == pytest.approx(ours, rel=1e-12)


@given(SCHEDULES, FRACTIONS)
def test_signal_and_noise_share_the_variance(schedule: NoiseSchedule, fraction: float) -> None:
    level = schedule.level(fraction * schedule.T)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1, abs=1e-15)
    assert level.s == pytest.approx(schedule.s(level.t), rel=1e-15)


@given(SCHEDULES, FRACTIONS, FRACTIONS)
def test_noise_grows_with_time(schedule: NoiseSchedule, a: float, b: float) -> None:
    early, late = sorted((a * schedule.T, b * schedule.T))
    assert schedule.s(early) <= schedule.s(late)
    if late - early > 1e-9:
        assert schedule.s(early) < schedule.s(late)


@given(SCHEDULES, FRACTIONS)
def test_time_undoes_s(schedule: NoiseSchedule, fraction: float) -> None:
    t = fraction * schedule.T
    assert schedule.time(schedule.s(t)) == pytest.approx(t, abs=1e-9)


@given(SCHEDULES, FRACTIONS)
def test_time_undoes_s_before_the_first_index(schedule: NoiseSchedule, t: float) -> None:
    assert schedule.time(schedule.s(t)) == pytest.approx(t, rel=1e-14)
    assert schedule.s(t) == pytest.approx(t * schedule.s(1), rel=1e-14)


@given(SCHEDULES, st.integers(1, 199), FRACTIONS)
def test_log_s_is_linear_between_indices(schedule: NoiseSchedule, t: int, w: float) -> None:
    expected = (1 - w) * math.log(schedule.s(t)) + w * math.log(schedule.s(t + 1))
    assert math.log(schedule.s(t + w)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in PAIRS.values()])
def test_the_ends_are_the_clean_image_and_whole_times(schedule: NoiseSchedule) -> None:
    assert schedule.level(0) == Level(0, 1.0, 0.0)
    assert [schedule.time(schedule.s(t)) for t in (0, 1, schedule.T)] == [0, 1, schedule.T]


@given(SCHEDULES, FRACTIONS, FRACTIONS)
def test_a_span_is_as_long_as_s_and_halved_by_its_middle(schedule: NoiseSchedule, a: float, b: float) -> None:
    span = schedule.span(a * schedule.T, b * schedule.T)
    assert span.h == pytest.approx(schedule.s(b * schedule.T) - schedule.s(a * schedule.T), rel=1e-12, abs=1e-15)
    assert span.middle.s == pytest.approx((span.here.s + span.there.s) / 2, rel=1e-12)
    assert schedule.s(span.middle.t) == pytest.approx(span.middle.s, rel=1e-10)
    assert span.flipped().h == -span.h
    assert span.flipped().flipped() == span


def test_the_description_names_the_schedule_and_tells_betas_apart() -> None:
    assert NoiseSchedule.linear().description == {"kind": "linear", "start": 1e-4, "end": 0.02, "T": 1000}
    assert NoiseSchedule.from_betas(TRAINED).description == NoiseSchedule.from_betas(TRAINED.copy()).description
    assert NoiseSchedule.from_betas(TRAINED).description != NoiseSchedule.from_betas(TRAINED * (1 + 1e-15)).description


@pytest.mark.parametrize("betas", [[], [0.1, 1.0], [0.0, 0.1], [-0.1], [0.1, math.nan], [[0.1, 0.2]]])
def test_betas_that_make_no_schedule_are_refused(betas: list[float]) -> None:
    with pytest.raises(ArgumentError, match="Betas must lie strictly between 0 and 1, not"):
        NoiseSchedule.from_betas(np.array(betas))


@pytest.mark.parametrize("t", [-1e-9, 1000.5, math.nan, math.inf])
def test_times_outside_the_schedule_are_refused(t: float) -> None:
    with pytest.raises(ArgumentError, match="Times of this schedule go from 0 to 1000"):
        NoiseSchedule.linear().s(t)


def test_the_straight_path_has_its_share_of_noise_at_whole_times() -> None:
    schedule = NoiseSchedule.flow(200)
    s = np.array([schedule.s(t) for t in range(1, 200)])
    assert s / (1 + s) == pytest.approx(np.arange(1, 200) / 200, rel=1e-14)
    assert schedule.level(200).alpha == pytest.approx(SMALLEST_ALPHA, rel=1e-12)


def test_a_continuous_schedule_is_even_in_log_s_and_meets_its_ends() -> None:
    schedule = NoiseSchedule.continuous(0.002, 80, 50)
    assert [schedule.s(1), schedule.s(50)] == pytest.approx([0.002, 80], rel=1e-13)
    assert schedule.s(25.5) == pytest.approx((0.002 * 80) ** 0.5, rel=1e-13)


@pytest.mark.parametrize("ends", [(0, 80), (80, 0.002), (0.1, math.inf), (math.nan, 1)])
def test_continuous_levels_out_of_order_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ArgumentError, match="Levels must be 0 < low < high, not"):
        NoiseSchedule.continuous(*ends)


@pytest.mark.parametrize("levels", [[], [1.0, 1.0], [0.0, math.inf], [[1.0, 2.0]]])
def test_levels_that_do_not_grow_are_refused(levels: list[float]) -> None:
    with pytest.raises(ArgumentError, match="each noisier than the one before"):
        NoiseSchedule(np.array(levels))


def test_zero_terminal_snr_equals_diffusers_up_to_the_faint_rest() -> None:
    schedule = NoiseSchedule.scaled_linear().with_zero_snr()
    oracle = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=0.012, rescale_betas_zero_snr=True
    )
    theirs = oracle.alphas_cumprod.double().numpy()
    assert schedule.alpha_bar[:-1] == pytest.approx(theirs[:-1], rel=2e-3, abs=1e-6)
    assert (theirs[-1], schedule.level(1000).alpha) == (0, pytest.approx(SMALLEST_ALPHA, rel=1e-12))
    assert schedule.description["zero_snr"]
