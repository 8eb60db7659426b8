"""Help and wrong use: what they print, how they end, and that they load neither torch nor anything else heavy."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

from ddim_edit import InversionConfig
from ddim_edit.cli.command import SECTIONS, Option
from ddim_edit.cli.commands.train import Setting
from ddim_edit.cli.main import commands
from ddim_edit.cli.options import make_config
from ddim_edit.training import Settings

from .conftest import Run

HEAVY = {"torch", "torchvision", "scipy", "sklearn", "lpips", "diffusers", "safetensors", "PIL", "tqdm", "ray"}
COMMANDS = {str(command.name): command for command in commands.loaded}
HELP = [["--help"], ["-h"], ["--version"], ["-V"], ["models"], *([name, "--help"] for name in COMMANDS)]
INVERT = ["invert", "a.png", "-o", "out"]
STORE = ["invert", "a.png", "-o", "out.latents"]
EDIT = ["edit", "a.png", "-o", "out", "--set"]
INTERPOLATE = ["interpolate", "a.png", "b.png", "-o", "out.png"]
SHEET = ["interpolate", *"abcd", "-o"]
FIT = ["fit", "old", "-o", "old.direction.safetensors"]
DISCOVER = ["discover", "a.png", "-o", "out"]
PROBE = ["probe", "--with", "a", "--without", "b"]
TRAIN = ["train", "faces", "-o", "model"]
WRONG = [
    [],
    ["paint"],
    ["--paint"],
    ["invert", "-o", "out"],
    ["invert", "a.png"],
    [*INVERT, "--solver", "rk45"],
    [*INVERT, "--grid", "zigzag"],
    [*INVERT, "--grid", "karras:0.5"],
    [*INVERT, "--grid", "uniform:2"],
    [*INVERT, "--level", "noise"],
    [*INVERT, "--level", "0"],
    [*INVERT, "--size", "512x"],
    [*INVERT, "--class", "-1"],
    [*INVERT, "--prompt", "a cat", "--model", "faces64"],
    [*INVERT, "--refine-codec", "magic"],
    [*INVERT, "--steps", "0"],
    [*INVERT, "--tol", "0"],
    [*INVERT, "--lossless", "--solver", "ddim"],
    [*INVERT, "--crop", "1,2,0"],
    [*INVERT, "--crop", "middle"],
    [*INVERT, "--crop", "fit", "--face", "2"],
    [*INVERT, "--face", "all"],
    [*INVERT, "--face", "0"],
    [*INVERT, "--crop", "fit", "--crop", "centre"],
    [*EDIT, "old", "--output-size", "photo", "--upscale", "2"],
    [*EDIT, "old", "--strip", "-3:3:3", "--face", "all"],
    [*INVERT, "--shard-size", "512"],
    [*STORE, "--shard", "2/2"],
    [*STORE, "--workers", "2"],
    [*STORE, "--engine", "ray", "--shard", "0/2"],
    ["reconstruct", "a.png", "-o", "out", "--check"],
    ["reconstruct", "a.png", "-o", "out", "--format", "bmp"],
    ["interpolate", "a.png", "-o", "out.png"],
    ["interpolate", "a.png", "b.png", "-o", "out.avi"],
    [*INTERPOLATE, "--interpolation", "spline"],
    [*INTERPOLATE, "--sheet", "3x3"],
    [*SHEET, "out.gif", "--sheet", "3x3"],
    [*SHEET, "out.png", "--sheet", "1x3"],
    ["edit", "a.png", "-o", "out"],
    [*EDIT, "old=much"],
    [*EDIT, "old=1e3"],
    [*EDIT, "=2"],
    [*EDIT, "older=2", "--model", "faces64"],
    [*EDIT, "old", "--keep", "femal", "--model", "faces64"],
    [*EDIT, "old", "--strip", "-3:3:1"],
    [*EDIT, "old", "--animate", "webp"],
    ["sample", "-o", "out", "--seed", str(10**20)],
    ["sample", "-o", "out", "--eta", "1", "--solver", "heun"],
    ["sample", "-o", "out", "--eta", "1", "--posterior-mean"],
    ["translate", "a.png", "--to", "b", "-o", "out", "--level", "0.4T"],
    FIT,
    [*FIT, "--with", "a"],
    [*FIT, "--with", "a", "--without", "b", "--positive", "1"],
    [*FIT, "--with", "a", "--without", "b", "--estimator", "magic"],
    [*FIT, "--latents", "a", "--labels", "c.csv", "--column", "age", "--steps", "5"],
    ["fit", "old", "--with", "a", "--without", "b", "-o", "old.safetensors"],
    [*DISCOVER, "--count", "0"],
    [*DISCOVER, "--level", "h"],
    [*DISCOVER, "--names", "smile,smile"],
    [*DISCOVER, "--names", "v2"],
    [*DISCOVER, "--names", "a/b"],
    [*DISCOVER, "--names", "a,b,c", "--count", "2"],
    [*DISCOVER, "--strengths", "3"],
    ["discover", "a.png", "-o", "sheet.png"],
    ["evaluate", "a", "-o", "out", "--solvers", "dpm2m,rk45"],
    ["evaluate", "a", "-o", "out", "--grids", "uniform,zigzag"],
    ["evaluate", "a", "-o", "out", "--steps", "10,,20"],
    ["evaluate", "a", "-o", "out", "--against", "itself"],
    ["probe", "--images", "a", "--labels", "c.csv"],
    [*PROBE, "--levels", "pixels"],
    [*PROBE, "--sizes", "10,some"],
    [*PROBE, "--plot", "curves.txt"],
    [*TRAIN, "--lr", "0"],
    [*TRAIN, "--held-out", "1"],
    [*TRAIN, "--from", "faces64", "--network", "tiny"],
    ["likelihood", "a.png", "--probes", "1"],
    ["export", "a.latent.safetensors", "--to", "pt", "-o", "out"],
    ["import", "a.npy", "-o", "out", "--solver", "rk45"],
    ["ui", "--port", "65536"],
    ["ui", "--directions", "no-such-folder"],
]
# Runs command lines one after another and prints, on the last line, how they ended and what is loaded by then.
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


def run_all(lines: list[list[str]], folder: Path) -> tuple[list[int], set[str]]:
    """The statuses of command lines that are run in one fresh process, and the packages loaded by then."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, input=json.dumps(lines), cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    ended, modules = json.loads(done.stdout.splitlines()[-1])
    return ended, set(modules)


def test_help_and_usage_errors_import_no_torch_and_write_nothing(tmp_path: Path) -> None:
    ended, modules = run_all(HELP + WRONG, tmp_path)
    statuses = [(line, status) for line, status in zip(HELP + WRONG, ended, strict=True)]
    assert statuses == [(line, 0) for line in HELP] + [(line, 2) for line in WRONG]
    assert not modules & HEAVY
    assert not list(tmp_path.iterdir())


def test_list_of_commands_imports_no_numpy(tmp_path: Path) -> None:
    _, modules = run_all([["--help"]], tmp_path)
    assert not modules & {*HEAVY, "numpy"}


def test_show_models_and_directions_import_no_torch(
    run: Run, pictures: list[Path], inverted: Path, tmp_path: Path
) -> None:
    run("reconstruct", pictures[0], "-o", tmp_path / "out", "--steps", 2)
    run("invert", *pictures, "-o", tmp_path / "a.latents", "--steps", 2)
    latent = next(inverted.glob("*.safetensors"))
    files = [tmp_path / "out" / "a-reconstructed.png", tmp_path / "a.latents", latent]
    lines = [["directions"], ["models"], ["models", "--families"], *(["show", str(file)] for file in files)]
    ended, modules = run_all(lines, tmp_path)
    assert ended == [0] * len(lines)
    assert not modules & {"torch", "torchvision", "scipy", "sklearn"}


@pytest.mark.slow
def test_commands_import_only_what_they_need(tmp_path: Path, model: Path, pictures: list[Path]) -> None:
    a, b = map(str, pictures[:2])
    own = ["--model", str(model), "--steps", "2", "-q"]
    lines = [
        ["invert", a, "-o", "latents", *own],
        ["decode", "latents", "-o", "decoded", *own[:2]],
        ["invert", a, "-o", "store.latents", *own],
        ["decode", "store.latents", "-o", "decoded from it", *own[:2]],
        ["interpolate", a, b, "-o", "strip.png", *own],
        ["sample", "-o", "samples", *own],
        ["env"],
    ]
    ended, modules = run_all(lines, tmp_path)
    assert ended == [0] * len(lines)
    assert not modules & {"matplotlib", "torchvision", "lpips", "sklearn", "diffusers", "huggingface_hub", "ray"}


@pytest.mark.parametrize("line", [line for line in WRONG if line], ids=" ".join)
def test_usage_errors_go_to_standard_error_only(run: Run, line: list[str]) -> None:
    outcome = run(*line)
    assert outcome.status == 2
    assert not outcome.out
    assert "Error: " in outcome.err
    assert "Traceback" not in outcome.err


def test_help_lists_every_command_in_its_section(run: Run) -> None:
    text = run("--help").out
    found = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.split()[0] in COMMANDS]
    assert found == list(COMMANDS)
    positions = [text.index(f"\n{section}:\n") for section in SECTIONS]
    assert positions == sorted(positions)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_parse_and_options_that_are_explained(name: str) -> None:
    command = COMMANDS[name]
    assert command.examples
    for option in command.options.values():
        assert option.help, option.name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_has_bounds(name: str) -> None:
    numbers = (click.types.IntParamType, click.types.FloatParamType, Setting)
    for option in COMMANDS[name].params:
        if isinstance(option.type, numbers):
            for text in ("nan", "inf", "-1e400", "1" + 30 * "0", "-1" + 30 * "0"):
                with pytest.raises(click.BadParameter):
                    option.type.convert(text, option, None)


def test_version_is_that_of_the_package(run: Run) -> None:
    from importlib.metadata import version

    assert run("-V").out.split() == ["ddim-edit,", "version", version("ddim-edit")]


def options_of(command: str) -> dict[str, Option]:
    return {option.argument: option for option in COMMANDS[command].options.values()}


def test_every_field_of_the_config_is_an_option_of_invert_with_its_default() -> None:
    options = options_of("invert")
    for field in fields(InversionConfig):
        if field.name == "condition":
            assert {"prompt", "negative_prompt", "label", "guidance_scale"} <= set(options)
        else:
            assert field.name in options
            assert options[field.name].help
    context = COMMANDS["invert"].make_context("invert", INVERT[1:])
    found: dict[str, object] = {}
    command = COMMANDS["invert"]
    function, command.function = command.function, lambda **values: found.update(values)
    try:
        command.invoke(context)
    finally:
        command.function = function
    assert make_config(found["config"]) == InversionConfig()  # type: ignore[arg-type]


def test_every_setting_of_a_training_is_an_option_of_train_with_its_default() -> None:
    context = COMMANDS["train"].make_context("train", TRAIN[1:])
    settings = Settings()
    for field in fields(Settings):
        if field.name != "origin":
            assert context.params[field.name] == getattr(settings, field.name)


@pytest.mark.parametrize(
    "program", [[sys.executable, "-m", "ddim_edit"], [str(Path(sys.executable).parent / "ddim-edit")]]
)
def test_console_script_and_module_start(program: list[str], tmp_path: Path) -> None:
    helped = subprocess.run([*program, "--help"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith("Usage: ddim-edit ")
    wrong = subprocess.run([*program, "paint"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_closed_output_pipe_gives_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m ddim_edit --help | head -c 0; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode in (0, 1)
    assert not done.stderr
