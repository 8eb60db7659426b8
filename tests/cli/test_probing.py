"""`probe`: linear probes on codes, as a table, as JSON and as a plot."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .. import tiny
from .conftest import Run, files_in

# Few probes, as it is these that take the time.
QUICK = ["--steps", 4, "--sizes", "6,all", "--draws", 2, "--levels", "0.4T,h:0.4T"]
FEWEST = ["--steps", 4, "--sizes", "6", "--draws", 1, "--levels", "0.4T"]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Two folders of pictures: brighter above than below, and the other way round."""
    folder = tmp_path_factory.mktemp("sides")
    for seed in range(24):
        light = np.linspace(60, -60, tiny.SIZE)[:, None, None] * (1 if seed % 2 else -1)
        side = folder / ("with" if seed % 2 else "without")
        side.mkdir(exist_ok=True)
        picture = (0.5 * tiny.pixels(seed) + 64 + light).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(side / f"{seed}.png")
    return ["--with", folder / "with", "--without", folder / "without"]


def test_report_contains_all_representations_and_sizes(done: Run, sides: list[object]) -> None:
    (report,) = done("probe", *sides, *QUICK, "--json", "-q").rows
    names = ["pixels", "random projection", "0.4T", "h:0.4T"]
    assert [(row["representation"], row["n"]) for row in report["rows"]] == [
        (name, n) for name in names for n in (6, 18)
    ]
    assert (report["train"], report["test"], report["positives"], report["seed"]) == (18, 6, 0.5, 0)
    for row in report["rows"]:
        assert 0 <= row["low"] <= row["high"] <= 1
        assert row["draws"] == (1 if row["n"] == 18 else 2)
        assert row["dim"] == {"random projection": 512, "h:0.4T": 16 * 8 * 8}.get(row["representation"], 768)
    best = {row["representation"]: row["balanced_accuracy"] for row in report["rows"] if row["n"] == 18}
    assert best["pixels"] > 0.8
    assert best["0.4T"] > 0.8


def test_standard_output_is_the_table(done: Run, sides: list[object]) -> None:
    outcome = done("probe", *sides, *FEWEST)
    title, *lines = outcome.out.splitlines()
    assert title.split() == ["representation", "dim", "n", "draws", "balanced", "low", "high", "AUC"]
    assert len(lines) == 3
    assert len({len(line) for line in (title, *lines)}) == 1


@pytest.mark.slow
def test_plot_is_written_only_to_named_file(run: Run, done: Run, sides: list[object], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "new" / "curves.png"
    done("probe", *sides, *FEWEST, "--plot", target)
    with Image.open(target) as image:
        assert min(image.size) > 200
    assert files_in(tmp_path) == ["new/curves.png"]
    recipe = json.loads(done("show", target).out)["recipe"]
    assert (recipe["kind"], recipe["model"], recipe["steps"]) == ("probe", "tiny", 4)
    before = target.read_bytes()
    outcome = run("probe", *sides, *FEWEST, "--plot", target)
    assert (outcome.status, outcome.out) == (1, "")
    assert "exists. Use --overwrite" in outcome.errors[0]
    assert target.read_bytes() == before
    done("probe", *sides, *FEWEST, "--plot", target, "--overwrite")


@pytest.mark.slow
def test_cache_is_shared_with_fit(done: Run, sides: list[object], tmp_path: Path, evaluations: list[int]) -> None:
    line = ["probe", *sides, *FEWEST, "--levels", "0.4T,h:0.4T", "--cache", tmp_path / "cache"]
    done(*line)
    assert sum(evaluations) > 0
    evaluations.clear()
    done(*line, "--sizes", "8")
    target = tmp_path / "a.direction.safetensors"
    done("fit", "a", *sides, "--steps", 4, "--cache", tmp_path / "cache", "-o", target)
    assert not evaluations


def test_csv_labels_and_seed_determine_report(done: Run, tmp_path: Path) -> None:
    for seed in range(12):
        tiny.save_picture(tmp_path / "in" / f"{seed}.png", seed)
    (tmp_path / "ages.csv").write_text("file,age\n" + "".join(f"{seed}.png,{seed}\n" for seed in range(12)))
    line = ["--images", tmp_path / "in", "--labels", tmp_path / "ages.csv", "--column", "age", "--positive", ">=6"]
    few = [*line, *QUICK, "--sizes", "4", "--levels", "0.4T", "--cache", tmp_path / "cache", "--json"]
    first, again, other = (done("probe", *few, "--seed", seed) for seed in (1, 1, 2))
    assert first.out == again.out
    assert (first.rows[0]["train"], first.rows[0]["test"]) == (9, 3)
    assert first.rows[0]["rows"] != other.rows[0]["rows"]


def test_unusable_input_is_refused(run: Run, sides: list[object], tmp_path: Path) -> None:
    tiny.save_picture(tmp_path / "one" / "1.png", 1)
    tiny.save_picture(tmp_path / "two" / "2.png", 2)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "3.png").write_text("no picture")
    lines = [
        [*sides, *QUICK, "--solver", "belm"],
        [*sides, *QUICK, "--sizes", "100"],
        ["--with", tmp_path / "one", "--without", tmp_path / "two", *QUICK],
        ["--with", tmp_path / "bad", "--without", tmp_path / "two", *QUICK],
    ]
    for line in lines:
        outcome = run("probe", *line)
        assert outcome.status == 1, line
        assert "Traceback" not in outcome.err
        assert outcome.errors
        assert all(error.startswith("error: ") for error in outcome.errors)
