import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level, Span
from ddim_edit.diffusion.solvers.ancestral import AncestralStep, no_noise
from ddim_edit.diffusion.solvers.registered.dpm2m import dpm2m_step
from ddim_edit.diffusion.solvers.registered.heun import heun_step
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser, select_rows
from ddim_edit.diffusion.solvers.steps import Step, ddim_step_eps, ddim_step_x0, euler_step

from .closed_forms import LINEAR, SHAPE, gaussian, max_error, mixture, randn, spans

TIMES, SEEDS = st.floats(1, 1000), st.integers(0, 2**31)


@given(TIMES, TIMES, SEEDS)
def test_going_along_an_eps_keeps_what_it_says_of_the_picture(start: float, end: float, seed: int) -> None:
    span, x0, eps = LINEAR.span(start, end), randn(2, *SHAPE, seed=seed), randn(2, *SHAPE, seed=seed + 1)
    x = span.here.alpha * x0 + span.here.sigma * eps
    there = span.there.alpha * x0 + span.there.sigma * eps
    ratio = max(1, span.there.alpha / span.here.alpha)
    assert max_error(ddim_step_eps(x, eps, span), there) < 1e-14 * ratio
    assert max_error(ddim_step_eps(ddim_step_eps(x, eps, span), eps, span.flipped()), x) < 1e-12


@given(st.floats(0, 1000), st.floats(0, 1000), SEEDS)
def test_going_towards_a_prediction_that_adds_up_to_x_is_going_along_its_eps(
    start: float, end: float, seed: int
) -> None:
    """Also at s = 157, where x0 is the small difference of two large numbers."""
    span, (x, eps) = LINEAR.span(start, end), randn(2, *SHAPE, seed=seed)
    answer = Prediction((x - span.here.sigma * eps) / span.here.alpha, eps)
    ratio = max(1, span.there.alpha / span.here.alpha)
    assert max_error(ddim_step_x0(*answer, span.there), ddim_step_eps(x, eps, span)) < 2e-14 * ratio


class Unmatched:
    """A denoiser whose x0 and eps are unrelated to each other and to x, as an asymmetric edit's are."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        return Prediction(*randn(2, *x.shape, seed=self.seed + round(level.t)))


@given(st.integers(2, 1000), st.floats(0, 1), SEEDS)
def test_a_ddim_step_believes_x0_and_eps_alike(start: int, way: float, seed: int) -> None:
    span, x, data = _span(start, way), randn(1, *SHAPE, seed=seed), Unmatched(seed)
    x0, eps = data(x, span.here)
    there = span.there.alpha * x0 + span.there.sigma * eps
    assert max_error(euler_step(TrackedDenoiser.start(data, 1), x, span, ())[0], there) < 1e-14
    assert max_error(dpm2m_step(TrackedDenoiser.start(data, 1), x, span, ())[0], there) < 1e-14
    assert max_error(AncestralStep(0.0, no_noise)(TrackedDenoiser.start(data, 1), x, span, ())[0], there) < 1e-14


@given(st.integers(3, 1000), st.floats(0.1, 0.9), st.floats(0.1, 1), SEEDS)
def test_a_second_order_step_extrapolates_the_x0_that_it_was_given(
    start: int, way: float, further: float, seed: int
) -> None:
    """x' = alpha' x0 + sigma' eps + alpha' (1 - s'/s) (h / 2 h_prev) (x0 - x0_prev), lambda = -log s."""
    first = LINEAR.span(start, 1 + way * (start - 1))
    second = LINEAR.span(first.there.t, further * first.there.t / 2)
    x, data = randn(1, *SHAPE, seed=seed), Unmatched(seed)
    x0_prev, (x0, eps) = data(x, first.here).x0, data(x, second.here)
    before, here, there = first.here.s, second.here.s, second.there.s
    lean = (math.log(here / there) / math.log(before / here) / 2) * (x0 - x0_prev)
    expected = second.there.alpha * (x0 + there * eps) + second.there.alpha * (1 - there / here) * lean
    account = TrackedDenoiser.start(data, 1)
    state, past = dpm2m_step(account, x, first, ())
    state, _ = dpm2m_step(account, state, second, past)
    assert max_error(state, expected) < 1e-12 * max(1, float(lean.abs().max()))


@pytest.mark.parametrize("step", [euler_step, heun_step, dpm2m_step])
@given(TIMES, TIMES, SEEDS)
def test_a_step_of_no_length_goes_nowhere(step: Step, start: float, end: float, seed: int) -> None:
    x, account = randn(2, *SHAPE, seed=seed), TrackedDenoiser.start(mixture(), 2)
    _, past = step(account, x, LINEAR.span(end, start), ()) if abs(start - end) > 1e-3 else (x, ())
    assert max_error(step(account, x, LINEAR.span(start, start), past)[0], x) < 1e-12


@given(st.floats(2, 1000), st.floats(0, 1), st.floats(0, 1), SEEDS)
def test_every_eta_keeps_the_marginals(start: float, way: float, eta: float, seed: int) -> None:
    """For a point mass x_t = alpha mean + sigma n: what n and z contribute adds up to sigma_s, whatever eta."""
    mean, n, z = randn(3, *SHAPE, seed=seed)
    here, there = LINEAR.level(start), LINEAR.level(way * (start - 1))
    step = AncestralStep(eta, lambda x: z[None])
    x, _ = step(
        TrackedDenoiser.start(gaussian(0.0, mean), 1), (here.alpha * mean + here.sigma * n)[None], _span(start, way), ()
    )
    noise = (x[0] - there.alpha * mean).flatten()
    of_n, of_z = torch.linalg.lstsq(torch.stack([n.flatten(), z.flatten()], 1), noise[:, None]).solution.flatten()
    assert float(of_n**2 + of_z**2) == pytest.approx(there.sigma**2, abs=1e-9)
    posterior = (there.sigma / here.sigma) * (1 - (here.alpha / there.alpha) ** 2) ** 0.5
    assert float(of_z) == pytest.approx(eta * posterior, abs=1e-6)


def _span(start: float, way: float) -> Span:
    return LINEAR.span(start, way * (start - 1))


def test_the_posterior_mean_path_is_not_the_ode() -> None:
    """Dropping DDPM's noise shrinks what should be noise, step by step."""
    walk, x = spans("uniform", 100), randn(4, *SHAPE)
    sizes = {}
    for name, step in (("ode", euler_step), ("mean", AncestralStep(1.0, no_noise))):
        account, state = TrackedDenoiser.start(gaussian(0.5), 4), x
        for span in reversed(walk):
            state, _ = step(account, state, span.flipped(), ())
        sizes[name] = float(state.std())
    assert sizes["ode"] == pytest.approx(0.5 * float(x.std()), rel=0.05)
    assert sizes["mean"] < 0.2 * sizes["ode"]


def test_an_account_is_shared_by_its_views_and_counts_by_image() -> None:
    account = TrackedDenoiser.start(mixture(), 4)
    some, level = account.for_rows(torch.tensor([False, True, False, True])), LINEAR.level(10)
    some(randn(2, *SHAPE), level)
    some.for_rows(torch.tensor([1]))(randn(1, *SHAPE), level)
    account(randn(4, *SHAPE), level)
    assert account.nfe.tolist() == [1, 2, 1, 3]
    assert some.evaluations.tolist() == [2, 3]
    some.record_residual(torch.tensor([0.5, 0.25]), torch.tensor([True, False]))
    some.record_residual(torch.tensor([0.125, 1.0]), torch.tensor([True, True]))
    assert account.residual.tolist() == [0, 0.5, 0, 1.0]
    assert account.converged.tolist() == [True, True, True, False]
    some.set_converged(torch.tensor([False, True]))
    assert account.converged.tolist() == [True, False, True, True]
    account.record_residual(torch.tensor([0.25, 0.25, 0.25, 2.0]))
    assert account.residual.tolist() == [0.25, 0.5, 0.25, 2.0]
    assert account.converged.tolist() == [True, False, True, True]


def test_what_was_spent_is_a_copy() -> None:
    account, level = TrackedDenoiser.start(mixture(), 2), LINEAR.level(10)
    for some in (account, account.for_rows(torch.tensor([1]))):
        before = some.evaluations
        some(randn(len(some.rows), *SHAPE), level)
        assert (some.evaluations - before).tolist() == [1] * len(some.rows)


def test_all_rows_are_selected_without_a_copy_and_a_mask_is_no_list_of_indices() -> None:
    x = randn(3, *SHAPE)
    assert select_rows(x, torch.arange(3)) is x
    assert torch.equal(select_rows(x, torch.tensor([0, 2])), x[[0, 2]])
    assert torch.equal(select_rows(x, torch.tensor([True, False, True])), x[[0, 2]])
    assert torch.equal(select_rows(x, torch.tensor([True, True, True])), x)
