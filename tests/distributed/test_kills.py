"""Runs that are killed at any moment lose nothing and double nothing."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .. import tiny
from .conftest import bytes_of

KILLED = -9
SEED = 5


def trials_of(folder: Path, model: Path, pictures: int, trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `killing.py` tells of these trials, once every store has turned out as the undisturbed one."""
    for seed in range(pictures):
        tiny.save_picture(folder / "in" / f"{seed}.png", seed)
    (folder / "in" / "3.png").write_bytes(b"no picture")
    arguments = ["invert", "in", "--model", str(model), "--device", "cpu", "-q"]
    arguments += ["--batch-size", "2", "--shard-size", "4", "--steps", "3"]
    program = [sys.executable, str(Path(__file__).parent / "killing.py")]
    asked = json.dumps({"arguments": arguments, "trials": trials})
    done = subprocess.run(program, input=asked, cwd=folder, capture_output=True, text=True, check=True)
    print(done.stderr)  # which a failing test shows
    told = json.loads(done.stdout)
    assert told["whole"] == 1  # for 3.png
    whole = bytes_of(folder / "whole.latents")
    for number, result in enumerate(told["results"]):
        assert result["then"] == 1, result
        assert bytes_of(folder / f"trial-{number}.latents") == whole, result
    return list(told["results"])


def stage(left: list[str]) -> str:
    """How far a run had come by what it left."""
    shards = sum(name.startswith("shard-") for name in left)
    parts = sum(name.startswith("parts/") for name in left)
    return f"{shards} shards, {parts} parts" if shards or parts else f"{len(left)} files of a store"


@pytest.mark.slow
def test_resumes_after_20_random_kills(tmp_path: Path, model: Path) -> None:
    moments = random.Random(SEED)
    # 12 images are 6 batches in 3 shards.
    trials = [{"share": moments.uniform(0, 0.9)} for _ in range(20)]
    results = trials_of(tmp_path, model, 12, trials)
    killed = [result for result in results if result["killed"] == KILLED]
    assert len(killed) >= 15
    assert len({stage(result["left"]) for result in killed}) >= 5


@pytest.mark.slow
def test_resumes_after_kills_around_every_rename(tmp_path: Path, model: Path) -> None:
    # store.json, the plan, model.json, and for two shards all batches, the shard in its folder, and its last move
    renames = 3 + (2 + 2) + (1 + 2)
    trials = [{"rename": rename, "after": rename % 2 == 0} for rename in range(1, renames + 1)]
    results = trials_of(tmp_path, model, 5, trials)
    assert all(result["killed"] == KILLED for result in results)
    assert any(".ddim-edit-" in name for result in results for name in result["left"])
