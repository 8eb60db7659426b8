"""Two processes that share every batch learn what one learns alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddim_edit.training import Checkpoint, FreshNetwork, Settings, Trainer

FILE, WEIGHTS = "training/checkpoint.safetensors", "unet/diffusion_pytorch_model.safetensors"
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(discs: Path, tmp_path: Path) -> None:
    settings = Settings(origin=FreshNetwork("tiny"), steps=4, batch_size=4, lr=1e-4, flip=True, save_every=2, samples=0)
    alone = Trainer(discs, tmp_path / "alone", settings, "cpu").run()
    options = "--network tiny --steps 4 --batch-size 4 --lr 1e-4 --flip --save-every 2 --samples 0 --device cpu"
    done = subprocess.run(
        [*LAUNCHER, "-m", "ddim_edit", "train", str(discs), "-o", str(tmp_path / "shared"), *options.split()],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},  # torchrun leaves a folder there
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "in each of 2 processes" in done.stderr
    shared = Checkpoint.load(tmp_path / "shared" / FILE)
    assert shared.step == 4
    for one, other in zip(alone, shared.rows, strict=True):
        assert (other.step, other.rate) == (one.step, one.rate)
        assert other.held_out == pytest.approx(one.held_out, rel=1e-4)
        assert (other.train or 0) == pytest.approx(one.train or 0, rel=1e-4)
    weights = [load_file(tmp_path / name / WEIGHTS) for name in ("alone", "shared")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-5, rtol=1e-3)
