"""Stores that are unfinished or damaged: what is right comes out, what is not is named, and the exit status is 1."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ddim_edit import LatentError, LatentStore

from .. import tiny
from .conftest import Run, files_in

LINE = ("--steps", "3", "--batch-size", "2", "--shard-size", "2")


@pytest.fixture
def store(done: Run, tmp_path: Path) -> Path:
    for seed, name in enumerate("abcdef"):
        tiny.save_picture(tmp_path / "in" / f"{name}.png", seed)
    done("invert", tmp_path / "in", "-o", tmp_path / "s.latents", *LINE)
    return tmp_path / "s.latents"


def swap(store: Path) -> None:
    (store / "shard-00000.safetensors").rename(store / "x")
    (store / "shard-00001.safetensors").rename(store / "shard-00000.safetensors")
    (store / "x").rename(store / "shard-00001.safetensors")


def truncate(store: Path) -> None:
    content = (store / "shard-00001.safetensors").read_bytes()
    (store / "shard-00001.safetensors").write_bytes(content[:-100])


def forget(store: Path) -> None:
    lines = (store / "pictures.jsonl").read_text().splitlines()
    (store / "pictures.jsonl").write_text('["a.png"]\n' + "\n".join(lines[1:]) + "\n")


def cut_list(store: Path) -> None:
    lines = (store / "pictures.jsonl").read_text().splitlines()
    (store / "pictures.jsonl").write_text(lines[0] + "\n")


def add(store: Path) -> None:
    shutil.copy(store / "shard-00001.safetensors", store / "shard-00003.safetensors")


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "swapped": (swap, "ef", "shard-00000.safetensors: row 0 is of 'c.png', where the list of images has 'a.png'"),
    "missing": (lambda store: (store / "shard-00001.safetensors").unlink(), "abef", "shard 1 is not there"),
    "truncated": (truncate, "abef", "s.latents/shard-00001.safetensors: not a shard of a store"),
    "empty": (lambda store: (store / "shard-00001.safetensors").write_bytes(b""), "abef", "not a shard of a store"),
    "a list cut short": (cut_list, "ab", "shard-00001.safetensors: the list of images has no such shard"),
    "a shard too many": (add, "abcdef", "shard-00003.safetensors: the list of images has no such shard"),
    "forgotten": (forget, "cdef", "it has 2 latents, which do not fit the 1 images that the list has for it"),
}


@pytest.mark.parametrize(("damage", "good", "said"), DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("command", ["decode", "export"])
def test_intact_rows_are_decoded(
    run: Run,
    done: Run,
    store: Path,
    tmp_path: Path,
    damage: Callable[[Path], object],
    good: str,
    said: str,
    command: str,
) -> None:
    damage(store)
    options = ["--to", "npy"] if command == "export" else []
    suffix = "npy" if command == "export" else "png"
    outcome = run(command, store, "-o", tmp_path / "out", *options)
    assert outcome.status == 1
    assert said in outcome.err
    assert files_in(tmp_path / "out") == [f"{name}.{suffix}" for name in good]


def test_shard_of_another_store_is_refused(run: Run, done: Run, store: Path, tmp_path: Path) -> None:
    done("invert", tmp_path / "in", "-o", tmp_path / "t.latents", *LINE[2:], "--steps", "4")
    shutil.copy(tmp_path / "t.latents" / "shard-00001.safetensors", store)
    outcome = run("decode", store, "-o", tmp_path / "out")
    assert outcome.status == 1
    assert "its latents differ in times from those of the other shards" in outcome.err
    assert files_in(tmp_path / "out") == [f"{name}.png" for name in "abef"]
    with pytest.raises(LatentError, match="differ in times"):
        LatentStore(store)


def test_swapped_shards_are_refused_as_matrix(store: Path) -> None:
    swap(store)
    opened = LatentStore(store)
    with pytest.raises(LatentError, match="where the list of images has"):
        opened.x_rows[0:4]


def test_exported_store_equals_exported_files(done: Run, store: Path, tmp_path: Path) -> None:
    import numpy as np

    done("export", store, "--to", "npy", "-o", tmp_path / "out")
    assert files_in(tmp_path / "out") == [f"{name}.npy" for name in "abcdef"]
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "out" / "b.npy"))[0], LatentStore(store)[1].x)


@pytest.mark.parametrize("damage", [cut_list, add])
def test_a_store_with_unknown_shards_is_not_complete(
    done: Run, store: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    damage(store)
    assert not LatentStore(store, on_damage=lambda *_: None).complete
    with pytest.raises(LatentError, match="has no such shard"):
        LatentStore(store)
    if damage is cut_list:
        done("invert", tmp_path / "in", "-o", store, *LINE)
        assert list(LatentStore(store).names) == [f"{name}.png" for name in "abcdef"]
