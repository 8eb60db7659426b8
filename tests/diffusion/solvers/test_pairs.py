import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, MixtureDenoiser
from ddim_edit.diffusion.integration import invert, sample
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level, Span
from ddim_edit.diffusion.solvers.registered.edict import EdictSolver
from ddim_edit.diffusion.solvers.registry import SOLVERS
from ddim_edit.diffusion.solvers.solver import Solver, State
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.two_state import shrink_noise
from ddim_edit.errors import ArgumentError

from .closed_forms import SHAPE, Altered, Counting, draw, max_error, mixture, randn, spans

SEEDS = st.integers(0, 2**31)
GRIDS = st.sampled_from(["karras", "karras:3", "logsnr", "uniform", "quad", "trailing"])
# Times rounded to whole ones make O-BELM's scale wander out of the range in which sums of its states are exact.
EVEN_GRIDS = st.sampled_from(["karras", "karras:3", "logsnr", "uniform", "quad"])
PAIRS = ["bdia", "belm", "edict"]


def rounded(data: Denoiser) -> Altered:
    """What a network in bfloat16 is like: coarse, and the same every time."""
    return Altered(data, lambda x, eps: eps.bfloat16().double())


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=20)
@given(GRIDS, st.integers(10, 100), SEEDS, st.booleans())
def test_pairs_come_back_up_to_rounding(name: str, grid: str, steps: int, seed: int, coarse: bool) -> None:
    data, walk = mixture(seed), spans(grid, steps)
    denoiser, x0 = rounded(data) if coarse else data, draw(data, 3, seed + 1)
    found = invert(denoiser, x0, walk, SOLVERS[name])
    error = max_error(sample(denoiser, found.state, walk, SOLVERS[name]).x0, x0)
    assert error < {"bdia": 1e-13, "belm": 1e-12, "edict": 1e-10}[name]


@pytest.mark.parametrize("name", ["bdia", "belm"])
@settings(max_examples=20)
@given(EVEN_GRIDS, st.integers(2, 100), SEEDS)
def test_states_that_came_down_once_come_back_bit_by_bit(name: str, grid: str, steps: int, seed: int) -> None:
    """Both ways meet the same floats, so even a network in bfloat16 cannot tell them apart."""
    data, walk, solver = mixture(seed), spans(grid, steps), SOLVERS[name]
    account = TrackedDenoiser.start(rounded(data), 3)
    once = solver.decode(account, solver.invert(account, draw(data, 3, seed + 1), walk).state, walk)
    twice = solver.decode(account, solver.invert(account, once, walk).state, walk)
    assert torch.equal(once, twice)


@pytest.mark.parametrize(("name", "up", "down"), [("bdia", 20, 19), ("belm", 20, 19), ("edict", 40, 40)])
def test_pairs_cost_what_they_say(name: str, up: int, down: int) -> None:
    denoiser, walk = Counting(mixture()), spans("karras", 20)
    found = invert(denoiser, draw(mixture(), 3), walk, SOLVERS[name])
    assert (denoiser.rows, found.nfe.tolist()) == (3 * up, [up] * 3)
    sampled = sample(denoiser, found.state, walk, SOLVERS[name])
    assert (denoiser.rows, sampled.nfe.tolist()) == (3 * (up + down), [down] * 3)


@pytest.mark.parametrize("name", PAIRS)
def test_a_bare_x_means_a_delta_of_zero(name: str) -> None:
    data, walk, x = mixture(), spans("karras", 20), randn(3, *SHAPE)
    bare = sample(data, (x,), walk, SOLVERS[name]).x0
    assert torch.equal(bare, sample(data, (x, torch.zeros_like(x)), walk, SOLVERS[name]).x0)


@pytest.mark.parametrize("name", ["bdia", "belm"])
def test_delta_is_what_the_last_step_adds_to_shrinking_the_noise(name: str) -> None:
    """Walking all but the last step gives the state that x_S and delta stand for."""
    data, walk, x0 = mixture(), spans("karras", 20), draw(mixture(), 3)
    x, delta = invert(data, x0, walk, SOLVERS[name]).state
    before, _ = invert(data, x0, walk[:-1], SOLVERS[name]).state
    last = walk[-1]
    assert max_error(shrink_noise(x, last), last.here.sigma / last.there.sigma * x) == 0
    assert max_error(shrink_noise(x, last) + delta, before) < 1e-12


def two_steps_down(name: str, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Prediction, list[Level]]:
    """A decode of two steps: what came out, the state between, what was believed there, and the three levels."""
    data, (near, far) = mixture(), spans("karras", 20)[6:8]
    out = sample(data, (x, delta), (near, far), SOLVERS[name]).x0 * near.here.alpha
    between = shrink_noise(x, far) + delta
    return out, between, data(between, near.there), [near.here, near.there, far.there]


def test_bdia_replaces_the_ddim_step_by_the_difference_of_two() -> None:
    """Zhang, Lewis, Kleijn (2023), gamma = 1: x_{i-1} = x_{i+1} - ddim(x_i, up) + ddim(x_i, down)."""
    x, delta = randn(2, *SHAPE), 0.1 * randn(2, *SHAPE, seed=1)
    out, _, (x0, eps), (low, _, high) = two_steps_down("bdia", x, delta)
    expected = x - (high.alpha * x0 + high.sigma * eps) + (low.alpha * x0 + low.sigma * eps)
    assert max_error(out, expected) < 1e-13


def test_belm_is_the_optimal_two_step_formula() -> None:
    """Wang et al. (2024), O-BELM, in x: h are steps in s."""
    x, delta = randn(2, *SHAPE), 0.1 * randn(2, *SHAPE, seed=1)
    out, between, (_, eps), (low, middle, high) = two_steps_down("belm", x, delta)
    h, h_next = middle.s - low.s, high.s - middle.s
    square = (h / h_next) ** 2
    expected = low.alpha * (square * x / high.alpha + (1 - square) * between / middle.alpha)
    expected = expected - low.alpha * h * (h + h_next) / h_next * eps
    assert max_error(out, expected) < 1e-13


def test_edict_takes_turns_as_published() -> None:
    """Wallace, Gokul, Naik (2023), algorithm 2, with a = alpha_{t-1} / alpha_t and b = sigma_{t-1} - a sigma_t."""
    data, walk, p = mixture(), spans("karras", 8), 0.93
    x = randn(2, *SHAPE)
    y = x + 0.01 * randn(2, *SHAPE, seed=1)
    decoded = sample(data, (x, y - x), walk, EdictSolver(p)).x0
    for span in reversed(walk):
        t, before = span.there, span.here
        a = before.alpha / t.alpha
        b = before.sigma - a * t.sigma
        x_inter = a * x + b * data(y, t).eps
        y_inter = a * y + b * data(x_inter, t).eps
        x = p * x_inter + (1 - p) * y_inter
        y = p * y_inter + (1 - p) * x
    assert max_error(decoded, x / walk[0].here.alpha) < 1e-13 * float(x.abs().max())


def amplification(solver: Solver, data: MixtureDenoiser, walk: tuple[Span, ...], parts: State, shifts: State) -> float:
    """How much larger than a change of the code the change of the image is, root mean square."""
    size = 1e-5
    changed = tuple(part + size * shift for part, shift in zip(parts, shifts, strict=True))
    before, after = (sample(data, code, walk, solver).x0 for code in (parts, changed))
    return float((after - before).square().mean().sqrt()) / (size * float(shifts[0].square().mean().sqrt()))


@pytest.mark.parametrize("name", ["bdia", "belm"])
@pytest.mark.parametrize("grid", ["karras", "logsnr"])
@pytest.mark.parametrize("steps", [20, 50, 100])
def test_editing_x_is_hardly_rougher_than_with_ddim(steps: int, grid: str, name: str) -> None:
    data, walk = mixture(seed=3, width=1.0), spans(grid, steps)
    x0, shift = draw(data, 64, seed=4), randn(64, *SHAPE, seed=5)
    rough = {}
    for solver in ("ddim", name):
        parts = invert(data, x0, walk, SOLVERS[solver]).state
        shifts = (shift, torch.zeros_like(shift))[: len(parts)]
        rough[solver] = amplification(SOLVERS[solver], data, walk, parts, shifts)
    assert rough[name] < 1.5 * rough["ddim"]


@pytest.mark.parametrize("name", ["bdia", "belm"])
def test_one_step_is_refused_both_ways(name: str) -> None:
    walk, x = spans("karras", 1), randn(1, *SHAPE)
    message = "A two-state solver needs at least 2 steps, not 1"
    with pytest.raises(ArgumentError, match=message):
        invert(mixture(), x, walk, SOLVERS[name])
    with pytest.raises(ArgumentError, match=message):
        sample(mixture(), (x,), walk, SOLVERS[name])


def test_edict_is_content_with_one_step() -> None:
    data, walk, x0 = mixture(), spans("karras", 1), draw(mixture(), 2)
    parts = invert(data, x0, walk, SOLVERS["edict"]).state
    assert max_error(sample(data, parts, walk, SOLVERS["edict"]).x0, x0) < 1e-10
