import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.errors import ArgumentError
from ddim_edit.schedule import Level, NoiseSchedule

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
    "trained": (NoiseSchedule(TRAINED), {"trained_betas": TRAINED}),
}
SCHEDULES = st.sampled_from([schedule for schedule, _ in PAIRS.values()])
FRACTIONS = st.floats(0, 1)


@pytest.mark.parametrize("name", PAIRS)
def test_alpha_bar_equals_diffusers(name: str) -> None:
    schedule, options = PAIRS[name]
    oracle = DDPMScheduler(**options)
    ours = np.array([schedule.level(t).alpha ** 2 for t in range(1, schedule.T + 1)])
    assert ours == pytest.approx(oracle.alphas_cumprod.double().numpy(), rel=1e-4, abs=1e-7)
    exact = torch.cumprod(1 - torch.from_numpy(schedule.betas), 0).numpy()
    assert ours == pytest.approx(exact, rel=1e-11)


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
    assert NoiseSchedule(TRAINED).description == NoiseSchedule(TRAINED.copy()).description
    assert NoiseSchedule(TRAINED).description != NoiseSchedule(TRAINED * (1 + 1e-15)).description


@pytest.mark.parametrize("betas", [[], [0.1, 1.0], [0.0, 0.1], [-0.1], [0.1, math.nan], [[0.1, 0.2]]])
def test_betas_that_make_no_schedule_are_refused(betas: list[float]) -> None:
    with pytest.raises(ArgumentError, match="wanted a list of betas strictly between 0 and 1, was given"):
        NoiseSchedule(np.array(betas))


@pytest.mark.parametrize("t", [-1e-9, 1000.5, math.nan, math.inf])
def test_times_outside_the_schedule_are_refused(t: float) -> None:
    with pytest.raises(ArgumentError, match="wanted a time from 0 to 1000, was given"):
        NoiseSchedule.linear().s(t)
