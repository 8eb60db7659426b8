from typing import Any

import diffusers
import numpy as np
import pytest
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.grids import GRIDS, Grid, Karras, Leading, logsnr, make_grid, quad, uniform
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ArgumentError

Diffusers: Any = diffusers  # its types are hidden from mypy
LINEAR = NoiseSchedule.linear()
STEPS = (1, 2, 3, 7, 10, 20, 27, 50, 81, 243, 333, 729, 999, 1000)
OURS = ("karras", "karras:3", "logsnr", "uniform", "quad")


def diffusers_times(spacing: str, steps: int, **options: Any) -> list[float]:
    """Diffusers' timesteps as our times: its index is t - 1, and it ends at the clean image."""
    oracle = DDIMScheduler(timestep_spacing=spacing, **options)
    oracle.set_timesteps(steps)
    return [float(index) + 1 for index in oracle.timesteps.flip(0)]


def ratios(grid: Grid) -> np.ndarray:
    return np.array([LINEAR.s(t) for t in grid.times])


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_spacings_equal_diffusers(spacing: str, steps: int) -> None:
    assert list(make_grid(spacing, LINEAR, steps).times) == [0, *diffusers_times(spacing, steps)]


@pytest.mark.parametrize("steps", [1, 3, 20, 50, 333])
@pytest.mark.parametrize("offset", [0, 1, 5])
def test_leading_knows_diffusers_offset_and_first_alpha(offset: int, steps: int) -> None:
    """But for indices beyond the last level, with which diffusers crashes when it comes to them."""
    times = [t for t in diffusers_times("leading", steps, steps_offset=offset) if t <= LINEAR.T]
    assert list(Leading(offset)(LINEAR, steps).times) == [0, *times]
    if offset:
        assert list(Leading(offset, clean=False)(LINEAR, steps).times) == [1, *times]


def test_without_offset_diffusers_last_step_from_index_0_to_itself_is_no_step() -> None:
    assert list(Leading(clean=False)(LINEAR, 20).times) == diffusers_times("leading", 20, set_alpha_to_one=False)


@pytest.mark.parametrize("schedule", [LINEAR, NoiseSchedule.cosine(), NoiseSchedule.linear(T=100)])
@pytest.mark.parametrize("name", [*GRIDS, "karras:1", "karras:100"])
def test_every_grid_has_its_steps_and_repeats_no_time(name: str, schedule: NoiseSchedule) -> None:
    for steps in range(2, 101):
        grid = make_grid(name, schedule, steps)
        assert grid.steps == steps
        assert (np.diff(grid.times) > 0).all()
        first = 0.16 * schedule.T if name == "standard" else name.startswith(("karras", "logsnr"))
        assert grid.times[0] == first
        assert grid.times[-1] == schedule.T or name == "leading"


@given(st.sampled_from(OURS), st.integers(1, 10_000))
def test_our_grids_reach_the_last_time_in_any_number_of_steps(name: str, steps: int) -> None:
    grid = make_grid(name, LINEAR, steps)
    assert (grid.steps, grid.times[-1]) == (steps, LINEAR.T)


@pytest.mark.parametrize("rho", [1, 3, 7.5, -2.5, -1])
def test_karras_is_even_in_a_root_of_s(rho: float) -> None:
    grid = make_grid(f"karras:{rho}", LINEAR, 30)
    roots = ratios(grid) ** (1 / rho)
    assert roots == pytest.approx(np.linspace(roots[0], roots[-1], 31), rel=1e-11)
    assert grid.name == f"karras:{rho:g}"


def test_logsnr_is_even_in_log_s_and_the_limit_of_karras() -> None:
    logs = np.log(ratios(logsnr(LINEAR, 30)))
    assert logs == pytest.approx(np.linspace(logs[0], logs[-1], 31), abs=1e-11)
    gaps = [np.abs(np.log(ratios(Karras(rho)(LINEAR, 30))) - logs).max() for rho in (1e3, 1e4, 1e5)]
    assert gaps[2] < 2e-4
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.02)
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.02)


def test_karras_without_a_number_is_karras_7() -> None:
    assert make_grid("karras", LINEAR, 20) == make_grid("karras:7", LINEAR, 20)


def test_uniform_and_quad_are_powers_of_the_way() -> None:
    way = np.arange(13) / 12
    assert uniform(LINEAR, 12).times == pytest.approx(1000 * way, rel=1e-15)
    assert quad(LINEAR, 12).times == pytest.approx(1000 * way**2, rel=1e-15)


def test_spans_join_the_times_of_a_grid() -> None:
    grid = make_grid("karras", LINEAR, 20)
    spans = LINEAR.spans(grid)
    assert [span.here.t for span in spans] == list(grid.times[:-1])
    assert [span.there.t for span in spans] == list(grid.times[1:])
    assert sum(span.h for span in spans) == pytest.approx(LINEAR.s(1000) - LINEAR.s(1), rel=1e-14)


@given(st.floats(1.001, 1000))
def test_until_keeps_what_is_earlier_and_ends_at_its_time(t: float) -> None:
    grid = make_grid("karras", LINEAR, 20)
    part = grid.until(t)
    assert part.times[-1] == t
    assert part.times[:-1] == tuple(time for time in grid.times if time < t)
    assert part.name == grid.name


def test_until_before_the_first_step_is_refused() -> None:
    with pytest.raises(ArgumentError, match="needs at least two times"):
        make_grid("karras", LINEAR, 20).until(1)


@given(st.floats(-10, 2000), st.sampled_from(sorted(set(GRIDS) - {"standard"})), st.integers(1, 50))
def test_the_nearest_time_is_one_that_a_step_leads_to(t: float, name: str, steps: int) -> None:
    grid = make_grid(name, LINEAR, steps)
    nearest = grid.nearest(t)
    assert nearest in grid.times[1:]
    assert abs(nearest - t) == min(abs(time - t) for time in grid.times[1:])
    assert all(grid.nearest(time) == time for time in grid.times[1:])


@pytest.mark.parametrize("name", GRIDS)
def test_to_clean_adds_the_clean_image_once(name: str) -> None:
    grid = make_grid(name, LINEAR, 20)
    clean = grid.to_clean()
    assert clean.times == (grid.times if grid.times[0] == 0 else (0, *grid.times))
    assert clean.to_clean() == clean
    assert clean.name == grid.name


@pytest.mark.parametrize("times", [(), (1.0,), (2.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (0.0, float("nan"))])
def test_times_that_do_not_increase_from_0_upwards_make_no_grid(times: tuple[float, ...]) -> None:
    with pytest.raises(ArgumentError, match="A grid needs at least two times from 0 upwards"):
        Grid("odd", times)


NAMES = (
    "standard, karras[:RHO[@START]], logsnr, uniform, quad, leading, trailing, linspace, flow[:SHIFT] or times:T,T,... "
    "of your own"
)
NO_START = (
    "A grid starts at a time from 1 to below 1000, or at a part of T such as 0.08T, not at '{}'. Leave the start out "
    "to begin right above the image."
)
NO_RHO = "RHO of karras:RHO must be a number of at least 1, or at most -1, not "
WRONG = {
    ("kaRRas", 20): f"There is no grid 'kaRRas'. Use {NAMES}.",
    ("uniform:2", 20): f"There is no grid 'uniform:2'. Use {NAMES}.",
    ("karras", 0): "The number of steps must be from 1 to 10000, not 0. 20 is a good start.",
    ("karras", 10_001): "The number of steps must be from 1 to 10000, not 10001. 20 is a good start.",
    (
        "auto",
        20,
    ): "The grid auto is found for a model with some of its images. In Python call tune_grid(editor, images) "
    "and take its grid; on the command line it is for commands that invert images.",
    ("karras:-0.5", 20): f"{NO_RHO}'-0.5'. karras:7 is usual.",
    ("karras:0.5", 20): f"{NO_RHO}'0.5'. karras:7 is usual.",
    ("karras:inf", 20): f"{NO_RHO}'inf'. karras:7 is usual.",
    ("karras:x", 20): f"{NO_RHO}'x'. karras:7 is usual.",
    **{("karras:7@" + start, 20): NO_START.format(start) for start in ("x", "0.5", "1000", "nan", "", "1T", "0.1T0")},
    ("flow:0.5", 20): "SHIFT of flow:SHIFT must be a number of at least 1, not '0.5'. flow:3 is usual.",
    ("trailing", 2000): "A grid needs at least two times from 0 upwards, each larger than the one before, "
    "not 2000 times (0, 1, 2, 2, ...). Use more steps, or fewer than the schedule has levels.",
}


@pytest.mark.parametrize(("name", "steps"), WRONG)
def test_wrong_grids_are_refused(name: str, steps: int) -> None:
    with pytest.raises(ArgumentError) as caught:
        make_grid(name, LINEAR, steps)
    assert str(caught.value) == WRONG[name, steps]


def test_makers_stand_for_names() -> None:
    assert make_grid(Karras(5.0), LINEAR, 20) == make_grid("karras:5", LINEAR, 20)
    with pytest.raises(ArgumentError, match=r"a function of a schedule and a number of steps, not 3\. The names are"):
        make_grid(3, LINEAR, 20)  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [7, 28])
def test_the_flow_grid_is_that_of_diffusers(shift: float, steps: int) -> None:
    oracle = Diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    oracle.set_timesteps(steps)
    schedule = NoiseSchedule.flow()
    grid = make_grid(f"flow:{shift:g}", schedule, steps)
    s = np.array([schedule.s(t) for t in grid.times[-2::-1]])
    # The last one, pure noise there, keeps 2^-12 of the picture here.
    assert s / (1 + s) == pytest.approx(oracle.sigmas.numpy()[1:], rel=2e-6, abs=1e-9)
    assert (grid.times[0], grid.times[-1]) == (0, 1000)


@pytest.mark.parametrize("schedule", [LINEAR, NoiseSchedule.scaled_linear()])
def test_standard_grid_is_the_one_that_was_tuned(schedule: NoiseSchedule) -> None:
    assert make_grid("standard", schedule, 20) == make_grid("karras:14@0.16T", schedule, 20)


@pytest.mark.parametrize(
    "schedule", [NoiseSchedule.cosine(), NoiseSchedule.flow(), NoiseSchedule.scaled_linear().with_zero_snr()]
)
def test_standard_grid_has_as_many_steps_at_low_noise_on_schedules_that_end_in_more(schedule: NoiseSchedule) -> None:
    assert schedule.s(schedule.T) > 1000
    wanted = _steps_below(10, make_grid("standard", LINEAR, 200), LINEAR)
    grid = make_grid("standard", schedule, 200)
    assert abs(_steps_below(10, grid, schedule) - wanted) <= 2
    assert _steps_below(10, make_grid("karras:14@0.16T", schedule, 200), schedule) < wanted - 25
    assert grid == make_grid(grid.name, schedule, 200)


def _steps_below(s: float, grid: Grid, schedule: NoiseSchedule) -> int:
    return sum(schedule.s(t) < s for t in grid.times)


def test_standard_grid_of_samples_starts_at_the_image() -> None:
    for schedule, grid in ((LINEAR, "karras:14"), (NoiseSchedule.cosine(), "karras:-9.16")):
        assert InversionConfig().without_start().make_grid(schedule) == make_grid(grid, schedule, 20)
