"""Recipes, and directions and latents that have them."""

import torch

from ddim_edit import Direction, LatentArray, Recipe
from ddim_edit.directions import to_unit
from ddim_edit.latents.provenance import LatentArrayOrigin

SHAPE = (3, 4, 4)
SCHEDULE = {"kind": "linear", "start": 1e-4, "end": 0.02, "T": 1000}
X_HOME = Recipe(
    *("toy", {"process": "a" * 16}, SCHEDULE, "epsilon", "float32", "dpm2m", "karras:14", (1.0, 90.0, 400.0)),
    origin=LatentArrayOrigin(3),
)
H_HOME = Recipe(
    *("toy", {"process": "a" * 16}, SCHEDULE, "epsilon", "float32", "dpm2m", "karras:14", (1.0, 90.0, 400.0, 1000.0))
)
H_TIMES = (90.0, 400.0)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_x(name: str = "old", seed: int = 0, **changes: object) -> Direction:
    fields = {"intercept": 0.5, "mean": -1.25, "sd": 2.0, "recipe": X_HOME, "report": {"method": "mean", "auc": 0.9}}
    return Direction(name, **{"vector": to_unit(randn(*SHAPE, seed=seed)), **fields, **changes})


def of_h(name: str = "old", seed: int = 0, **changes: object) -> Direction:
    return of_x(
        name, **{"vector": to_unit(randn(2, 5, 2, 2, seed=seed)), "recipe": H_HOME, "times": H_TIMES, **changes}
    )


def latents_of(rows: torch.Tensor) -> LatentArray:
    """Return samples [n, ...] as latents of x."""
    return LatentArray(rows.float(), X_HOME)
