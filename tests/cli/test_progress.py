"""How far a command is, told now and then where nobody looks at a terminal."""

from pathlib import Path

import pytest

from ddim_edit.cli import progress
from ddim_edit.cli.progress import Progress

from .conftest import Run


def test_lines_report_evaluations_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    shown = Progress(10, 20, False, said.append)
    for _ in range(20):
        now[0] += 6
        shown.count(4)
    shown.finish_images(4)
    now[0] += 31
    shown.count(4)
    assert said[0] == "12 of 200 evaluations, about 4:42 left" or said[0].startswith("20 of 200 evaluations")
    assert said[-1] == "84 of 200 evaluations, about 3:29 left"
    assert len(said) <= 6


def test_long_commands_report_progress(
    done: Run, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SHORTEST_SILENCE", 0.0)
    outcome = done("reconstruct", *pictures, "-o", tmp_path / "out", "--steps", "5", "--batch-size", "2")
    lines = [line for line in outcome.err.splitlines() if " evaluations, about " in line]
    assert lines[0].startswith("4 of 40 evaluations") or lines[0].startswith("6 of 40 evaluations")
    assert " of 40 evaluations, about 0:00 left" in lines[-1]


def test_quiet_and_short_commands_report_none(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    assert "evaluations" not in done("invert", pictures[0], "-o", tmp_path / "a").err


def test_a_large_model_is_announced_by_component(
    done: Run, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddim_edit.cli.session.LARGE_MODEL", 1000)
    outcome = done("invert", pictures[0], "-o", tmp_path / "a", "--steps", "2")
    assert outcome.err.splitlines()[0] == "loading tiny: unet 0.0 GB"
