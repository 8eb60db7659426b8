"""A store that is filled again: failures are tried again, changes are noticed, settings are taken over and checked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddim_edit import LatentStore
from ddim_edit.io.locks import FolderLock

from .. import tiny
from .conftest import Run, files_in

LINE = ("--steps", "3", "--batch-size", "2", "--shard-size", "4")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for seed, name in enumerate("abcdef"):
        tiny.save_picture(tmp_path / "in" / f"{name}.png", seed)
    return tmp_path / "in"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


@pytest.mark.same_bits
def test_restored_image_is_inverted(run: Run, done: Run, many: Path, tmp_path: Path, evaluations: list[int]) -> None:
    content = (many / "b.png").read_bytes()
    (many / "b.png").write_bytes(b"no picture")
    assert run("invert", many, "-o", tmp_path / "s.latents", *LINE).status == 1
    assert run("invert", many, "-o", tmp_path / "s.latents", *LINE).status == 1
    (many / "b.png").write_bytes(content)
    evaluations.clear()
    again = done("invert", many, "-o", tmp_path / "s.latents", *LINE)
    assert "s.latents: inverted again: 1 that can be read now (b.png)" in again.err
    assert evaluations == [2] * 3  # the batch of b.png alone
    done("invert", many, "-o", tmp_path / "t.latents", *LINE)
    assert contents(tmp_path / "s.latents") == contents(tmp_path / "t.latents")


@pytest.mark.same_bits
def test_a_replaced_image_is_noticed(done: Run, many: Path, tmp_path: Path) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", *LINE)
    tiny.save_picture(many / "e.png", 9)
    os.utime(many / "e.png", (1, 1))  # as `cp -p` would leave it
    again = done("invert", many, "-o", tmp_path / "s.latents", *LINE)
    assert "s.latents: inverted again: 1 that changed (e.png)" in again.err
    done("invert", many, "-o", tmp_path / "t.latents", *LINE)
    assert contents(tmp_path / "s.latents") == contents(tmp_path / "t.latents")


def test_verify_compares_all_contents(done: Run, many: Path, tmp_path: Path) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", *LINE)
    tiny.save_picture(many / "e.png", 9)
    for shard in (tmp_path / "s.latents").glob("shard-*"):
        os.utime(shard, (2**32, 2**32))  # newer than everything
    line = ("invert", many, "-o", tmp_path / "s.latents", *LINE)
    assert "inverted again" not in done(*line).err
    assert "inverted again: 1 that changed (e.png)" in done(*line, "--verify").err


def test_dtype_and_size_are_those_of_the_store(run: Run, done: Run, model: Path, many: Path, tmp_path: Path) -> None:
    line = ["invert", many, "-o", tmp_path / "s.latents", *LINE, "--model", model]
    done(*line, "--dtype", "bf16", "--size", "32")
    tiny.save_picture(many / "z.png", 9)
    done(*line, "--dtype", "auto")
    assert len(LatentStore(tmp_path / "s.latents")) == 7
    assert LatentStore(tmp_path / "s.latents")[6].recipe.dtype == "bfloat16"
    assert run(*line, "--dtype", "fp32").status == 1


WRONG = {
    "threads": [1_000_000, -1, 0, "8", 1.5, True, None],
    "batch_size": [0, -3, "2", 10**9, None],
    "shard_size": [0, "x", [], 10**12],
    "crop": ["centre", None],
    "method": [None, {"steps": "3"}, {"steps": 0}, {"steps": 10**6}, {"tol": -1}, {"exact": "yes"}],
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_out_of_range_are_refused(run: Run, done: Run, many: Path, tmp_path: Path, name: str) -> None:
    done("invert", many, "-o", tmp_path / "s.latents", *LINE)
    file = tmp_path / "s.latents" / "store.json"
    settings = json.loads(file.read_text())
    for value in WRONG[name]:
        file.write_text(json.dumps({**settings, name: value}))
        outcome = run("invert", many, "-o", tmp_path / "s.latents", "--steps", "3")
        assert outcome.status == 1, value
        (error,) = outcome.errors
        assert error.startswith(f"error: {file}: {name}")
        assert "must be" in error


def test_second_process_on_a_shard_is_refused(run: Run, done: Run, many: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.latents"
    lock = FolderLock(store / "parts" / "shard-00001")
    done("invert", many, "-o", store, *LINE)
    (store / "shard-00001.safetensors").unlink()
    assert lock.acquire()
    outcome = run("invert", many, "-o", store, *LINE)
    assert outcome.status == 1
    assert "s.latents: another process is filling shard 1. Wait until it has ended" in outcome.err
    assert "being filled by another process" in run("invert", many, "-o", store, "--overwrite", *LINE).err
    lock.release()
    done("invert", many, "-o", store, *LINE)
    assert len(LatentStore(store)) == 6


@pytest.mark.slow
def test_processes_on_one_share_end_without_traceback(many: Path, model: Path, tmp_path: Path) -> None:
    line = ["invert", str(many), "-o", str(tmp_path / "s.latents"), *LINE, "--model", str(model), "--dtype", "fp32"]
    program = [sys.executable, "-m", "ddim_edit", *line]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    said = [process.communicate()[1] for process in running]
    assert not any("Traceback" in each for each in said), said
    assert 0 in [process.returncode for process in running]
    assert all(process.returncode in (0, 1) for process in running)
    assert len(LatentStore(tmp_path / "s.latents")) == 6
