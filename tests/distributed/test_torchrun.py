"""Two processes that torchrun starts fill one store together, held against one process."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ddim_edit.cli import main

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


LINE = ["invert", "pictures", "--model", "tiny", "--device", "cpu", "--json", "--steps", "8", "--shard-size", "4"]
LINE += ["--batch-size", "2"]


@pytest.fixture(scope="module")
def alone(here: Path) -> list[dict[str, Any]]:
    """The rows of one process, which fills alone.latents."""
    status, printed = invert(here, "-o", "alone.latents")
    assert status == 1
    return [json.loads(row) for row in printed.splitlines()]


def invert(here: Path, *options: str) -> tuple[int, str]:
    """Run the command in this process; its status and standard output."""
    out = io.TextIOWrapper(io.BytesIO())
    with contextlib.chdir(here), contextlib.redirect_stdout(out), pytest.raises(SystemExit) as left:
        main([*LINE, *options])
    out.seek(0)
    return int(str(left.value.code)), out.read()


def run_torchrun(here: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command in two processes."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    env["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # which the store records
    env["TMPDIR"] = str(here.parent)  # torchrun leaves a folder there
    return subprocess.run(
        [sys.executable, *TORCHRUN, "-m", "ddim_edit", *LINE, *options],
        cwd=here,
        env=env,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


def test_two_torchrun_processes_write_same_bytes_as_one(here: Path, alone: list[dict[str, Any]]) -> None:
    """Also where one has less to do and an image that fails: torchrun ends all as soon as one leaves with 1."""
    together = run_torchrun(here, "-o", "together.latents")
    assert together.returncode == 0, together.stderr
    assert bytes_of(here / "together.latents") == bytes_of(here / "alone.latents")
    rows = [json.loads(row) for row in together.stdout.splitlines()]
    assert sorted(rows, key=lambda row: int(row["shard"])) == alone
    assert together.stderr.count("error: 05.png: ") == 1


@pytest.mark.usefixtures("alone")
def test_consecutive_shares_write_same_bytes_as_one(here: Path) -> None:
    left = [invert(here, "-o", "shares.latents", "--shard", f"{index}/2")[0] for index in (1, 0)]
    assert left == [1, 0]  # the image that fails is in shard 1
    assert bytes_of(here / "shares.latents") == bytes_of(here / "alone.latents")
