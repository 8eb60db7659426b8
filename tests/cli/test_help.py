"""Help and wrong use: what they print, how they end, and that they load nothing heavy for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run

COMMANDS = (
    *("invert", "decode", "reconstruct", "interpolate", "edit", "translate", "sample", "fit", "directions", "probe"),
    *("show", "models", "env"),
    *("export", "import"),
    "train",
    "evaluate",
    "likelihood",
    "ui",
)
HEAVY = {"torch", "torchvision", "numpy", "scipy", "sklearn", "lpips", "diffusers", "safetensors", "PIL", "tqdm", "ray"}
HELP = [["--help"], ["-h"], ["--version"], *([command, "--help"] for command in COMMANDS)]
WRONG = [
    [],
    ["paint"],
    ["--paint"],
    ["invert", "-o", "out"],
    ["invert", "a.png"],
    ["invert", "a.png", "-o", "out", "--solver", "rk45"],
    ["invert", "a.png", "-o", "out", "--grid", "zigzag"],
    ["invert", "a.png", "-o", "out", "--grid", "karras:0.5"],
    ["invert", "a.png", "-o", "out", "--grid", "karras:"],
    ["invert", "a.png", "-o", "out", "--grid", "flow:0.5"],
    ["invert", "a.png", "-o", "out", "--size", "0"],
    ["invert", "a.png", "-o", "out", "--size", "512x"],
    ["invert", "a.png", "-o", "out", "--size", "512x384x3"],
    ["invert", "a.png", "-o", "out", "--class", "-1"],
    ["invert", "a.png", "-o", "out", "--class", "cat"],
    ["invert", "a.png", "-o", "out", "--guidance-scale", "much"],
    ["invert", "a.png", "-o", "out", "--refine-codec", "magic"],
    ["invert", "a.png", "-o", "out", "--steps", "0"],
    ["invert", "a.png", "-o", "out", "--steps", "many"],
    ["invert", "a.png", "-o", "out", "--dtype", "int8"],
    ["invert", "a.png", "-o", "out", "--batch-size", "0"],
    ["invert", "a.png", "-o", "out", "--tol", "0"],
    ["invert", "a.png", "-o", "out", "--lossless", "--solver", "ddim"],
    ["invert", "a.png", "-o", "out", "--crop", "1,2"],
    ["invert", "a.png", "-o", "out", "--crop", "1,2,0"],
    ["invert", "a.png", "-o", "out", "--crop", "-1,2,3"],
    ["invert", "a.png", "-o", "out", "--shard-size", "512"],
    ["invert", "a.png", "-o", "out", "--shard", "0/2"],
    ["invert", "a.png", "-o", "out", "--engine", "ray"],
    ["invert", "a.png", "-o", "out.latents", "--shard-size", "0"],
    ["invert", "a.png", "-o", "out.latents", "--shard", "2/2"],
    ["invert", "a.png", "-o", "out.latents", "--shard", "-1/2"],
    ["invert", "a.png", "-o", "out.latents", "--shard", "first"],
    ["invert", "a.png", "-o", "out.latents", "--engine", "steam"],
    ["invert", "a.png", "-o", "out.latents", "--workers", "2"],
    ["invert", "a.png", "-o", "out.latents", "--engine", "local", "--gpus-per-worker", "1"],
    ["invert", "a.png", "-o", "out.latents", "--engine", "ray", "--workers", "0"],
    ["invert", "a.png", "-o", "out.latents", "--engine", "ray", "--shard", "0/2"],
    ["reconstruct", "a.png", "-o", "out", "--crop", "1,2,3", "--fit"],
    ["decode", "-o", "out"],
    ["ui", "--port", "65536"],
    ["ui", "--directions", "no-such-folder"],
    ["interpolate", "a.png", "-o", "out.png"],
    ["interpolate", "a.png", "b.png", "-o", "out.avi"],
    ["edit", "a.png", "--set", "old", "--animate", "webp", "-o", "out"],
    ["edit", "a.png", "--set", "old", "--strip", "-3:3:3", "--animate", "avi", "-o", "out"],
    ["interpolate", "a.png", "b.png", "-o", "out.png", "--method", "spline"],
    ["interpolate", "a.png", "b.png", "-o", "out.png", "--frames", "1"],
    ["interpolate", "a.png", "b.png", "-o", "out.png", "--grid", "3x3"],
    ["interpolate", "a.png", "b.png", "c.png", "d.png", "-o", "out.gif", "--grid", "3x3"],
    ["interpolate", "a.png", "b.png", "c.png", "d.png", "-o", "out.png", "--grid", "3"],
    ["interpolate", "a.png", "b.png", "c.png", "d.png", "-o", "out.png", "--grid", "1x3"],
    ["sample", "-o", "out", "-n", "0"],
    ["sample", "-o", "out", "--seed", "-1"],
    ["sample", "-o", "out", "--seed", str(10**20)],
    ["sample", "-o", "out", "--eta", "1.5"],
    ["sample", "-o", "out", "--eta", "1", "--solver", "heun"],
    ["sample", "-o", "out", "--posterior-mean", "--solver", "dpm2m"],
    ["sample", "-o", "out", "--eta", "1", "--posterior-mean"],
    ["edit", "a.png", "-o", "out"],
    ["edit", "--set", "old=1", "-o", "out"],
    ["edit", "a.png", "--set", "old=1"],
    ["edit", "a.png", "--set", "old=much", "-o", "out"],
    ["edit", "a.png", "--set", "old=", "-o", "out"],
    ["edit", "a.png", "--set", "old=nan", "-o", "out"],
    ["edit", "a.png", "--set", "old=1e3", "-o", "out"],
    ["edit", "a.png", "--set", "=2", "-o", "out"],
    ["edit", "a.png", "--set", "", "-o", "out"],
    ["edit", "a.png", "--set", "old", "--strip", "-3:3", "-o", "out"],
    ["edit", "a.png", "--set", "old", "--strip", "-3:3:1", "-o", "out"],
    ["edit", "a.png", "--set", "old", "--strip", "-3:3:2.5", "-o", "out"],
    ["edit", "a.png", "--set", "old", "--strip", "a:b:3", "-o", "out"],
    ["edit", "a.png", "--set", "old", "--strip", "1:2:3:4", "-o", "out"],
    ["edit", "a.png", "--set", "old", "--scale", "0", "-o", "out"],
    ["edit", "a.png", "--set", "old", "--crop", "1,2,3", "--fit", "-o", "out"],
    ["translate", "a.png", "-o", "out"],
    ["translate", "--to", "b", "-o", "out"],
    ["translate", "a.png", "--to", "b", "-o", "out", "--lossless", "--solver", "ddim"],
    ["fit", "old", "-o", "old.direction.safetensors"],
    ["fit", "--with", "a", "--without", "b", "-o", "old.direction.safetensors"],
    ["fit", "old", "--with", "a", "--without", "b"],
    ["fit", "old", "--with", "a", "--without", "b", "-o", "old.safetensors"],
    ["fit", "old", "--with", "a", "-o", "old.direction.safetensors"],
    ["fit", "old", "--with", "a", "--without", "b", "--labels", "c.csv", "-o", "old.direction.safetensors"],
    ["fit", "old", "--with", "a", "--without", "b", "--positive", "1", "-o", "old.direction.safetensors"],
    ["fit", "old", "--with", "a", "--without", "b", "--negative", "1", "-o", "old.direction.safetensors"],
    ["fit", "old", "--images", "a", "--labels", "c.csv", "-o", "old.direction.safetensors"],
    ["fit", "old", "--labels", "c.csv", "--column", "age", "-o", "old.direction.safetensors"],
    ["fit", "old", "--with", "a", "--without", "b", "--method", "magic", "-o", "old.direction.safetensors"],
    ["fit", "old", "--with", "a", "--without", "b", "--solver", "rk45", "-o", "old.direction.safetensors"],
    ["fit", "old", "--with", "a", "--without", "b", "--grid", "zigzag", "-o", "old.direction.safetensors"],
    ["evaluate", "a"],
    ["evaluate", "-o", "out"],
    ["evaluate", "a", "-o", "out", "--solvers", "dpm2m,rk45"],
    ["evaluate", "a", "-o", "out", "--solvers", ""],
    ["evaluate", "a", "-o", "out", "--grids", "uniform,zigzag"],
    ["evaluate", "a", "-o", "out", "--steps", "10,many"],
    ["evaluate", "a", "-o", "out", "--steps", "0"],
    ["evaluate", "a", "-o", "out", "--steps", "10,,20"],
    ["evaluate", "a", "-o", "out", "--against", "itself"],
    ["evaluate", "a", "-o", "out", "--crop", "1,2,3", "--fit"],
    ["probe"],
    ["probe", "--images", "a", "--labels", "c.csv"],
    ["probe", "--with", "a", "--without", "b", "--sizes", "1"],
    ["probe", "--with", "a", "--without", "b", "--sizes", "10,some"],
    ["probe", "--with", "a", "--without", "b", "--plot", "curves.txt"],
    ["probe", "--with", "a", "--without", "b", "--draws", "0"],
    ["probe", "--with", "a", "--without", "b", "--seed", "-1"],
    ["train", "-o", "model"],
    ["train", "faces"],
    ["train", "faces", "-o", "model", "--steps", "0"],
    ["train", "faces", "-o", "model", "--lr", "0"],
    ["train", "faces", "-o", "model", "--ema-decay", "1"],
    ["train", "faces", "-o", "model", "--precision", "int8"],
    ["train", "faces", "-o", "model", "--network", "huge"],
    ["train", "faces", "-o", "model", "--held-out", "1"],
    ["train", "faces", "-o", "model", "--from", "faces64", "--network", "tiny"],
    ["train", "faces", "-o", "model", "--from", "faces64", "--schedule", "cosine"],
    ["likelihood"],
    ["likelihood", "a.png", "--probes", "1"],
    ["likelihood", "a.png", "--steps", "0"],
    ["likelihood", "a.png", "--start", "-1"],
    ["show"],
    ["export", "a.latent.safetensors", "-o", "out"],
    ["export", "--to", "npy", "-o", "out"],
    ["export", "a.latent.safetensors", "--to", "npy"],
    ["export", "a.latent.safetensors", "--to", "pt", "-o", "out"],
    ["import", "-o", "out"],
    ["import", "a.npy"],
    ["import", "a.npy", "-o", "out", "--from", "pt"],
    ["import", "a.npy", "-o", "out", "--solver", "rk45"],
]
# Runs command lines one after another and tells, on the last line, how they ended and what is loaded by then.
SCRIPT = """
import json, sys
from ddim_edit.cli import main
ended = []
for arguments in json.load(sys.stdin):
    try:
        main(arguments)
    except SystemExit as left:
        ended.append(left.code)
print(json.dumps([ended, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def run_all(lines: list[list[str]], folder: Path) -> tuple[list[int], set[str], str]:
    """Statuses of command lines run in one fresh process, the packages loaded by then, and standard error."""
    command, one_thread = [sys.executable, "-c", SCRIPT], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, input=json.dumps(lines), cwd=folder, env=one_thread, capture_output=True, text=True, check=True
    )
    ended, modules = json.loads(done.stdout.splitlines()[-1])
    return ended, set(modules), done.stderr


def test_help_and_wrong_use_load_nothing_heavy_and_write_nothing(tmp_path: Path) -> None:
    ended, modules, _ = run_all(HELP + WRONG, tmp_path)
    assert dict(zip(map(" ".join, HELP), ended, strict=False)) == {" ".join(line): 0 for line in HELP}
    assert dict(zip(map(" ".join, WRONG), ended[len(HELP) :], strict=True)) == {" ".join(line): 2 for line in WRONG}
    assert not modules & HEAVY
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_commands_load_only_what_they_need(tmp_path: Path, model: Path, pictures: list[Path]) -> None:
    a, b = map(str, pictures[:2])
    own = ["--model", str(model), "--steps", "2", "-q"]
    lines = [
        ["invert", a, "-o", "latents", *own],
        ["decode", "latents", "-o", "decoded", *own[:2]],
        ["invert", a, "-o", "store.latents", *own],
        ["decode", "store.latents", "-o", "decoded from it", *own[:2]],
        ["show", "store.latents"],
        ["interpolate", a, b, "-o", "strip.png", *own],
        ["sample", "-o", "samples", *own],
        ["show", "strip.png"],
        ["models"],
        ["env"],
    ]
    ended, modules, _ = run_all(lines, tmp_path)
    assert ended == [0] * len(lines)
    assert not modules & {"matplotlib", "torchvision", "lpips", "sklearn", "diffusers", "huggingface_hub", "ray"}
    ended, modules, _ = run_all([["reconstruct", a, "-o", "out", *own]], tmp_path)
    assert ended == [0]
    assert "lpips" in modules
    assert not modules & {"sklearn", "diffusers", "huggingface_hub"}


@pytest.mark.parametrize("line", [line for line in WRONG if line], ids=" ".join)
def test_wrong_use_is_said_on_standard_error_alone(run: Run, line: list[str]) -> None:
    outcome = run(*line)
    assert outcome.status == 2
    assert not outcome.out
    assert "Error: " in outcome.err
    assert "Traceback" not in outcome.err


def test_help_names_every_command(run: Run) -> None:
    outcome = run("--help")
    assert all(f"\n  {command} " in outcome.out for command in COMMANDS)
    assert not outcome.err


def test_version_is_that_of_the_package(run: Run) -> None:
    from importlib.metadata import version

    assert run("--version").out.split() == ["ddim-edit,", "version", version("ddim-edit")]


@pytest.mark.parametrize(
    "program", [[sys.executable, "-m", "ddim_edit"], [str(Path(sys.executable).parent / "ddim-edit")]]
)
def test_both_ways_to_start_it(program: list[str], tmp_path: Path) -> None:
    helped = subprocess.run([*program, "--help"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith("Usage: ddim-edit ")
    wrong = subprocess.run([*program, "paint"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_a_reader_that_leaves_early_costs_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m ddim_edit --help | head -c 0; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode in (0, 1)
    assert not done.stderr
