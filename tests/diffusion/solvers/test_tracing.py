import pytest
import torch

from ddim_edit.diffusion.integration import invert
from ddim_edit.diffusion.solvers.exact import CheckedSolver
from ddim_edit.diffusion.solvers.recording import record_states
from ddim_edit.diffusion.solvers.registry import SOLVER_ENTRIES, SOLVERS, find_solver
from ddim_edit.diffusion.solvers.solver import SingleStateSolver
from ddim_edit.errors import ArgumentError

from .closed_forms import draw, gaussian, gaussian_flow, mixture, spans

ONE_STATE = [name for name, solver in SOLVERS.items() if isinstance(solver, SingleStateSolver)]
DATA = mixture(seed=1, width=1.0)


def test_entries_say_which_solvers_have_two_states() -> None:
    assert [name for name, entry in SOLVER_ENTRIES.items() if not entry.two_state] == ONE_STATE


@pytest.mark.parametrize("name", ONE_STATE)
def test_a_recorded_walk_is_the_same_walk_and_keeps_every_state(name: str) -> None:
    """Each of them is where the walk ends that stops there, so one walk reads all levels."""
    walk, x0, states = spans("karras:14", 8), draw(DATA, 3), {}
    found = invert(DATA, x0, walk, record_states(find_solver(name), states))
    plain = invert(DATA, x0, walk, find_solver(name))
    assert torch.equal(found.state[0], plain.state[0])
    assert found.nfe.tolist() == plain.nfe.tolist()
    assert list(states) == [span.there.t for span in walk]
    for length, span in enumerate(walk, 1):
        assert torch.equal(states[span.there.t], invert(DATA, x0, walk[:length], find_solver(name)).state[0])


def test_states_are_those_of_the_exact_flow() -> None:
    """Of one Gaussian, in the limit of many steps."""
    mean, states = torch.full((1, 2, 3), 0.3, dtype=torch.float64), {}
    x0, walk = draw(DATA, 2), spans("karras:7", 200)
    invert(gaussian(0.7, mean), x0, walk, record_states(find_solver("dpm2m"), states))
    first = walk[0].here
    for span in walk[20::60]:
        there = span.there
        flow = gaussian_flow(x0, 0.7, mean, first.s, there.s)
        torch.testing.assert_close(states[there.t] / there.alpha, flow, rtol=1e-3, atol=1e-3)


def test_recording_leaves_the_way_down_alone() -> None:
    solver = find_solver("dpm2m")
    recorded = record_states(solver, {})
    assert isinstance(recorded, SingleStateSolver)
    assert recorded.down is solver.down


@pytest.mark.parametrize(
    "solver", [SOLVERS["belm"], SOLVERS["edict"], CheckedSolver(SOLVERS["ddim"])], ids=["belm", "edict", "checked"]
)
def test_codes_of_more_than_x_are_not_recorded(solver: object) -> None:
    with pytest.raises(ArgumentError, match="exist for dpm2m, ddim, "):
        record_states(solver, {})
