"""What may be written where: nothing is replaced unasked, nothing half-written stays, nothing is lost."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ddim_edit import Editor, Latent

from .. import tiny
from ..waiting import HANG, wait_until
from .conftest import Run, files_in, pixels_of

LATENT = ".latent.safetensors"
TWINS = (("one", "x.png"), ("two", "x.png"), ("one", "x.bmp"))


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def test_existing_output_is_kept_and_batch_continues(run: Run, pictures: list[Path], outputs: Path) -> None:
    outputs.mkdir()
    (outputs / f"a{LATENT}").write_text("mine")
    outcome = run("invert", *pictures, "-o", outputs)
    assert outcome.status == 1
    (error,) = outcome.errors
    assert error.startswith(f"error: {pictures[0]}: {outputs / f'a{LATENT}'} exists. Use --overwrite")
    assert (outputs / f"a{LATENT}").read_text() == "mine"
    assert len(files_in(outputs)) == 4


@pytest.mark.parametrize("command", ["invert", "decode", "reconstruct", "sample", "interpolate"])
def test_files_are_not_replaced_without_overwrite(
    run: Run, done: Run, pictures: list[Path], latents: list[Path], outputs: Path, command: str
) -> None:
    inputs = {"decode": latents[:2], "sample": ["-n", 2]}.get(command, pictures[:2])
    target = outputs / "strip.png" if command == "interpolate" else outputs
    options = [] if command == "decode" else ["--steps", "2"]
    done(command, *inputs, "-o", target, *options)
    first = contents(outputs)
    refused = run(command, *inputs, "-o", target, *options)
    assert refused.status == 1
    assert refused.errors
    assert not refused.out
    assert contents(outputs) == first
    for name in first:
        (outputs / name).write_text("old")
    done(command, *inputs, "-o", target, "--overwrite", *options)
    after = contents(outputs)
    assert after.keys() == first.keys()
    assert b"old" not in after.values()


def test_refused_outputs_cost_no_evaluation(
    run: Run, done: Run, pictures: list[Path], outputs: Path, evaluations: list[int]
) -> None:
    lines = {
        "reconstruct": [pictures[0], "-o", outputs],
        "invert": [pictures[0], "-o", outputs],
        "sample": ["-o", outputs],
        "interpolate": [*pictures[:2], "-o", outputs / "strip.png"],
    }
    for command, line in lines.items():
        done(command, *line, "--steps", "2")
    evaluations.clear()
    assert [run(command, *line, "--steps", "2").status for command, line in lines.items()] == [1] * 4
    assert not evaluations


def test_inputs_of_equal_name_get_two_outputs(done: Run, tmp_path: Path, outputs: Path) -> None:
    twins = [tiny.save_picture(tmp_path / folder / name, seed) for seed, (folder, name) in enumerate(TWINS)]
    done("invert", *twins, "-o", outputs)
    assert files_in(outputs) == [f"one/x-2{LATENT}", f"one/x{LATENT}", f"two/x{LATENT}"]
    done("decode", outputs, "-r", "-o", outputs)
    for name, twin in zip(("one/x.png", "two/x.png", "one/x-2.png"), twins, strict=True):
        returned = pixels_of(outputs / name).int()
        assert (returned - pixels_of(twin).int()).abs().max() <= 4


def test_output_names_are_stable_across_reruns(run: Run, tmp_path: Path, outputs: Path) -> None:
    twins = [tiny.save_picture(tmp_path / folder / name, seed) for seed, (folder, name) in enumerate(TWINS)]
    run("invert", *twins, "-o", outputs)
    whole = contents(outputs)
    (outputs / f"one/x-2{LATENT}").unlink()
    outcome = run("invert", *twins, "-o", outputs)
    assert outcome.status == 1
    assert outcome.out == f"{outputs / f'one/x-2{LATENT}'}\n"
    taken_up = Latent.load(outputs / f"one/x-2{LATENT}")
    assert contents(outputs).keys() == whole.keys()
    assert taken_up.recipe.origin.source == hashlib.sha256(twins[2].read_bytes()).hexdigest()


def test_image_called_sheet_does_not_collide(done: Run, tmp_path: Path, outputs: Path) -> None:
    path = tiny.save_picture(tmp_path / "sheet.png")
    outcome = done("reconstruct", path, "-o", outputs, "--json", "--exact")
    assert outcome.rows[0]["output"] == str(outputs / "sheet-reconstructed.png")
    assert files_in(outputs) == ["sheet-reconstructed.png", "sheet.png"]
    assert torch.equal(pixels_of(outputs / "sheet-reconstructed.png"), pixels_of(path))


@pytest.mark.parametrize("command", ["reconstruct", "interpolate"])
def test_an_input_is_never_replaced(run: Run, pictures: list[Path], command: str) -> None:
    before = contents(pictures[0].parent)
    target = pictures[0]
    inputs = pictures[:2] if command == "interpolate" else pictures[:1]
    outcome = run(command, *inputs, "-o", target, "--overwrite", "--steps", "2")
    assert outcome.status == 1
    assert all("is an input too" in line for line in outcome.errors)
    after = contents(pictures[0].parent)
    assert {name: after[name] for name in before} == before


def test_frames_need_an_empty_folder(run: Run, done: Run, pictures: list[Path], outputs: Path) -> None:
    outputs.mkdir()
    line = ["interpolate", *pictures[:2], "-o", outputs, "--frames", "2", "--steps", "2"]
    done(*line)
    assert files_in(outputs) == ["frame-0000.png", "frame-0001.png"]
    assert run(*line).status == 1
    done(*line, "--overwrite")


@pytest.mark.parametrize("command", ["invert", "decode", "reconstruct", "sample", "interpolate"])
def test_unwritable_output_is_refused_in_one_sentence(
    run: Run, pictures: list[Path], latents: list[Path], tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    inputs = {"decode": latents[:1], "sample": [], "interpolate": pictures[:2]}.get(command, pictures[:1])
    target = tmp_path / "file" / "below" / ("strip.png" if command == "interpolate" else "")
    outcome = run(command, *inputs, "-o", target, *([] if command == "decode" else ["--steps", "2"]))
    assert outcome.status == 1
    assert outcome.errors
    assert all("Not a directory" in line for line in outcome.errors)
    assert "Traceback" not in outcome.err
    assert not outcome.out
    assert (tmp_path / "file").read_text() == "in the way"


def test_file_in_place_of_folder_is_usage_error(run: Run, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run("invert", pictures[0], "-o", tmp_path / "file").status == 2


def test_a_full_disk_leaves_nothing_half_written(model: Path, pictures: list[Path], outputs: Path) -> None:
    """A limit on the size of files stands for the disk: no latent fits."""
    command = [sys.executable, "-m", "ddim_edit", "invert", *map(str, pictures[:2]), "-o", str(outputs)]
    done = subprocess.run(
        [*command, "--model", str(model), "--steps", "2", "-q"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert not done.stdout
    lines = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == list(map(str, pictures[:2]))
    assert all("cannot be written" in line or "cannot write" in line for line in lines), lines
    assert files_in(outputs) == []


def test_interruption_keeps_finished_outputs(
    run: Run, pictures: list[Path], outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invert, calls = Editor.invert_batches, iter(range(9))

    def interrupted(editor: Editor, *arguments: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return invert(editor, *arguments)

    monkeypatch.setattr(Editor, "invert_batches", interrupted)
    outcome = run("invert", *pictures, "-o", outputs, "--batch-size", "1")
    assert outcome.status == 130
    assert outcome.out.splitlines() == [str(outputs / f"{name}{LATENT}") for name in "ab"]
    assert files_in(outputs) == [f"a{LATENT}", f"b{LATENT}"]
    assert "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1] == "interrupted"


@pytest.mark.slow
def test_control_c_ends_a_running_command(model: Path, tmp_path: Path, outputs: Path) -> None:
    for seed in range(40):
        tiny.save_picture(tmp_path / "in" / f"{seed:02}.png", seed)
    command = [sys.executable, "-m", "ddim_edit", "invert", str(tmp_path / "in"), "-o", str(outputs)]
    process = subprocess.Popen(
        [*command, "--model", str(model), "--batch-size", "1", "--steps", "100"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(list(outputs.glob(f"*{LATENT}"))) >= 2, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert "Traceback" not in err
    names = [Path(line).name for line in out.splitlines()]
    assert files_in(outputs)[: len(names)] == names
    assert 2 <= len(files_in(outputs)) <= len(names) + 1 < 40  # one may be written and not told yet
    assert all(Latent.load(outputs / name).report["converged"] for name in files_in(outputs))
