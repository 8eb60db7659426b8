"""Latents as an inversion leaves them, and stores of them without a model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ddim_edit import Latent, Recipe
from ddim_edit.latents.provenance import InversionOrigin
from ddim_edit.latents.store.files import ShardPlan, StoreFiles, ensure_settings
from ddim_edit.latents.store.shard import write_shard

SHAPE = (3, 4, 5)
RECIPE = Recipe(
    model="faces",
    components={"network": "-".join(["ab" * 8, "cd" * 8, "ef" * 8]), "process": "01" * 8},
    schedule={"kind": "linear", "start": 1e-4, "end": 0.02, "T": 1000},
    prediction="epsilon",
    dtype="float32",
    solver="dpm2m",
    grid="karras:14",
    times=(1.0, 40.25, 1000 / 3, 1000.0),
)


def latent(seed: int, paired: bool = False, converged: bool = True, **changes: Any) -> Latent:
    """A latent whose recipe has a part of its own, as those of inversions have."""
    numbers = torch.Generator().manual_seed(seed)
    x, delta = torch.randn((2, *SHAPE), generator=numbers, dtype=torch.float64)
    own: dict[str, Any] = {"dequantise": ((2**63 - 1 - seed, 1.0),), "origin": InversionOrigin(f"{seed:064x}")}
    if paired:
        own["solver"] = "bdia"
    report = {"nfe": 20 + seed, "residual": 1 / (seed + 3), "converged": converged, "error": None}
    return Latent(x, 1000.0, replace(RECIPE, **{**own, **changes}), delta if paired else None, report)


def same(a: Latent, b: Latent) -> bool:
    """Whether two latents are alike bit by bit, and in every word."""
    deltas = (a.delta is None) == (b.delta is None)
    if a.delta is not None and b.delta is not None:
        deltas = a.delta.numpy().tobytes() == b.delta.numpy().tobytes()
    plain = (a.t, a.recipe, a.report, a.x.dtype) == (b.t, b.recipe, b.report, b.x.dtype)
    return plain and deltas and a.x.numpy().tobytes() == b.x.numpy().tobytes()


def save_store(
    folder: Path, shards: Sequence[Mapping[str, Latent]], failures: Mapping[int, Mapping[str, str]] | None = None
) -> Path:
    """Write a store of these shards, each a latent by the name of its picture, and pictures that failed by shard."""
    layout, failed = StoreFiles(folder), failures or {}
    ensure_settings(layout.settings, {"shard_size": max(map(len, shards), default=1), "batch_size": 2})
    plan = ShardPlan(layout.plan)
    for index, latents in enumerate(shards):
        bad = failed.get(index, {})
        plan = plan.extend(sorted([*latents, *bad]), len(latents) + len(bad))
        write_shard(layout.shard(index), latents, bad, SHAPE)
    return folder
