import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.diffusion.grids import GRIDS, Grid, make_grid
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ArgumentError
from ddim_edit.latents.spaces import (
    H_FROM,
    BottleneckSpace,
    ParsedLevel,
    StateSpace,
    Trajectory,
    find_space,
    parse_level,
)

GRID = Grid("odd", (0.0, 10.0, 200.0, 340.0, 360.0, 700.0, 950.0))
TIMES = st.floats(0.5, 1000).map(lambda t: round(t, 3))


@given(TIMES)
def test_times_are_read_from_numbers_texts_and_parts_of_T(t: float) -> None:
    assert parse_level(t, 1000) == parse_level(str(t), 1000) == ParsedLevel(t, False)
    assert parse_level(f"{t / 1000:.6f}T", 1000).t == pytest.approx(t, rel=1e-9)
    assert parse_level(f"h:{t / 1000:.6f} T", 500).t == pytest.approx(t / 2, rel=1e-9)


@pytest.mark.parametrize(
    ("level", "parsed", "stop"),
    [
        ("xT", ParsedLevel(1000, False), 1000),
        ("1T", ParsedLevel(1000, False), 1000),
        (".4T", ParsedLevel(400, False), 400),
        (7, ParsedLevel(7, False), 7),
        ("h", ParsedLevel(None, True), 1000),
        ("h:0.2T", ParsedLevel(200, True), 1000),
        ("h:xT", ParsedLevel(1000, True), 1000),
    ],
)
def test_levels_have_one_syntax(level: str | float, parsed: ParsedLevel, stop: float) -> None:
    assert parse_level(level, 1000) == parsed
    assert parsed.stop(1000) == stop


@given(TIMES)
def test_a_state_is_read_at_the_nearest_time_that_a_step_leads_to(t: float) -> None:
    space = find_space(t, GRID, 1000)
    assert isinstance(space, StateSpace)
    assert space.t in GRID.times[1:]
    assert abs(space.t - t) == min(abs(time - t) for time in GRID.times[1:])
    assert (space.last, space.times) == (space.t, ())


def test_x_t_is_the_end_of_the_grid_wherever_that_is() -> None:
    assert find_space("xT", GRID, 1000) == StateSpace(950.0)


def test_h_is_every_bottleneck_inside_the_grid_from_its_part_of_t_on() -> None:
    assert find_space("h", GRID, 1000) == BottleneckSpace((360.0, 700.0), 950.0)
    for name in GRIDS:
        grid = make_grid(name, NoiseSchedule.linear(), 20)
        times = find_space("h", grid, 1000).times
        assert times == tuple(t for t in grid.times if 1000 * H_FROM <= t < grid.times[-1])


@given(TIMES)
def test_one_bottleneck_is_the_nearest_inside_the_grid_and_needs_one_step_more(t: float) -> None:
    """At the first time the picture is clean, and from the last one no step of an inversion starts."""
    space = find_space(f"h:{t}", GRID, 1000)
    (time,) = space.times
    assert abs(time - t) == min(abs(inner - t) for inner in GRID.times[1:-1])
    assert space.last == GRID.times[GRID.times.index(time) + 1]


def test_codes_are_read_from_where_the_space_says() -> None:
    trace = Trajectory({340.0: torch.ones(2, 3)}, {200.0: torch.zeros(2, 4, 5, 5), 360.0: torch.ones(2, 4, 5, 5)})
    assert find_space(340, GRID, 1000).read(trace) is trace.states[340.0]
    stacked = BottleneckSpace((200.0, 360.0), 700.0).read(trace)
    assert stacked.shape == (2, 2, 4, 5, 5)
    assert torch.equal(stacked[:, 1], trace.bottlenecks[360.0])


def test_a_bottleneck_that_no_step_asked_for_is_refused() -> None:
    with pytest.raises(ArgumentError, match="evaluates the network between the times of its grid"):
        BottleneckSpace((200.0,), 340.0).read(Trajectory({}, {201.0: torch.zeros(1)}))


@pytest.mark.parametrize(
    ("level", "grid"), [("h", GRID.until(300)), ("h", Grid("short", (0.0, 1.0))), ("h:500", Grid("short", (0.0, 1.0)))]
)
def test_a_grid_without_such_times_is_refused(level: str, grid: Grid) -> None:
    with pytest.raises(ArgumentError, match="has no times inside to read bottlenecks at"):
        find_space(level, grid, 1000)


NO_LEVELS = ["", "T", "x", "xt", "0", "0T", "1.1T", "1001", "-1", "nan", "inf", "1e2", "0.4t", ".", "h:", "h:0", "H"]


@pytest.mark.parametrize("level", [*NO_LEVELS, "h 400", "x:400", "h:h", 0, -5, 1000.5, float("nan")])
def test_other_levels_are_refused(level: str | float) -> None:
    with pytest.raises(ArgumentError, match="is not a level"):
        find_space(level, GRID, 1000)


@given(TIMES, TIMES)
def test_spaces_are_told_apart_by_their_names(t: float, u: float) -> None:
    levels = [t, u, f"h:{t}", f"h:{u}", "h", "xT"]
    spaces = [find_space(level, make_grid("karras:14", NoiseSchedule.linear(), 20), 1000) for level in levels]
    for one in spaces:
        assert [one.name == other.name for other in spaces] == [one == other for other in spaces]


STARTED = Grid("started", (160.0, 340.0, 700.0, 950.0))


def test_a_grid_that_starts_above_the_image_reads_its_bottleneck_at_the_start() -> None:
    assert find_space("h:160", STARTED, 1000) == BottleneckSpace((160.0,), 340.0)


@pytest.mark.parametrize("level", [100, "0.1T", "h:0.1T"])
def test_levels_below_the_start_of_a_grid_are_refused(level: str | float) -> None:
    with pytest.raises(ArgumentError, match="starts at t = 160, so nothing can be read at t = 100"):
        find_space(level, STARTED, 1000)
