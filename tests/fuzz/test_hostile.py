"""400 malformed inputs over all readers: no tracebacks, no hangs, and no output that the tool itself would refuse."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ddim_edit.cli import main

from .. import tiny
from .hostile import LINES


def call(*line: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in line])
    assert not ended.value.code


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good file of every kind."""
    good = tmp_path_factory.mktemp("hostile") / "good"
    model = tiny.save_model(good / "model")
    few = ("--model", model, "--dtype", "fp32", "--steps", "2", "-q")
    images = [tiny.save_picture(good / name) for name in LINES if name.startswith("a.") and "safetensors" not in name]
    call("reconstruct", images[0], "-o", good / "shown.png", *few)
    call("invert", images[0], "-o", good / "a.latent.safetensors", *few)
    for name in "bcd":
        shutil.copy(good / "a.latent.safetensors", good / f"{name}.latent.safetensors")
    call("invert", images[0], "-o", good / "s.latents", *few)
    rows = ["file,old"]
    for seed in range(12):
        tiny.save_picture(good / "faces" / f"{seed}.png", seed)
        rows.append(f"{seed}.png,{seed % 2}")
    (good / "labels.csv").write_text("\n".join(rows) + "\n")
    labelled = ("--images", good / "faces", "--labels", good / "labels.csv", "--column", "old")
    call("fit", "old", *labelled, "-o", good / "old.direction.safetensors", *few)
    shutil.copy(good / "old.direction.safetensors", good / "new.direction.safetensors")
    (good / "run.toml").write_text(f'model = "{model}"\n[sample]\nsteps = 2\nn = 1\nseed = 3\nformat = "png"\n')
    for form, name in (("npy", "x.npy"), ("safetensors", "x.safetensors")):
        call("export", good / "a.latent.safetensors", "--to", form, "-o", good / name, "--model", model, "-q")
    shutil.copy(good / "x.safetensors", good / "x.latent")
    return good


@pytest.mark.slow
def test_malformed_inputs_end_in_errors_only(good: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.hostile", str(good)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True)
    tried, wrong = json.loads(done.stdout)
    print("\n".join(wrong))
    assert not wrong
    assert tried >= 400
