"""Means and their intervals, against closed forms, scipy and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation import EvaluationSetting, Interval, interval
from ddim_edit.evaluation.statistics import summarize

from .samples import DDIM, DPM, row

SOME = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40)


@given(SOME)
def test_an_interval_is_scipy_s(values: list[float]) -> None:
    found = interval(values)
    if len(set(values)) > 1:
        theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-9)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)


def test_of_two_values_it_is_in_every_table_of_student_s() -> None:
    found = interval([-1.0, 1.0])  # sd / sqrt(n) = 1, one degree of freedom
    assert found == (0, pytest.approx(-12.7062, abs=1e-4), pytest.approx(12.7062, abs=1e-4))


@given(SOME, st.floats(0.1, 10), st.floats(-10, 10))
def test_it_moves_and_grows_with_its_values(values: list[float], scale: float, shift: float) -> None:
    plain, moved = interval(values), interval([scale * value + shift for value in values])
    assert moved == pytest.approx([scale * end + shift for end in plain], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("n", [2, 4, 32])
def test_it_holds_the_mean_of_normal_values_as_often_as_it_says(n: int) -> None:
    drawn, rounds = np.random.default_rng(n).normal(3, 2, (4000, n)), 4000
    held = sum(found.low <= 3 <= found.high for found in map(interval, drawn.tolist()))
    assert abs(held / rounds - 0.95) < 4 * math.sqrt(0.95 * 0.05 / rounds)


@pytest.mark.parametrize(("n", "least", "most"), [(4, 0.80, 0.86), (32, 0.86, 0.91)])
def test_and_that_of_skewed_values_less_often(n: int, least: float, most: float) -> None:
    """What docs/evaluation.md says of errors that differ between pictures by factors."""
    drawn = np.random.default_rng(n).lognormal(-0.5, 1, (4000, n))
    held = np.mean([found.low <= 1 <= found.high for found in map(interval, drawn.tolist())])
    assert least < held < most


def test_what_cannot_be_is_cut_off_and_nothing_else() -> None:
    values = [0.0, 0.0, 0.0, 1.0]
    free, cut = interval(values), interval(values, 0.0, 1.0)
    assert free.low < 0
    assert free.high > 1
    assert cut == (free.mean, 0, 1)
    assert interval(values, -1, 2) == free
    assert interval([1.0, 1.0], 0, 1) == (1, 1, 1)


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert interval([0.25]) == Interval(0.25, None, None)
    with pytest.raises(ArgumentError, match="at least one value"):
        interval([])


def test_every_setting_is_summed_up_by_itself_and_steps_rise() -> None:
    twenty = DPM._replace(steps=20)
    rows = [row("a", twenty, 0.5), row("a", DDIM, 0.3), row("a", DPM, 0.1), row("b", DPM, 0.3)]
    found = summarize(rows)
    assert [each.setting for each in found] == [DPM, twenty, DDIM]
    assert [each.images for each in found] == [2, 1, 1]
    assert found[0].scores["mse"] == interval([0.1, 0.3], 0)
    assert found[0].nfe == 20


def test_where_one_figure_is_not_finite_there_is_no_mean() -> None:
    (found,) = summarize([row("a", mse=None), row("b")])
    assert found.scores["mse"] is None
    assert found.scores["psnr"] == (20, 20, 20)
    assert found.to_json()["mse"] is None
    assert found.to_json()["psnr"] == {"mean": 20, "low": 20, "high": 20}


def test_what_did_not_converge_is_counted() -> None:
    from dataclasses import replace

    (found,) = summarize([row("a"), replace(row("b"), converged=False)])
    assert (found.converged, found.images) == (1, 2)
    assert found.setting == EvaluationSetting("dpm2m", "karras:14", 10, False)
