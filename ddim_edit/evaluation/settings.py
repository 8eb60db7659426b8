"""Defaults and baselines of evaluations. Nothing here imports torch, so that the command line can list them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_edit.diffusion.grids import STANDARD

if TYPE_CHECKING:
    from ddim_edit.models.diffusers_inversion import DiffusersInversion
    from ddim_edit.models.model import Model

DEFAULT_SOLVERS = ("dpm2m", "ddim")
DEFAULT_GRIDS = (STANDARD,)
DEFAULT_STEPS = (10, 20, 50, 100, 200, 500, 1000)
"""Those of the DDIM paper's table 2."""


@dataclass(frozen=True)
class Baseline:
    """Another program's inversion to compare with.

    Args:
        help: one line for the command line.
        make: makes its loop for a model.
        grid: name of the timesteps that it visits.
    """

    help: str
    make: Callable[[Model], DiffusersInversion]
    grid: str


def _make_ddim(model: Model) -> DiffusersInversion:
    from ddim_edit.models.diffusers_inversion import DiffusersInversion

    return DiffusersInversion.of(model)


def _make_multistep(model: Model) -> DiffusersInversion:
    from ddim_edit.models.diffusers_inversion import DiffusersInversion

    return DiffusersInversion.of(model, multistep=True)


BASELINES: Mapping[str, Baseline] = {
    "diffusers": Baseline("diffusers' DDIMInverseScheduler and DDIMScheduler", _make_ddim, "leading"),
    "diffusers-dpm": Baseline(
        "diffusers' DPMSolverMultistepInverseScheduler and DPMSolverMultistepScheduler, order 2, Karras sigmas",
        _make_multistep,
        "karras",
    ),
}
