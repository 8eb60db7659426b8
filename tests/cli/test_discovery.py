"""`discover`: direction files without labels, and the sheet that shows them."""

import json
from pathlib import Path

import torch
from PIL import Image

from ddim_edit import Direction

from .conftest import Run, files_in, pixels_of

QUICK = ["--steps", 4, "--count", 2, "--iterations", 2, "--strengths", "-2:2:3"]
FILES = ["sheet.png", "v1.direction.safetensors", "v2.direction.safetensors"]


def test_directions_and_their_sheet_are_written(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = done("discover", pictures[0], *QUICK, "-o", tmp_path / "out", "--json")
    assert files_in(tmp_path / "out") == FILES
    for number, row in enumerate(outcome.rows, 1):
        file = tmp_path / "out" / f"v{number}.direction.safetensors"
        assert row == {"output": str(file), **Direction.read_summary(file)}
        assert (row["name"], row["method"], row["n"], row["sd"]) == (f"v{number}", "jacobian", 1, 1.0)
    first, second = (row["singular_value"] for row in outcome.rows)
    assert first > second > 0
    recipe = json.loads(done("show", tmp_path / "out" / "sheet.png").out)["recipe"]
    assert (recipe["kind"], recipe["names"], recipe["factors"]) == ("discovery", ["v1", "v2"], [-2.0, 0.0, 2.0])


def test_sheet_shows_the_source_in_the_middle_and_edits_beside_it(
    done: Run, pictures: list[Path], tmp_path: Path
) -> None:
    done("discover", *pictures, *QUICK, "-o", tmp_path / "out")
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        width, height = sheet.size
    cell, gap = 128, 4
    # Two directions for each of the first three pictures, under one line of labels.
    assert 0 <= height - 6 * (cell + gap) < 40
    left = width - 3 * (cell + gap) + gap
    top = height - 6 * (cell + gap) + gap
    whole = pixels_of(tmp_path / "out" / "sheet.png")
    rows = [whole[:, y : y + cell, left:] for y in range(top, height, cell + gap)]
    for row, picture in zip(rows, [*pictures[:3]] * 2, strict=True):
        columns = [row[:, :, x : x + cell] for x in range(0, row.shape[2], cell + gap)]
        source = pixels_of(picture).repeat_interleave(8, 1).repeat_interleave(8, 2).int()
        assert (columns[1].int() - source)[:, 8:-8, 8:-8].abs().float().mean() < 8  # enlarged otherwise
        assert not torch.equal(columns[0], columns[1])
        assert not torch.equal(columns[2], columns[1])


def test_written_files_edit(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    done("discover", pictures[0], *QUICK, "-o", tmp_path / "out")
    file = tmp_path / "out" / "v1.direction.safetensors"
    done("edit", pictures[1], "--set", f"{file}=+2", "-o", tmp_path / "edited.png")
    assert not torch.equal(pixels_of(tmp_path / "edited.png"), pixels_of(pictures[1]))
    listed = done("directions", tmp_path / "out").out.splitlines()
    assert len(listed) == 2
    assert all("singular value" in line and "AUC" not in line for line in listed)


def test_names_are_those_of_files_and_directions(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    done("discover", pictures[0], *QUICK, "--names", "smile", "-o", tmp_path / "out")
    assert files_in(tmp_path / "out") == ["sheet.png", "smile.direction.safetensors", "v2.direction.safetensors"]
    assert Direction.load(tmp_path / "out" / "smile.direction.safetensors").name == "smile"


def test_equal_calls_find_equal_directions(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    for name in ("one", "again"):
        done("discover", pictures[0], *QUICK, "-o", tmp_path / name)
    for name in FILES[1:]:
        one, again = (Direction.load(tmp_path / folder / name) for folder in ("one", "again"))
        torch.testing.assert_close(one.vector, again.vector, rtol=0, atol=1e-5)


def test_existing_files_are_kept(run: Run, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "v2.direction.safetensors").write_text("mine")
    outcome = run("discover", pictures[0], *QUICK, "-o", tmp_path / "out")
    assert outcome.status == 1
    assert "v2.direction.safetensors exists. Use --overwrite" in outcome.errors[0]
    assert files_in(tmp_path / "out") == ["v2.direction.safetensors"]


def test_unreadable_images_are_named_and_the_others_used(run: Run, pictures: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    outcome = run("discover", bad, pictures[0], *QUICK, "-o", tmp_path / "out", "--json")
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert outcome.errors[0].startswith(f"error: {bad}: ")
    assert [row["n"] for row in outcome.rows] == [1, 1]
    alone = run("discover", bad, *QUICK, "-o", tmp_path / "none")
    assert (alone.status, alone.out) == (1, "")
    assert not (tmp_path / "none").exists()


def test_what_has_not_converged_is_warned_of(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = done("discover", pictures[0], *QUICK, "-o", tmp_path / "out", "-q")
    assert outcome.warnings == ["warning: not all directions have converged; raise --iterations"]
