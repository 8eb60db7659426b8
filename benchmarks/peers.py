"""Samplers of other libraries as solvers that go both ways, and the grid that azula uses.

Each class here hands the whole integration to the library: its sampler gets our denoiser in its own interface and the
noise levels to visit. Their samplers do not ask in which direction the levels go, so that the way up is the same call
with the levels reversed, as users of azula, k-diffusion and ComfyUI ("flip sigmas") invert today.

Install the two with `pip install azula k-diffusion "setuptools<81"`; the last is what one of k-diffusion's
dependencies still needs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddim_edit.diffusion.grids import Grid
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.diffusion.solvers.solver import SolverInversion, Spans, State
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser


class PeerSolver:
    """A solver that leaves each direction to one call of another library's sampler."""

    def invert(self, denoiser: TrackedDenoiser, x: Tensor, spans: Spans) -> SolverInversion:
        """Integrate towards noise."""
        return SolverInversion((self.integrate(denoiser, x, _levels(spans)),))

    def decode(self, denoiser: TrackedDenoiser, state: State, spans: Spans) -> Tensor:
        """Integrate towards the image."""
        return self.integrate(denoiser, state[0], _levels(spans)[::-1])

    def integrate(self, denoiser: TrackedDenoiser, x: Tensor, levels: Sequence[Level]) -> Tensor:
        """Return x [B, ...] at the last of the levels, given at the first."""
        raise NotImplementedError


def _levels(spans: Spans) -> list[Level]:
    return [spans[0].here, *(span.there for span in spans)]


class AzulaExponentialAdams(PeerSolver):
    """azula's xEABSampler, an exponential Adams-Bashforth method on predictions of x0; order 2 is DPM-Solver++(2M)."""

    def __init__(self, order: int = 2) -> None:
        self.order = order

    def integrate(self, denoiser: TrackedDenoiser, x: Tensor, levels: Sequence[Level]) -> Tensor:
        """Return x [B, ...] at the last of the levels, given at the first."""
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import Schedule
        from azula.sample import xEABSampler

        by_time = {level.t: level for level in levels}

        class LevelSchedule(Schedule):  # type: ignore[misc]
            def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
                found = [by_time[float(each)] for each in t]
                alpha = torch.tensor([level.alpha for level in found], dtype=torch.float64)
                return alpha, torch.tensor([level.sigma for level in found], dtype=torch.float64)

        class TrackedPosterior(Denoiser):  # type: ignore[misc]
            schedule = LevelSchedule()

            def forward(self, x: Tensor, t: Tensor) -> Any:
                return DiracPosterior(denoiser(x, by_time[float(t)]).x0.double())

        class Sampler(xEABSampler):  # type: ignore[misc]
            @property
            def timesteps(self) -> Tensor:
                return torch.tensor([level.t for level in levels], dtype=torch.float64)

        found: Tensor = Sampler(TrackedPosterior(), order=self.order, silent=True)(x)
        return found


class KDiffusionSampler(PeerSolver):
    """A sampler of k-diffusion, as sample_dpmpp_2m, on the variance-exploding state x / alpha.

    Args:
        name: of a function of k_diffusion.sampling.
    """

    def __init__(self, name: str = "sample_dpmpp_2m") -> None:
        self.name = name

    def integrate(self, denoiser: TrackedDenoiser, x: Tensor, levels: Sequence[Level]) -> Tensor:
        """Return x [B, ...] at the last of the levels, given at the first."""
        from k_diffusion import sampling

        by_sigma = {level.s: level for level in levels}

        def denoise(scaled: Tensor, sigmas: Tensor) -> Tensor:
            level = by_sigma[float(sigmas[0])]
            return denoiser(level.alpha * scaled, level).x0.double()

        sigmas = torch.tensor([level.s for level in levels], dtype=torch.float64)
        scaled: Tensor = getattr(sampling, self.name)(denoise, x / levels[0].alpha, sigmas, disable=True)
        return levels[-1].alpha * scaled


class DiffusersUniPC(PeerSolver):
    """UniPC of diffusers: a predictor of some order whose result is corrected with the next step's evaluation.

    Args:
        order: of predictor and corrector.
    """

    def __init__(self, order: int = 2) -> None:
        self.order = order

    def integrate(self, denoiser: TrackedDenoiser, x: Tensor, levels: Sequence[Level]) -> Tensor:
        """Return x [B, ...] at the last of the levels, given at the first."""
        import diffusers

        kind: Any = diffusers.UniPCMultistepScheduler
        scheduler = kind(solver_order=self.order, lower_order_final=False)
        scheduler.set_timesteps(len(levels) - 1)
        # Its own levels are replaced; from here on they are told apart by their places.
        scheduler.sigmas = torch.tensor([level.s for level in levels], dtype=torch.float64)
        scheduler.timesteps = torch.arange(len(levels) - 1)
        scheduler.set_begin_index(0)
        for place, level in enumerate(levels[:-1]):
            x = scheduler.step(denoiser(x, level).eps.double(), place, x).prev_sample
        return x


def uniform_times(schedule: NoiseSchedule, steps: int) -> Grid:
    """Return evenly spaced times from the lowest trained level to the highest: azula's own choice."""
    return Grid("azula", tuple(torch.linspace(1, schedule.T, steps + 1, dtype=torch.float64).tolist()))
