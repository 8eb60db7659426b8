"""`--grid auto`, and `tune`."""

import json
from pathlib import Path

import pytest

from ddim_edit import Latent
from ddim_edit.images import read_recipe

from .conftest import Run

AUTO = ("--grid", "auto", "--steps", 3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ddim-edit" / "grids"


def test_grid_is_searched_once_and_named_in_latents_and_recipes(
    done: Run, pictures: list[Path], cache: Path, tmp_path: Path
) -> None:
    first = done("invert", *pictures, "-o", tmp_path / "latents", *AUTO)
    (file,) = cache.iterdir()
    (note,) = [line for line in first.err.splitlines() if line.startswith("grid ")]
    assert "found with 30 evaluations on 4 images" in note
    assert note.endswith(f"kept in {file}")
    grid = note.split()[1]
    assert grid.startswith("karras:")
    latent = Latent.load(tmp_path / "latents" / "a.latent.safetensors")
    assert latent.recipe.grid == grid

    again = done("reconstruct", pictures[0], "-o", tmp_path / "out", *AUTO)
    assert f"grid {grid} for tiny, found before on 4 images: {file}" in again.err.splitlines()
    assert f'"grid": "{grid}"' in json.dumps(read_recipe(tmp_path / "out" / "sheet.png"))
    done("interpolate", *pictures[:2], "-o", tmp_path / "strip.png", "--frames", 2, *AUTO)
    assert json.dumps(read_recipe(tmp_path / "strip.png")).count(f'"grid": "{grid}"') == 2


def test_stores_record_the_grid(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    done("invert", pictures[0].parent, "-o", tmp_path / "in.latents", *AUTO)
    shown = done("show", tmp_path / "in.latents")
    assert "auto" not in shown.out
    assert "karras:" in shown.out


def test_damaged_entry_is_searched_again(done: Run, pictures: list[Path], cache: Path, tmp_path: Path) -> None:
    done("invert", pictures[0], "-o", tmp_path / "out", *AUTO)
    (file,) = cache.iterdir()
    kept = file.read_text()
    file.write_text(kept[:50])
    outcome = done("invert", pictures[0], "-o", tmp_path / "again", *AUTO)
    assert outcome.warnings == [f"warning: {file}: is damaged, so the grid is searched again."]
    first, searched = json.loads(kept), json.loads(file.read_text())
    assert searched.keys() == first.keys()
    found = [[trial["psnr"] for trial in search["trials"]] for search in (searched, first)]
    assert found[0] == pytest.approx(found[1], abs=0.01)


def test_tune_prints_what_it_tried(run: Run, model: Path, pictures: list[Path], tmp_path: Path, cache: Path) -> None:
    (tmp_path / "in" / "broken.png").write_text("no image")
    outcome = run("tune", tmp_path / "in", "--model", model, "--steps", 3)
    assert outcome.status == 0, outcome.err
    assert len(outcome.out.splitlines()) == 1 + 5
    assert len(list(cache.iterdir())) == 1
    (row,) = run("tune", *pictures[:2], "--model", model, "--steps", 3, "--json").rows
    assert (row["images"], row["steps"], len(row["trials"])) == (2, 3, 5)


def test_commands_without_images_refuse_it(run: Run, tmp_path: Path) -> None:
    outcome = run("sample", "-o", tmp_path / "out", *AUTO)
    assert outcome.status == 2
    assert "Find a grid with `ddim-edit tune` and name it." in outcome.err
    assert not (tmp_path / "out").exists()
