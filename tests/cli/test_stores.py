import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddim_edit import Latent, LatentStore

from .. import tiny
from ..rounding import assert_shown_alike
from ..waiting import HANG, wait_until
from .conftest import Run, files_in, pixels_of

LATENT = ".latent.safetensors"
FEW = ("--steps", "3", "--batch-size", "2", "--shard-size", "3")
SHARDS = ["shard-00000.safetensors", "shard-00001.safetensors"]
STORE = ["model.json", "pictures.jsonl", *SHARDS, "store.json"]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder of five pictures of the model's own size."""
    for seed, name in enumerate("abcde"):
        tiny.save_picture(tmp_path / "in" / f"{name}.png", seed)
    return tmp_path / "in"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def test_store_contains_same_latents_as_files(done: Run, many: Path, tmp_path: Path) -> None:
    outcome = done("invert", many, "-o", tmp_path / "s.latents", *FEW)
    assert outcome.out.splitlines() == [str(tmp_path / "s.latents" / name) for name in SHARDS]
    assert files_in(tmp_path / "s.latents") == STORE
    done("invert", many, "-o", tmp_path / "files", "--steps", "3", "--batch-size", "1")
    store = LatentStore(tmp_path / "s.latents")
    assert list(store.names) == [f"{name}.png" for name in "abcde"]
    for name, latent in zip("abcde", store, strict=True):
        alone = Latent.load(tmp_path / "files" / f"{name}{LATENT}")
        assert (latent.recipe, latent.t) == (alone.recipe, alone.t)
        torch.testing.assert_close(latent.x, alone.x, rtol=0, atol=1e-5)


def test_output_without_store_suffix_is_a_folder(done: Run, many: Path, tmp_path: Path) -> None:
    done("invert", many, "-o", tmp_path / "latents", "--steps", "3")
    assert files_in(tmp_path / "latents") == [f"{name}{LATENT}" for name in "abcde"]


def test_rerun_does_nothing_and_prints_the_same(done: Run, many: Path, tmp_path: Path, evaluations: list[int]) -> None:
    line = ("invert", many, "-o", tmp_path / "s.latents")
    first, before = done(*line, *FEW), contents(tmp_path / "s.latents")
    evaluations.clear()
    again = done(*line, "--steps", "3")  # sizes are the store's own
    assert not evaluations
    assert again.out == first.out
    assert again.err.splitlines() == first.err.splitlines()[-1:] == ["s.latents: 5 latents in 2 shards"]
    assert contents(tmp_path / "s.latents") == before


def test_bad_image_is_listed_on_every_run(run: Run, done: Run, many: Path, tmp_path: Path) -> None:
    (many / "b.png").write_bytes(b"no picture")
    line = ("invert", many, "-o", tmp_path / "s.latents", *FEW)
    for _ in range(2):
        outcome = run(*line)
        assert outcome.status == 1
        (error,) = outcome.errors
        assert error.startswith("error: b.png: this is not a PNG")
        assert outcome.err.splitlines()[-2:] == [error, "s.latents: 4 latents in 2 shards, and 1 failed"]
    shown = json.loads(done("show", tmp_path / "s.latents").out)
    assert list(shown["failures"]) == ["b.png"]


def test_missing_path_fails_alone(run: Run, many: Path, tmp_path: Path) -> None:
    outcome = run("invert", tmp_path / "absent", many, "-o", tmp_path / "s.latents", *FEW)
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert len(LatentStore(tmp_path / "s.latents")) == 5


def test_no_images_write_no_store(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    outcome = run("invert", tmp_path / "empty", "-o", tmp_path / "s.latents")
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert not (tmp_path / "s.latents").exists()


def test_json_rows_describe_every_shard(run: Run, many: Path, tmp_path: Path) -> None:
    (many / "e.png").write_bytes(b"no picture")
    first, second = run("invert", many, "-o", tmp_path / "s.latents", "--json", *FEW).rows
    assert first == {"shard": 0, "rows": 3, "failures": {}}
    assert (second["shard"], second["rows"], list(second["failures"])) == (1, 1, ["e.png"])


def test_new_images_are_added(done: Run, many: Path, tmp_path: Path) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", *FEW)
    before = contents(tmp_path / "s.latents")
    tiny.save_picture(many / "aa.png", 9)
    done("invert", many, "-o", tmp_path / "s.latents", *FEW)
    assert [list(LatentStore(tmp_path / "s.latents").names)[-1]] == ["aa.png"]
    after = contents(tmp_path / "s.latents")
    assert {name: after[name] for name in SHARDS} == {name: before[name] for name in SHARDS}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--steps", "4"], "method.steps 3"),
        (["--batch-size", "3"], "batch_size 2"),
        (["--shard-size", "4"], "shard_size 3"),
        (["--crop", "fit"], 'crop.kind "centre square"'),
        (["--dtype", "bf16"], 'dtype "float32"'),
    ],
    ids=str,
)
def test_other_settings_are_refused(
    run: Run, done: Run, many: Path, tmp_path: Path, options: list[str], named: str
) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", *FEW)
    before = contents(tmp_path / "s.latents")
    outcome = run("invert", many, "-o", tmp_path / "s.latents", "--steps", "3", *options)
    assert outcome.status == 1
    assert outcome.err.startswith(f"error: s.latents was begun with {named}, not ")
    assert "--overwrite" in outcome.err
    assert contents(tmp_path / "s.latents") == before


def test_overwrite_replaces_stores_only(run: Run, done: Run, many: Path, tmp_path: Path) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", *FEW)
    done("invert", many, "-o", tmp_path / "s.latents", "--overwrite", "--steps", "4")
    assert LatentStore(tmp_path / "s.latents").shards == 1
    (tmp_path / "mine.latents").mkdir()
    (tmp_path / "mine.latents" / "diary.txt").write_text("dear")
    for options in ([], ["--overwrite"]):
        outcome = run("invert", many, "-o", tmp_path / "mine.latents", *options)
        assert outcome.status == 1
        assert "exists and is not a store of latents" in outcome.err
    assert files_in(tmp_path / "mine.latents") == ["diary.txt"]
    outcome = run("invert", many, "-o", tmp_path / "s.latents", "--overwrite", "--shard", "0/2")
    assert outcome.status == 1
    assert LatentStore(tmp_path / "s.latents").shards == 1


@pytest.mark.same_bits
def test_shares_write_same_bytes_as_one_process(done: Run, many: Path, tmp_path: Path) -> None:
    """On one machine, or several alike: the sizes and the threads are the store's own (see `rounding`)."""
    done("invert", many, "-o", tmp_path / "one.latents", "--steps", "3", "--batch-size", "1", "--shard-size", "2")
    line = ("invert", many, "-o", tmp_path / "two.latents", "--steps", "3", "--batch-size", "1", "--shard-size", "2")
    assert done(*line, "--shard", "1/2").err.splitlines()[-1] == "two.latents: 2 latents in 1 shard"
    assert not LatentStore(tmp_path / "two.latents").complete
    done(*line, "--shard", "0/2")
    assert contents(tmp_path / "two.latents") == contents(tmp_path / "one.latents")


def test_launcher_selects_share(done: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    done("invert", many, "-o", tmp_path / "s.latents", *FEW)
    assert list(LatentStore(tmp_path / "s.latents").names) == ["d.png", "e.png"]


def test_decoding_store_equals_decoding_files(done: Run, many: Path, tmp_path: Path) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", "--exact", "--steps", "5", "--shard-size", "3")
    outcome = done("decode", tmp_path / "s.latents", "-o", tmp_path / "out", "--batch-size", "2")
    assert outcome.out.splitlines() == [str(tmp_path / "out" / f"{name}.png") for name in "abcde"]
    for name in "abcde":
        assert torch.equal(pixels_of(tmp_path / "out" / f"{name}.png"), pixels_of(many / f"{name}.png"))


def test_stores_and_files_decode_together(done: Run, many: Path, tmp_path: Path) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", "--steps", "3", "--batch-size", "5")
    done("invert", many, "-o", tmp_path / "files", "--steps", "3", "--batch-size", "5")
    done("decode", tmp_path / "s.latents", "-o", tmp_path / "one", "--batch-size", "5")
    done("decode", tmp_path / "files", "-o", tmp_path / "two", "--batch-size", "5")
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
    for name in files_in(tmp_path / "one"):
        assert_shown_alike(pixels_of(tmp_path / "one" / name), pixels_of(tmp_path / "two" / name))


def test_subfolders_and_equal_names_decode_separately(done: Run, tmp_path: Path) -> None:
    for seed, name in enumerate(("left/a.png", "left/a.bmp", "right/a.png")):
        tiny.save_picture(tmp_path / name, seed)
    done("invert", tmp_path / "left", tmp_path / "right", "-o", tmp_path / "s.latents", "--steps", "3")
    done("decode", tmp_path / "s.latents", "-o", tmp_path / "out")
    assert files_in(tmp_path / "out") == ["left/a-2.png", "left/a.png", "right/a.png"]


def test_store_is_decoded_in_batches_in_its_dtype(
    done: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", "--dtype", "bf16", *FEW)
    monkeypatch.setattr(LatentStore, "__iter__", lambda _: pytest.fail("all of it was read"))
    outcome = done("decode", tmp_path / "s.latents", "-o", tmp_path / "out")
    assert "in bfloat16 on" in outcome.err
    assert len(files_in(tmp_path / "out")) == 5


def test_store_of_another_model_is_refused_once(
    run: Run, done: Run, many: Path, other_model: Path, tmp_path: Path
) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", *FEW)
    outcome = run("decode", tmp_path / "s.latents", "-o", tmp_path / "out", "--model", other_model)
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    done("decode", tmp_path / "s.latents", "-o", tmp_path / "out", "--model", other_model, "--force")


def test_existing_images_are_not_replaced(run: Run, done: Run, many: Path, tmp_path: Path) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", *FEW)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_text("mine")
    outcome = run("decode", tmp_path / "s.latents", "-o", tmp_path / "out")
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert (tmp_path / "out" / "b.png").read_text() == "mine"
    assert len(files_in(tmp_path / "out")) == 5


def test_show_describes_store(run: Run, done: Run, many: Path, tmp_path: Path) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", *FEW)
    (tmp_path / "s.latents" / SHARDS[1]).unlink()
    outcome = run("show", tmp_path / "s.latents")
    assert outcome.status == 1
    assert "shard 1 is not there" in outcome.err
    shown = json.loads(outcome.out)
    assert shown.items() >= {"latents": 3, "shards": 1, "complete": False, "failures": {}, "unconverged": 0}.items()
    assert shown["recipe"].items() >= {"model": "tiny", "solver": "dpm2m", "steps": 3, "t": 1000.0}.items()
    assert shown["shape"] == [3, tiny.SIZE, tiny.SIZE]


def test_nonconverged_latents_are_counted(done: Run, many: Path, tmp_path: Path) -> None:
    outcome = done("invert", many, "-o", tmp_path / "s.latents", "--exact", "--tol", "1e-30", "-q", *FEW)
    assert [line.partition(",")[0] for line in outcome.warnings] == [
        "warning: shard-00000.safetensors: 3 images did not converge",
        "warning: shard-00001.safetensors: 2 images did not converge",
    ]
    assert LatentStore(tmp_path / "s.latents").unconverged == 5


@pytest.mark.slow
@pytest.mark.same_bits
def test_interrupted_run_is_reported_and_resumable(done: Run, many: Path, model: Path, tmp_path: Path) -> None:
    line = ["invert", str(many), "--model", str(model), "--steps", "100", "--batch-size", "1", "--shard-size", "5"]
    line += ["--dtype", "fp32"]
    program = [sys.executable, "-m", "ddim_edit", *line, "-o", str(tmp_path / "s.latents")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=environment)
    parts = tmp_path / "s.latents" / "parts" / "shard-00000"
    wait_until(lambda: list(parts.glob("batch-*")), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted"
    assert not [name for name in files_in(tmp_path / "s.latents") if ".ddim-edit-" in name]
    done(*line, "-o", tmp_path / "s.latents")
    done(*line, "-o", tmp_path / "whole.latents")
    assert contents(tmp_path / "s.latents") == contents(tmp_path / "whole.latents")


def test_store_decodes_without_metadata_on_request(done: Run, many: Path, tmp_path: Path) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", *FEW)
    done("decode", tmp_path / "s.latents", "-o", tmp_path / "told")
    done("decode", tmp_path / "s.latents", "-o", tmp_path / "bare", "--no-metadata")
    for name in files_in(tmp_path / "bare"):
        assert_shown_alike(pixels_of(tmp_path / "bare" / name), pixels_of(tmp_path / "told" / name))
        assert b"ddim-edit" in (tmp_path / "told" / name).read_bytes()
        assert b"ddim" not in (tmp_path / "bare" / name).read_bytes()
