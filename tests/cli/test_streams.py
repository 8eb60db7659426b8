"""Standard output is for data, standard error for the rest; quiet is quiet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .. import tiny
from .conftest import Run


def line_of(command: str, pictures: list[Path], latents: list[Path], folder: Path) -> list[object]:
    inputs = {"decode": latents, "sample": ["-n", 2], "interpolate": pictures[:2]}.get(command, pictures)
    target = folder / "strip.png" if command == "interpolate" else folder
    return [command, *inputs, "-o", target, *([] if command == "decode" else ["--steps", 2])]


COMMANDS = ["invert", "decode", "sample", "interpolate", "reconstruct"]


@pytest.mark.parametrize("command", COMMANDS)
def test_standard_output_is_json_only(
    done: Run, pictures: list[Path], latents: list[Path], tmp_path: Path, command: str
) -> None:
    outcome = done(*line_of(command, pictures, latents, tmp_path / "out"), "--json")
    assert outcome.rows
    assert all(Path(row["output"]).is_file() for row in outcome.rows)
    assert all(list(row) == sorted(row) for row in outcome.rows)


@pytest.mark.parametrize("command", COMMANDS[:-1])
def test_standard_output_lists_written_files_only(
    done: Run, pictures: list[Path], latents: list[Path], tmp_path: Path, command: str
) -> None:
    outcome = done(*line_of(command, pictures, latents, tmp_path / "out"))
    assert outcome.out.splitlines()
    assert all(Path(line).is_file() for line in outcome.out.splitlines())


@pytest.mark.parametrize("flags", [["-q"], ["--quiet", "--json"]], ids=str)
@pytest.mark.parametrize("command", COMMANDS)
def test_quiet_prints_nothing(
    done: Run, pictures: list[Path], latents: list[Path], tmp_path: Path, command: str, flags: list[str]
) -> None:
    outcome = done(*line_of(command, pictures, latents, tmp_path / "out"), *flags)
    assert not outcome.err
    assert outcome.out


def test_model_and_device_are_printed_once(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    chosen = done("invert", *pictures, "-o", tmp_path / "auto", "--batch-size", "1", "--steps", "2")
    assert chosen.err.startswith("tiny in float32 on ")
    assert chosen.err.endswith(", chosen by --device auto\n")
    named = done("invert", *pictures, "-o", tmp_path / "cpu", "--device", "cpu", "--steps", "2")
    assert named.err == "tiny in float32 on cpu\n"


def test_json_moves_table_to_standard_error(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    plain = done("reconstruct", pictures[0], "-o", tmp_path / "plain", "--steps", "2")
    json = done("reconstruct", pictures[0], "-o", tmp_path / "json", "--steps", "2", "--json")
    assert plain.out in json.err


def test_undecodable_file_name_is_accepted(model: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        tiny.save_picture(tmp_path / name)
    except OSError:
        pytest.skip("this file system wants text")
    done = subprocess.run(
        [sys.executable, "-m", "ddim_edit", "invert", name, "-o", "out", "--model", str(model), "--steps", "2"],
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"out/caf\xe9.latent.safetensors\n"), done.stderr
