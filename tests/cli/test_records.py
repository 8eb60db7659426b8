"""`show`, `models` and `env`: what files, models and machines are."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ddim_edit import FAMILIES, Latent, hardware, suited_dtype

from .. import tiny
from .conftest import Run


def test_a_latent_shows_recipe_report_time_and_shape(done: Run, latents: list[Path]) -> None:
    record = json.loads(done("show", latents[0]).out)
    latent = Latent.load(latents[0])
    shape = [3, tiny.SIZE, tiny.SIZE]
    # By way of JSON, in which tuples are lists.
    recipe = json.loads(json.dumps(latent.recipe.to_json()))
    assert record == {"recipe": recipe, "report": latent.report, "t": 1000.0, "shape": shape}


def test_show_prints_inversion_settings(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    options = ["--solver", "ddim", "--grid", "quad", "--steps", "3", "--no-dequantise", "--exact"]
    done("invert", pictures[0], "-o", tmp_path / "out", *options)
    recipe = json.loads(done("show", tmp_path / "out" / "a.latent.safetensors").out)["recipe"]
    assert recipe["model"] == "tiny"
    assert (recipe["solver"], recipe["grid"], recipe["prediction"]) == ("ddim", "quad", "v_prediction")
    assert recipe["times"] == pytest.approx([0, 1000 / 9, 4000 / 9, 1000])
    assert recipe["dequantise"] == []
    assert recipe["origin"]["exact"] is True
    assert recipe["schedule"] == {"kind": "linear", "start": 1e-4, "end": 0.02, "T": 1000}


def test_decoded_image_shows_recipe_of_latent(done: Run, latents: list[Path], tmp_path: Path) -> None:
    done("decode", latents[0], "-o", tmp_path / "out")
    shown, latent = (json.loads(done("show", path).out) for path in (tmp_path / "out" / "a.png", latents[0]))
    assert shown == {"recipe": latent["recipe"]}


@pytest.mark.parametrize("name", ["out.png", "out.webp", "out.gif", "out.mp4", "out.webm", "out"])
def test_every_written_format_shows_its_recipe(done: Run, latents: list[Path], tmp_path: Path, name: str) -> None:
    done("interpolate", *latents[:2], "-o", tmp_path / name, "--frames", "2")
    file = tmp_path / name / "frame-0001.png" if name == "out" else tmp_path / name
    recipe = json.loads(done("show", file).out)["recipe"]
    assert (recipe["kind"], len(recipe["ends"])) == ("slerp", 2)


def test_files_without_recipe_are_reported(run: Run, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "model.safetensors.crdownload").write_bytes(save({"a": torch.zeros(2)}))
    (tmp_path / "model.zip").write_bytes(b"PK\x03\x04" + bytes(60))
    missing, folder = tmp_path / "missing.png", tmp_path
    for file, words in {
        pictures[0]: "there is no recipe in this image",
        tmp_path / "text.png": "this is not a PNG",
        tmp_path / "model.safetensors.crdownload": "it is a download that was not finished",
        tmp_path / "model.zip": "the file is cut short",
        missing: "No such file",
        folder: "it has no model_index.json and no config.json",
        tmp_path / "missing.latent.safetensors": "no such file",
    }.items():
        outcome = run("show", file)
        assert outcome.status == 1
        assert not outcome.out
        assert len(outcome.err.splitlines()) == len(outcome.errors) == 1
        assert words in outcome.errors[0]
        assert file.name in outcome.errors[0]


def test_show_completes_single_files(run: Run, model: Path, tmp_path: Path) -> None:
    outcome = run("show", model, "--base", tmp_path)
    assert (outcome.status, outcome.out) == (1, "")
    assert "base goes with a single file" in outcome.errors[0]


def test_models_lists_packaged_model(done: Run) -> None:
    (line,) = done("models").out.splitlines()
    assert line.split()[:3] == ["faces64", "64x64", "epsilon"]
    (row,) = done("models", "--json").rows
    assert (row["name"], row["size"], row["prediction"]) == ("faces64", 64, "epsilon")
    assert row["card"] in line


def test_models_lists_families_of_the_registry(done: Run) -> None:
    rows = done("models", "--families", "--json").rows
    assert [(row["name"], row["title"]) for row in rows] == [(each.name, each.title) for each in FAMILIES.values()]
    assert [row["files"] for row in rows] == [each.files for each in FAMILIES.values()]
    text = done("models", "--families").out
    shown = ("name", "title", "files", "recognised", "works")
    assert [(row["name"], key) for row in rows for key in shown if row[key] not in text] == []


def test_env_prints_versions_and_devices(done: Run) -> None:
    (facts,) = done("env", "--json").rows
    assert facts["torch"] == version("torch")
    assert facts["ddim-edit"] == version("ddim-edit")
    assert facts["threads"] == str(torch.get_num_threads())
    assert facts["dtype"] == suited_dtype("auto")
    assert facts["devices"].startswith("cpu")
    assert facts["cpu"] == hardware("cpu")
    lines = [line.split(maxsplit=1) for line in done("env").out.splitlines()]
    assert dict(lines) == facts
