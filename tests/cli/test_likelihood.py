"""`likelihood`: a row for each picture, and their mean."""

import math
import statistics
from importlib import resources
from pathlib import Path

import pytest

from ddim_edit import LikelihoodConfig, load_model, log_likelihood

from ..rounding import ROUNDING
from .conftest import Run

FIELDS = {
    *("input", "bits_per_dim", "standard_error", "nats", "probes", "steps", "seed", "nfe", "dim"),
}
QUICK = ["--steps", 3]


@pytest.fixture
def small(model: Path) -> list[object]:
    return ["--model", model, *QUICK]


def test_rows_equal_library_likelihood(done: Run, pictures: list[Path], model: Path, small: list[object]) -> None:
    outcome = done("likelihood", *pictures, *small, "--probes", 3, "--seed", 4, "--json")
    found = log_likelihood(load_model(model), pictures, LikelihoodConfig(3, probes=3, seed=4))
    assert [row["input"] for row in outcome.rows] == [str(path) for path in pictures]
    for row, bits, error, nats in zip(outcome.rows, found.bits, found.error, found.nats, strict=True):
        assert row.keys() == FIELDS
        assert (row["probes"], row["steps"], row["seed"], row["nfe"], row["dim"]) == (3, 3, 4, 48, 768)
        assert row["bits_per_dim"] == pytest.approx(bits.item(), rel=ROUNDING)
        assert row["standard_error"] == pytest.approx(error.item(), abs=ROUNDING * bits.item())
        assert row["bits_per_dim"] == pytest.approx(math.log2(127.5) - row["nats"] / 768 / math.log(2), abs=1e-9)
        assert row["nats"] == pytest.approx(nats.item(), abs=ROUNDING * bits.item() * 768 * math.log(2))


def test_table_ends_with_mean_and_standard_error(done: Run, pictures: list[Path], small: list[object]) -> None:
    rows = done("likelihood", *pictures, *small, "--json").rows
    title, *lines, mean = done("likelihood", *pictures, *small, "-q").out.splitlines()
    assert title.split() == ["bits/dim", "error", "NFE"]
    assert [line.split() for line in lines] == [
        [Path(row["input"]).stem, f"{row['bits_per_dim']:.4f}", f"{row['standard_error']:.4f}", "36"] for row in rows
    ]
    bits = [row["bits_per_dim"] for row in rows]
    error = statistics.stdev(bits) / 2
    assert mean.split() == ["mean", "of", "4", f"{statistics.fmean(bits):.4f}", f"{error:.4f}"]
    (_, one) = done("likelihood", pictures[0], *small, "-q").out.splitlines()
    assert one.split() == lines[0].split()


def test_network_computes_in_float32(run: Run, pictures: list[Path], small: list[object]) -> None:
    outcome = run("likelihood", pictures[0], *small)
    assert outcome.status == 0
    assert "tiny in float32 on " in outcome.err


def test_bad_file_does_not_end_batch(run: Run, pictures: list[Path], small: list[object]) -> None:
    pictures[1].write_text("no picture")
    outcome = run("likelihood", *pictures, *small, "--json", "-q")
    assert outcome.status == 1
    assert [Path(row["input"]).name for row in outcome.rows] == ["a.png", "c.png", "d.png"]
    assert len(outcome.errors) == 1
    assert "b.png" in outcome.errors[0]


def test_unmeasurable_input_is_refused(run: Run, pictures: list[Path], tmp_path: Path, small: list[object]) -> None:
    for line in (
        [tmp_path / "nowhere.png", *small],
        [pictures[0], *small, "--class", 1],
        [pictures[0], *small, "--start", 1000],
    ):
        outcome = run("likelihood", *line)
        assert (outcome.status, outcome.out) == (1, "")
        assert len(outcome.errors) == 1
        assert "Traceback" not in outcome.err


@pytest.mark.slow
def test_packaged_model_prefers_a_face(done: Run) -> None:
    """A smooth photograph: between what its smoothest pixels may cost and what lossless files of it take."""
    face = Path(str(resources.files("ddim_edit.assets"))) / "images" / "astronaut_face.png"
    (row,) = done("likelihood", face, "--model", "faces64", "--steps", 3, "--json", "-q").rows
    assert 2 < row["bits_per_dim"] < 5
    assert 0 < row["standard_error"] < 0.02
    assert (row["nfe"], row["dim"]) == (36, 12288)
