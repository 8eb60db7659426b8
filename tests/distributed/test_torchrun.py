"""Two processes that torchrun starts fill one store together, held against one process."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from .. import tiny
from ..waiting import HANG
from .conftest import bytes_of

pytestmark = pytest.mark.slow

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a model and pictures, one of which is none."""
    tiny.save_model(tmp_path / "tiny")
    for index in range(36):
        tiny.save_picture(tmp_path / "pictures" / f"{index:02}.png", index)
    (tmp_path / "pictures" / "05.png").write_text("no picture")
    return tmp_path


def invert(here: Path, store: str, *options: str, launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    line = ["ddim_edit", "invert", "pictures", "-o", store, "--model", "tiny", "--device", "cpu", "--json"]
    line += ["--steps", "40", "--shard-size", "4", "--batch-size", "2", *options]
    env = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    return subprocess.run(
        [sys.executable, *launcher, "-m", *line],
        cwd=here,
        env=env | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


def test_two_torchrun_processes_write_same_bytes_as_one(here: Path) -> None:
    """Also where one has less to do and a picture that fails: torchrun ends all as soon as one leaves with 1."""
    alone, together = invert(here, "alone.latents"), invert(here, "together.latents", launcher=TORCHRUN)
    assert alone.returncode == 1, alone.stderr
    assert together.returncode == 0, together.stderr
    assert bytes_of(here / "together.latents") == bytes_of(here / "alone.latents")
    one, both = ([json.loads(row) for row in run.stdout.splitlines()] for run in (alone, together))
    assert sorted(both, key=lambda row: int(row["shard"])) == one
    assert together.stderr.count("error: 05.png: ") == 1


def test_consecutive_shares_write_same_bytes_as_one(here: Path) -> None:
    invert(here, "alone.latents")
    left = [invert(here, "shares.latents", "--shard", f"{index}/3").returncode for index in (2, 0, 1)]
    assert left == [0, 0, 1]  # the picture that fails is in shard 1
    assert bytes_of(here / "shares.latents") == bytes_of(here / "alone.latents")
