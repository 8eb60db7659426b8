import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.diffusion.denoisers import MixtureDenoiser
from ddim_edit.diffusion.integration import Inversion, invert, sample
from ddim_edit.diffusion.schedules import Span
from ddim_edit.diffusion.solvers.anderson import PATIENCE
from ddim_edit.diffusion.solvers.exact import CheckedSolver, ExactSolver
from ddim_edit.diffusion.solvers.implicit import ImplicitStep, end_of_step
from ddim_edit.diffusion.solvers.registry import SOLVERS
from ddim_edit.diffusion.solvers.solver import SingleStateSolver, Solver
from ddim_edit.diffusion.solvers.steps import euler_step

from .closed_forms import SHAPE, Altered, Counting, draw, max_error, mixture, randn, spans

INNER: dict[str, Solver] = {
    "dpm2m": SOLVERS["dpm2m"],
    "heun": SOLVERS["heun"],
    "textbook": SingleStateSolver(euler_step, euler_step),
    "warm ddim": SOLVERS["ddim"],
    "solved ddim": SingleStateSolver(ImplicitStep(end_of_step, tol=1e-3), euler_step),
    "midpoint": SOLVERS["midpoint"],
    "bdia": SOLVERS["bdia"],
}
BROAD = mixture(seed=1, width=1.0)
TOL = 1e-7


def errors(found: Inversion, data: MixtureDenoiser, x0: Tensor, walk: tuple[Span, ...], solver: Solver) -> Tensor:
    """What a decode of the codes, made anew, misses by."""
    return (sample(data, found.state, walk, solver).x0 - x0).flatten(1).abs().amax(1)


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("grid", ["karras", "logsnr", "uniform"])
def test_pictures_come_back_to_the_tolerance_and_the_certificate_is_true(grid: str, name: str) -> None:
    walk, x0, solver = spans(grid, 20), draw(BROAD, 8, seed=3), INNER[name]
    denoiser = Counting(BROAD)
    found = invert(denoiser, x0, walk, ExactSolver(solver, TOL))
    assert found.converged.all()
    assert denoiser.rows == int(found.nfe.sum())
    again = errors(found, BROAD, x0, walk, solver)
    assert (again * walk[0].here.alpha <= TOL * (1 + 1e-6)).all()
    assert found.check is not None
    assert max_error(found.check.error, again) < 1e-13


@settings(max_examples=15)
@given(st.sampled_from(["dpm2m", "heun", "textbook"]), st.floats(0.1, 1), st.integers(5, 25), st.integers(0, 2**31))
def test_whatever_it_says_is_true_on_hard_mixtures_too(name: str, width: float, steps: int, seed: int) -> None:
    data, walk, solver = mixture(seed, width=width), spans("karras", steps), INNER[name]
    x0 = torch.cat([draw(data, 3, seed + 1), randn(2, *SHAPE, seed=seed + 2)])
    found = invert(data, x0, walk, ExactSolver(solver, TOL))
    assert found.check is not None
    again = errors(found, data, x0, walk, solver) * walk[0].here.alpha
    assert torch.equal(found.converged, again <= TOL * (1 + 1e-6))
    assert max_error(found.check.error * walk[0].here.alpha, again) < 1e-12
    assert found.state[0].isfinite().all()


def test_images_stop_costing_when_they_have_converged() -> None:
    """A row near the mean of its component is easy, one between two components is hard."""
    data, walk = mixture(seed=1, width=0.5), spans("logsnr", 20)
    x0 = torch.cat([data.means[2:3], draw(data, 8, seed=3)])
    denoiser, solver = Counting(data), ExactSolver(SOLVERS["dpm2m"], TOL)
    found = invert(denoiser, x0, walk, solver)
    assert denoiser.rows == int(found.nfe.sum())
    assert len(set(found.nfe.tolist())) > 2
    assert found.check is not None
    assert found.nfe.tolist() == [40 * rounds for rounds in found.check.rounds.tolist()]
    assert found.check.nfe.tolist() == [20] * 9
    alone = [int(invert(data, x[None], walk, solver).nfe) for x in x0]
    assert found.nfe.tolist() == alone


@pytest.mark.parametrize("name", ["dpm2m", "heun", "solved ddim"])
def test_a_picture_the_model_does_not_know_is_flagged_and_hurts_no_other(name: str) -> None:
    """Forty sharp components in 16 dimensions; foreign pictures have no preimage under so coarse a decode."""
    shape = (1, 4, 4)
    means, one = (2 * randn(40, *shape)).tanh(), torch.ones(40, dtype=torch.float64)
    data, walk = MixtureDenoiser(means, 0.1 * one, one), spans("karras", 20)
    own = means[:1] + 0.1 * randn(1, *shape, seed=4)
    foreign = (2 * randn(5, *shape, seed=9)).tanh()
    found = invert(data, torch.cat([own, foreign]), walk, ExactSolver(INNER[name], 1e-3))
    assert found.converged.tolist() == [True] + [False] * 5
    assert found.check is not None
    assert (found.check.error[1:] > 0.1).all()
    assert all(part.isfinite().all() for part in found.state)
    alone = invert(data, own, walk, ExactSolver(INNER[name], 1e-3))
    assert max_error(found.state[0][:1], alone.state[0]) < 1e-9


def test_more_rounds_never_make_it_worse() -> None:
    """The best code is kept, however the iteration wanders."""
    data, walk = mixture(seed=0, width=0.3), spans("karras", 10)
    x0, best = draw(data, 12, seed=3), torch.full((12,), math.inf, dtype=torch.float64)
    for limit in range(1, 9):
        trip = invert(data, x0, walk, ExactSolver(SOLVERS["dpm2m"], TOL, limit)).check
        assert trip is not None
        assert (trip.error <= best).all()
        assert (trip.rounds <= limit).all()
        best = trip.error
    assert best.max() > TOL


@pytest.mark.parametrize("share", [0.6, 0.99, 1.01])
def test_converged_is_decided_by_the_tolerance_itself(share: float) -> None:
    x0, walk = draw(BROAD, 1, seed=3), spans("karras", 10)
    once = invert(BROAD, x0, walk, ExactSolver(SOLVERS["heun"], 0.0, 1)).check
    assert once is not None
    tol = share * float(once.error) * walk[0].here.alpha
    assert invert(BROAD, x0, walk, ExactSolver(SOLVERS["heun"], tol, 1)).converged.tolist() == [share > 1]


def test_the_limit_is_one_of_rounds() -> None:
    found = invert(BROAD, draw(BROAD, 3), spans("karras", 10), ExactSolver(SOLVERS["heun"], 0.0, 2))
    assert not found.converged.any()
    assert found.nfe.tolist() == [2 * (20 + 20)] * 3


def lost(x: Tensor, eps: Tensor) -> Tensor:
    """No number for pictures whose first pixel is far off."""
    return torch.where(x[:, :1, :1, :1] > 50, math.nan, eps)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_code_that_is_no_number_is_not_called_converged(name: str) -> None:
    x0, walk = draw(BROAD, 3, seed=3), spans("karras", 10)
    x0[1] = 1000
    found = invert(Altered(BROAD, lost), x0, walk, SOLVERS[name])
    assert found.converged.tolist() == [True, False, True]
    others = invert(BROAD, x0[[0, 2]], walk, SOLVERS[name])
    for part, other in zip(found.state, others.state, strict=True):
        assert max_error(part[[0, 2]], other) < 1e-9


@pytest.mark.parametrize("name", INNER)
def test_a_row_that_is_no_number_poisons_no_other(name: str) -> None:
    x0, walk, solver = draw(BROAD, 4, seed=3), spans("karras", 10), ExactSolver(INNER[name], 1e-3)
    x0[2] = 1000
    found = invert(Altered(BROAD, lost), x0, walk, solver)
    assert not found.converged[2]
    assert found.check is not None
    assert found.check.rounds[2] <= PATIENCE
    others = invert(BROAD, x0[[0, 1, 3]], walk, solver)
    for part, other in zip(found.state, others.state, strict=True):
        assert max_error(part[[0, 1, 3]], other) < 1e-9
    assert torch.equal(found.converged[[0, 1, 3]], others.converged)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_check_decodes_once_and_changes_no_code(name: str) -> None:
    data, walk, denoiser = mixture(), spans("karras", 12), Counting(mixture())
    x0 = draw(data, 3)
    found, plain = invert(denoiser, x0, walk, CheckedSolver(SOLVERS[name])), invert(data, x0, walk, SOLVERS[name])
    assert found.check is not None
    assert plain.check is None
    assert denoiser.rows == int(found.nfe.sum())
    assert torch.equal(found.nfe, plain.nfe + found.check.nfe)
    for part, other in zip(found.state, plain.state, strict=True):
        assert torch.equal(part, other)
    sampled = sample(data, plain.state, walk, SOLVERS[name])
    assert torch.equal(found.check.decoded, sampled.x0)
    assert torch.equal(found.check.nfe, sampled.nfe)
    assert torch.equal(found.check.error, (sampled.x0 - x0).flatten(1).abs().amax(1))
    assert found.check.rounds.tolist() == [1, 1, 1]


def test_wrapped_solvers_decode_as_what_they_wrap() -> None:
    data, walk, z = mixture(), spans("karras", 12), randn(2, *SHAPE)
    plain = sample(data, (z,), walk, SOLVERS["dpm2m"]).x0
    assert torch.equal(sample(data, (z,), walk, CheckedSolver(SOLVERS["dpm2m"])).x0, plain)
    assert torch.equal(sample(data, (z,), walk, ExactSolver(SOLVERS["dpm2m"], TOL)).x0, plain)
