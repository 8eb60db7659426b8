"""Two processes that torchrun starts fill one store together, held against one process."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .. import tiny
from ..waiting import HANG
from .conftest import bytes_of

pytestmark = pytest.mark.slow

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and images, one of which is none."""
    folder = tmp_path_factory.mktemp("torchrun")
    tiny.save_model(folder / "tiny")
    for index in range(12):
        tiny.save_picture(folder / "pictures" / f"{index:02}.png", index)
    (folder / "pictures" / "05.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def alone(here: Path) -> list[dict[str, Any]]:
    """The rows of one process, which fills alone.latents."""
    run = invert(here, "alone.latents")
    assert run.returncode == 1, run.stderr
    return [json.loads(row) for row in run.stdout.splitlines()]


def invert(here: Path, store: str, *options: str, launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    line = ["ddim_edit", "invert", "pictures", "-o", store, "--model", "tiny", "--device", "cpu", "--json"]
    line += ["--steps", "8", "--shard-size", "4", "--batch-size", "2", *options]
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


def test_two_torchrun_processes_write_same_bytes_as_one(here: Path, alone: list[dict[str, Any]]) -> None:
    """Also where one has less to do and an image that fails: torchrun ends all as soon as one leaves with 1."""
    together = invert(here, "together.latents", launcher=TORCHRUN)
    assert together.returncode == 0, together.stderr
    assert bytes_of(here / "together.latents") == bytes_of(here / "alone.latents")
    rows = [json.loads(row) for row in together.stdout.splitlines()]
    assert sorted(rows, key=lambda row: int(row["shard"])) == alone
    assert together.stderr.count("error: 05.png: ") == 1


@pytest.mark.usefixtures("alone")
def test_consecutive_shares_write_same_bytes_as_one(here: Path) -> None:
    left = [invert(here, "shares.latents", "--shard", f"{index}/2").returncode for index in (1, 0)]
    assert left == [1, 0]  # the image that fails is in shard 1
    assert bytes_of(here / "shares.latents") == bytes_of(here / "alone.latents")
