"""`train`: what it says, what it writes, and how it ends."""

import os
import signal
from pathlib import Path

import pytest

from ddim_edit.training import trainer

from .. import tiny
from .conftest import Run

FEW = (
    "--network",
    "tiny",
    "--steps",
    "2",
    "--batch-size",
    "2",
    "--save-every",
    "1",
    "--samples",
    "1",
    "--device",
    "cpu",
)
HEADING = "|   step | training | held out |     rate |"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(4):
        tiny.save_picture(tmp_path / "in" / f"{seed}.png", seed)
    return tmp_path / "in"


@pytest.mark.slow
def test_training_writes_and_reports_model(done: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "bad.png").write_bytes(b"no picture")
    outcome = done("train", folder, "-o", tmp_path / "model", *FEW)
    assert outcome.out.splitlines()[0] == HEADING
    assert [line.split()[1] for line in outcome.out.splitlines()[2:]] == ["0", "1", "2"]
    (warning,) = outcome.warnings
    assert warning.startswith("warning: bad.png is left out: this is not a PNG, JPEG")
    assert "3 images to train on, 1 for validation, 16x16 pixels, on cpu" in outcome.err
    again = done("train", folder, "-o", tmp_path / "model", *FEW, "--json", "-q")
    assert not again.out
    shown = done("sample", "--model", tmp_path / "model", "-o", tmp_path / "drawn", "--steps", "2")
    assert shown.out.splitlines() == [str(tmp_path / "drawn" / "seed-0000.png")]


@pytest.mark.slow
def test_interrupted_run_says_how_to_resume(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "write_sheet", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    line = ("train", folder, "-o", tmp_path / "model", *FEW, "--sample-every", "1", "--json")
    outcome = run(*line)
    assert outcome.status == 130
    assert [row["step"] for row in outcome.rows] == [0, 1]
    last = [f"step 1 is saved in {tmp_path / 'model'}; the same command continues from there", "", "interrupted"]
    assert outcome.err.splitlines()[-3:] == last
    monkeypatch.undo()
    again = run(*line)
    assert (again.status, [row["step"] for row in again.rows]) == (0, [2])
    assert "continues at step 1 of 2" in again.err


def test_unusable_input_is_refused_in_one_sentence(run: Run, folder: Path, tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model")
    for line, said in (
        ((folder, "-o", model), f"{model}: it holds something else than a training"),
        ((tmp_path / "absent", "-o", tmp_path / "new"), f"{tmp_path / 'absent'}: no such file or folder"),
        ((folder, "-o", tmp_path / "new", "--size", "9"), "The network works at sizes in multiples of 4"),
        ((folder, "-o", tmp_path / "new", "--accumulate", "3"), "A batch of 64 images cannot be shared by 1 processes"),
    ):
        outcome = run("train", *line, "--device", "cpu")
        assert (outcome.status, outcome.out) == (1, "")
        assert outcome.err.startswith(f"error: {said}")
        assert not (tmp_path / "new").exists()
