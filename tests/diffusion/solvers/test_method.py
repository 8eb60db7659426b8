import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.config import EIGHT_BIT, InversionConfig
from ddim_edit.diffusion.grids import GRIDS, Grid, make_grid
from ddim_edit.diffusion.integration import invert
from ddim_edit.diffusion.solvers.exact import ExactSolver
from ddim_edit.diffusion.solvers.registry import SOLVERS, find_solver
from ddim_edit.errors import ArgumentError
from ddim_edit.images import to_uint8

from .closed_forms import LINEAR, draw, mixture, spans

DATA = mixture(seed=1, width=1.0)
PIXELS = torch.arange(256, dtype=torch.float64) / 255 * 2 - 1


@given(st.floats(-EIGHT_BIT, EIGHT_BIT))
def test_an_error_within_tolerance_changes_no_pixel(error: float) -> None:
    assert to_uint8(PIXELS + error).tolist() == list(range(256))


@pytest.mark.parametrize("error", [EIGHT_BIT / 0.45 * 0.51, -EIGHT_BIT / 0.45 * 0.51])
def test_the_tolerance_is_as_large_as_that_allows_but_for_a_tenth(error: float) -> None:
    assert (to_uint8(PIXELS[1:-1] + error) != torch.arange(1, 255)).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_exact_methods_return_every_pixel(name: str) -> None:
    method, x0 = InversionConfig(name, exact=True), draw(DATA, 6)
    found = invert(DATA, x0, spans("karras", method.steps), method.make_solver())
    assert found.check is not None
    assert found.converged.all()
    assert float(found.check.error.max()) <= EIGHT_BIT * 1.001


@pytest.mark.parametrize("name", SOLVERS)
def test_plain_and_checked_methods_find_the_solver_s_own_code(name: str) -> None:
    x0, walk = draw(DATA, 2), spans("karras", 8)
    plain, checked = (
        invert(DATA, x0, walk, InversionConfig(name, check=check).make_solver()) for check in (False, True)
    )
    assert plain.check is None
    assert checked.check is not None
    assert torch.equal(plain.state[0], checked.state[0])
    assert torch.equal(plain.state[0], invert(DATA, x0, walk, SOLVERS[name]).state[0])


def test_exact_ddim_starts_from_solved_steps_because_that_gets_further_for_less() -> None:
    data, walk = mixture(seed=1, width=0.5), spans("karras", 10)
    x0 = draw(data, 16, seed=3)
    solved, unsolved = (
        invert(data, x0, walk, solver)
        for solver in (InversionConfig("ddim", exact=True).make_solver(), ExactSolver(SOLVERS["ddim"], EIGHT_BIT))
    )
    assert int(solved.converged.sum()) == 16
    assert int(unsolved.converged.sum()) < 10
    assert int(solved.nfe.sum()) < int(unsolved.nfe.sum())


def test_the_default_method_is_a_good_one() -> None:
    default, walk = InversionConfig(), spans(InversionConfig().grid, InversionConfig().steps)
    assert (default.solver, default.steps, walk[-1].there.t) == ("dpm2m", 20, LINEAR.T)
    found = invert(DATA, draw(DATA, 8), walk, InversionConfig(check=True).make_solver())
    assert found.check is not None
    assert float(found.check.error.max()) < 0.1


@pytest.mark.parametrize("tol", [0.0, -1.0, math.nan])
def test_a_tolerance_must_be_positive(tol: float) -> None:
    with pytest.raises(ArgumentError, match=r"tol must be above 0, not \S+\. 0\.0035 returns every 8-bit pixel"):
        InversionConfig(tol=tol).make_solver()


@pytest.mark.parametrize("exact", [False, True])
def test_an_unknown_solver_is_refused(exact: bool) -> None:
    expected = "There is no solver 'euler'. Use dpm2m, ddim, "
    with pytest.raises(ArgumentError, match=expected):
        InversionConfig("euler", exact=exact).make_solver()
    with pytest.raises(ArgumentError, match=expected):
        find_solver("euler")


@pytest.mark.parametrize("name", [*GRIDS, "karras:3"])
def test_a_method_makes_the_grid_that_it_names(name: str) -> None:
    assert InversionConfig(grid=name, steps=7).make_grid(LINEAR) == make_grid(name, LINEAR, 7)


def test_a_grid_of_ones_own_is_taken_as_it_is() -> None:
    own = Grid("mine", (0.0, 3.5, 77.0, 400.0))
    assert InversionConfig(grid=own, steps=99).make_grid(LINEAR) is own
    assert InversionConfig(grid=own, level=50).make_grid(LINEAR) == Grid("mine", (0.0, 3.5, 77.0))


@pytest.mark.parametrize(("level", "time"), [("0.4T", 400), ("xT", 1000), ("h", 1000), ("h:0.2T", 1000), ("250", 250)])
def test_levels_have_one_syntax(level: str, time: float) -> None:
    grid = InversionConfig(grid="uniform", level=level).make_grid(LINEAR)
    assert grid == InversionConfig(grid="uniform", level=time).make_grid(LINEAR)


@given(st.sampled_from(sorted(set(GRIDS) - {"standard"})), st.integers(2, 40), st.floats(0.001, 1000))
def test_a_level_ends_the_grid_at_its_nearest_time(name: str, steps: int, level: float) -> None:
    whole, part = (InversionConfig(grid=name, steps=steps, level=each).make_grid(LINEAR) for each in (None, level))
    assert part.times == whole.times[: len(part.times)]
    assert len(part.times) >= 2
    assert abs(part.times[-1] - level) == min(abs(t - level) for t in whole.times[1:])
    assert InversionConfig(grid=part).make_grid(LINEAR) == part


@pytest.mark.parametrize("level", [0.0, -1.0, 1000.1, math.inf, math.nan])
def test_a_level_outside_the_schedule_is_refused(level: float) -> None:
    with pytest.raises(ArgumentError, match=r"is not a level\. Give a time above 0 and up to 1000"):
        InversionConfig(level=level).make_grid(LINEAR)


@pytest.mark.parametrize(("grid", "steps"), [("zigzag", 20), ("karras:0", 20), ("karras:14", 0), ("uniform", 10_001)])
def test_a_grid_that_cannot_be_made_is_refused(grid: str, steps: int) -> None:
    with pytest.raises(ArgumentError, match=r"^[^\n]+$"):
        InversionConfig(grid=grid, steps=steps).make_grid(LINEAR)
