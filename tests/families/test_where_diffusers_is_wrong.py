"""Where the inverse schedulers of diffusers 0.42 go wrong and we do not, by a fine integration of the ODE in float64.

The error of a code is that of its worst pixel; a right code's pixels have a deviation of 1.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DPMSolverMultistepInverseScheduler
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.denoisers import MixtureDenoiser
from ddim_edit.diffusion.grids import Grid, GridMaker, Karras, Leading, linspace, trailing
from ddim_edit.diffusion.integration import invert, sample
from ddim_edit.diffusion.solvers.registry import SOLVERS

from ..diffusion.solvers.closed_forms import LINEAR, draw, fine_flow, gaussian, max_error, randn
from .processes import DATA as LATENTS
from .processes import SHAPE

T = LINEAR.T
# Contrasts of pictures within [-1, 1], where latents have a deviation of 1 and go beyond it.
PICTURES = MixtureDenoiser(LATENTS.means, LATENTS.widths / 4, LATENTS.weights)

diffusers_own_warning = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def flowed(data: MixtureDenoiser, y: Tensor, start: float, end: float) -> Tensor:
    """Where the ODE takes y = x / alpha between two times; next to the clean image nothing moves."""
    low, high = (max(LINEAR.s(t), 1e-4) for t in (start, end))
    return fine_flow(data, y, low, high)


@cache
def true_code(data: MixtureDenoiser, start: float, end: float, alpha: float = 1) -> Tensor:
    """The code of the images divided by alpha."""
    return LINEAR.level(end).alpha * flowed(data, draw(data, 2, seed=2) / alpha, start, end)


def walked(oracle: Any, data: MixtureDenoiser, x: Tensor) -> Tensor:
    """Where the scheduler's own steps lead with a network that knows the data."""
    for index in oracle.timesteps:
        x = oracle.step(data(x, LINEAR.level(float(index) + 1)).eps, index, x).prev_sample
    return x


def ddim_error(data: MixtureDenoiser, steps: int, **options: Any) -> float:
    """It sets out from the clean image."""
    oracle = DDIMInverseScheduler(**options)
    oracle.set_timesteps(steps)
    x0 = draw(data, 2, seed=2)
    return max_error(walked(oracle, data, x0), true_code(data, 0, float(oracle.timesteps[-1]) + 1))


def dpm_error(data: MixtureDenoiser, steps: int, **options: Any) -> float:
    """It takes the picture for a state at index 0, and ends at T."""
    oracle = DPMSolverMultistepInverseScheduler(**options)
    oracle.set_timesteps(steps)
    x0 = draw(data, 2, seed=2)
    found = walked(oracle, data, x0)
    return max_error(found, true_code(data, 1, T, LINEAR.level(1).alpha)) if found.isfinite().all() else math.inf


def our_error(data: MixtureDenoiser, grid: Grid, solver: str) -> float:
    x0 = draw(data, 2, seed=2)
    found = invert(data, x0, LINEAR.spans(grid), SOLVERS[solver]).state[0]
    return max_error(found, true_code(data, grid.times[0], grid.times[-1]))


class Case(NamedTuple):
    """What diffusers is asked for, and the least error of its code that shows it to be wrong.

    Fields: the error of its code by data and steps, with its options; the grid it means; how wrong it is; how right
    ours is on that grid with ddim and dpm2m, and with the same number of steps by default.
    """

    error: Callable[..., float]
    options: dict[str, Any]
    data: MixtureDenoiser
    steps: int
    grid: GridMaker
    wrong: float
    ddim: float
    dpm2m: float
    default: float


TRAILING = {"clip_sample": False, "timestep_spacing": "trailing"}
KARRAS = {"use_karras_sigmas": True}
WRONG = {
    # What clipping takes away is gone, however many the steps.
    "clip_sample, 50 steps": Case(ddim_error, {}, LATENTS, 50, Leading(), 2.0, 0.15, 0.03, 0.013),
    "clip_sample, 100 steps": Case(ddim_error, {}, LATENTS, 100, Leading(), 2.0, 0.08, 0.01, 0.004),
    # It steps by T // N from one index to the next, which is T / N further on.
    "trailing, 300 steps": Case(ddim_error, TRAILING, PICTURES, 300, trailing, 0.35, 0.08, 0.025, 5e-4),
    "trailing, 600 steps": Case(ddim_error, TRAILING, PICTURES, 600, trailing, 1.2, 0.045, 0.011, 1.3e-4),
    # The last sigma comes twice, and the third order divides by that step of no length.
    "karras order 3, 20 steps": Case(
        dpm_error, {**KARRAS, "solver_order": 3}, LATENTS, 20, Karras(), math.inf, 0.6, 0.11, 0.08
    ),
    "karras order 3, 50 steps": Case(
        dpm_error, {**KARRAS, "solver_order": 3}, LATENTS, 50, Karras(), math.inf, 0.22, 0.02, 0.014
    ),
    # Indices that fall together are dropped, their sigmas are not: the network is asked at another level than is meant.
    "karras order 2, 100 steps": Case(dpm_error, KARRAS, LATENTS, 100, Karras(), 0.14, 0.11, 0.005, 0.0035),
    "karras order 3, 100 steps": Case(
        dpm_error, {**KARRAS, "solver_order": 3}, LATENTS, 100, Karras(), 0.14, 0.11, 0.005, 0.0035
    ),
}


@diffusers_own_warning
@pytest.mark.parametrize("name", WRONG)
def test_codes_of_diffusers_are_wrong_and_ours_are_right(name: str) -> None:
    case = WRONG[name]
    assert case.error(case.data, case.steps, **case.options) >= case.wrong
    grid, default = case.grid(LINEAR, case.steps), InversionConfig(steps=case.steps)
    assert our_error(case.data, grid, "ddim") < case.ddim
    assert our_error(case.data, grid, "dpm2m") < case.dpm2m
    assert our_error(case.data, default.make_grid(LINEAR), default.solver) < case.default


@pytest.mark.parametrize("data", [LATENTS, PICTURES], ids=["latents", "pictures"])
@pytest.mark.parametrize(
    ("grid", "solver", "least"),
    [
        *((maker, "ddim", 1.6) for maker in (Leading(), trailing, linspace, Karras())),
        # Of the first step, out of the clean image, the multistep method has nothing to extrapolate from. How many of
        # the next are too large to be undone depends on their number; explicit ones fall by 2.4 and more, from errors
        # that are up to three times as large.
        *((maker, "dpm2m", 1.9) for maker in (Leading(), trailing, linspace)),
        *((maker, "dpm2m", 3.5) for maker in (Karras(), Karras(14))),
    ],
)
def test_our_error_falls_by_its_order_when_steps_are_doubled(
    grid: GridMaker, solver: str, least: float, data: MixtureDenoiser
) -> None:
    errors = [our_error(data, grid(LINEAR, steps), solver) for steps in (50, 100)]
    assert errors[0] > least * errors[1]


@diffusers_own_warning
@pytest.mark.parametrize(
    ("error", "options", "steps", "most"),
    [
        (ddim_error, {"clip_sample": False}, 50, 0.13),
        (ddim_error, {"clip_sample": False}, 100, 0.065),
        (ddim_error, {"clip_sample": False, "steps_offset": 1}, 50, 0.13),
        (ddim_error, TRAILING, 250, 0.03),
        (ddim_error, TRAILING, 500, 0.015),
        (dpm_error, {}, 50, 0.03),
        (dpm_error, {"solver_order": 3}, 50, 0.03),
        (dpm_error, KARRAS, 50, 0.02),
        (dpm_error, {**KARRAS, "solver_order": 3}, 14, 0.2),
    ],
)
def test_elsewhere_diffusers_is_right(error: Callable[..., float], options: Any, steps: int, most: float) -> None:
    """So what is wrong is what is told apart above: 250 steps divide T, 14 are few enough to end in a lower order."""
    assert error(LATENTS, steps, **options) < most


def signal_up(steps: int) -> float:
    """How many times too much of the picture is left at T, by a network that sees no noise."""
    oracle: Any = DDIMInverseScheduler(**TRAILING)
    oracle.set_timesteps(steps)
    return float(_without_noise(oracle)) / LINEAR.level(T).alpha


def signal_down(steps: int, spacing: str) -> float:
    """How many times too much of the picture comes out at the end."""
    oracle: Any = DDIMScheduler(clip_sample=False, timestep_spacing=spacing)
    oracle.set_timesteps(steps)
    return float(_without_noise(oracle)) * LINEAR.level(T).alpha


def _without_noise(oracle: Any) -> Tensor:
    x = torch.ones(1, dtype=torch.float64)
    for index in oracle.timesteps:
        x = oracle.step(torch.zeros_like(x), index, x).prev_sample
    return x


@pytest.mark.parametrize(("steps", "factor"), [(30, 1.050), (45, 1.051), (300, 1.656), (600, 7.550)])
def test_trailing_steps_that_do_not_divide_the_levels_lose_count_of_the_signal(steps: int, factor: float) -> None:
    """Without noise x is alpha x0 at every level, whatever the steps: no order of accuracy excuses any other factor."""
    assert signal_up(40) == pytest.approx(1, abs=1e-6)
    assert signal_up(steps) == pytest.approx(factor, abs=1e-3)
    assert_signal_is_kept(trailing(LINEAR, steps))


@pytest.mark.parametrize(
    ("spacing", "steps", "factor"),
    [("linspace", 10, 0.637), ("linspace", 50, 0.910), ("linspace", 300, 0.598), ("trailing", 300, 0.604)],
)
def test_sampling_loses_count_too(spacing: str, steps: int, factor: float) -> None:
    assert signal_down(40, "trailing") == pytest.approx(1, abs=1e-6)
    assert signal_down(steps, spacing) == pytest.approx(factor, abs=1e-3)
    assert_signal_is_kept({"linspace": linspace, "trailing": trailing}[spacing](LINEAR, steps))


def assert_signal_is_kept(grid: Grid) -> None:
    """A flat prior is what sees no noise."""
    x0, spans, data = randn(1, *SHAPE), LINEAR.spans(grid), gaussian(1e9, torch.zeros(SHAPE, dtype=torch.float64))
    for solver in ("ddim", "dpm2m"):
        code = invert(data, x0, spans, SOLVERS[solver]).state[0]
        assert max_error(code, LINEAR.level(T).alpha * x0) < 1e-12
        assert max_error(sample(data, (code,), spans, SOLVERS[solver]).x0, x0) < 1e-9


def test_linspace_is_refused_by_diffusers_inverse_and_sampled_wrongly() -> None:
    """Its sampler's error stays where ours falls with the steps; that ours is right up the grid is shown above."""
    with pytest.raises(ValueError, match="linspace is not supported"):
        ddim_error(PICTURES, 20, timestep_spacing="linspace")
    oracle: Any = DDIMScheduler(clip_sample=False, timestep_spacing="linspace")
    oracle.set_timesteps(300)
    noise = randn(2, *SHAPE, seed=5)
    true = flowed(PICTURES, noise / LINEAR.level(T).alpha, T, 0)
    assert max_error(walked(oracle, PICTURES, noise), true) > 0.08
    spans = LINEAR.spans(linspace(LINEAR, 300))
    for solver, most in (("ddim", 0.02), ("dpm2m", 0.005)):
        assert max_error(sample(PICTURES, (noise,), spans, SOLVERS[solver]).x0, true) < most


@pytest.mark.parametrize("kind", [DDIMInverseScheduler, DDIMScheduler])
def test_an_offset_of_1_at_every_level_overruns_diffusers(kind: Any) -> None:
    """Indices run from 1 to 1000, and there is no 1000."""
    oracle = kind(clip_sample=False, steps_offset=1)
    oracle.set_timesteps(T)
    assert int(oracle.timesteps.max()) == T
    with pytest.raises(IndexError, match="index 1000 is out of bounds"):
        _without_noise(oracle)


@pytest.mark.parametrize(("solver", "most"), [("ddim", 0.008), ("dpm2m", 6e-4)])
@pytest.mark.parametrize("offset", [0, 1])
def test_every_level_is_right_with_ours_at_any_offset(offset: int, solver: str, most: float) -> None:
    grid = Leading(offset)(LINEAR, T)
    assert grid.times[-1] == T
    assert our_error(LATENTS, grid, solver) < most
