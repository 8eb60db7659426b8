import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.diffusion.grids import GRIDS, Grid, make_grid
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ArgumentError
from ddim_edit.latents.spaces import H_FROM, BottleneckSpace, StateSpace, Trace, find_space, parse_time

GRID = Grid("odd", (0.0, 10.0, 200.0, 340.0, 360.0, 700.0, 950.0))
TIMES = st.floats(0.5, 1000).map(lambda t: round(t, 3))


@given(TIMES)
def test_a_time_is_read_from_numbers_text_and_parts_alike(t: float) -> None:
    assert parse_time(str(t), 1000) == t
    assert parse_time(f"{t / 1000:.6f}T", 1000) == pytest.approx(t, rel=1e-9)
    assert parse_time(f"{t / 1000:.6f} T", 500) == pytest.approx(t / 2, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "time"), [("xT", 1000), ("1T", 1000), (".4T", 400), ("1.T", 1000), ("7", 7), ("1000", 1000)]
)
def test_these_are_times(text: str, time: float) -> None:
    assert parse_time(text, 1000) == time


@pytest.mark.parametrize(
    "text", ["", "T", "x", "xt", "0", "0T", "1.1T", "1001", "-1", "nan", "inf", "1e2", "0.4t", "."]
)
def test_other_texts_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(
        ArgumentError, match=r"^wanted a level above 0 and up to 1000, [^\n]+, was given [^\n]+: [^\n]+$"
    ):
        parse_time(text, 1000)


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
    trace = Trace({340.0: torch.ones(2, 3)}, {200.0: torch.zeros(2, 4, 5, 5), 360.0: torch.ones(2, 4, 5, 5)})
    assert find_space(340, GRID, 1000).read(trace) is trace.states[340.0]
    stacked = BottleneckSpace((200.0, 360.0), 700.0).read(trace)
    assert stacked.shape == (2, 2, 4, 5, 5)
    assert torch.equal(stacked[:, 1], trace.bottlenecks[360.0])


def test_a_bottleneck_that_no_step_asked_for_is_refused() -> None:
    with pytest.raises(ArgumentError, match="wanted a solver that asks the network at the times of its grid"):
        BottleneckSpace((200.0,), 340.0).read(Trace({}, {201.0: torch.zeros(1)}))


@pytest.mark.parametrize(
    ("level", "grid"), [("h", GRID.until(300)), ("h", Grid("short", (0.0, 1.0))), ("h:500", Grid("short", (0.0, 1.0)))]
)
def test_a_grid_without_such_times_is_refused(level: str, grid: Grid) -> None:
    with pytest.raises(ArgumentError, match=r"^wanted a grid that has times inside [^\n]+, was given [^\n]+: [^\n]+$"):
        find_space(level, grid, 1000)


@pytest.mark.parametrize("level", ["h:", "h:0", "H", "h 400", "x:400", "h:h", 0, -5, 1000.5])
def test_what_is_no_level_is_refused(level: str | float) -> None:
    with pytest.raises(ArgumentError, match=r"^wanted a level [^\n]+, was given [^\n]+: [^\n]+$"):
        find_space(level, GRID, 1000)


@given(TIMES, TIMES)
def test_spaces_are_told_apart_by_their_names(t: float, u: float) -> None:
    levels = [t, u, f"h:{t}", f"h:{u}", "h", "xT"]
    spaces = [find_space(level, make_grid("karras:14", NoiseSchedule.linear(), 20), 1000) for level in levels]
    for one in spaces:
        assert [one.name == other.name for other in spaces] == [one == other for other in spaces]
