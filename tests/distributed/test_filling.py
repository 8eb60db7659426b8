"""Stores have the same bytes however they are filled: on one machine, by one number of threads (see `rounding`)."""

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ddim_edit import (
    ArgumentError,
    Condition,
    Editor,
    ImageError,
    InversionConfig,
    LatentError,
    LatentMismatchError,
    Latents,
    LatentStore,
)
from ddim_edit.distributed import list_images
from ddim_edit.distributed.filling import choose_sizes, fill_shards, local_engine, prepare_store
from ddim_edit.distributed.job import FillJob, FinishedShard
from ddim_edit.distributed.ranks import Rank
from ddim_edit.distributed.worker import Worker
from ddim_edit.images import Box, InputImage, read
from ddim_edit.latents.store.files import StoreFiles, read_settings

from .. import tiny
from ..rounding import assert_alike
from .conftest import Fill, bytes_of

NAMES = [f"{seed}.png" for seed in range(10)]


def test_store_equals_editor_latents(filled: Fill, job: FillJob, model: Path) -> None:
    assert filled() == [FinishedShard(0, 4, {}), FinishedShard(1, 4, {}), FinishedShard(2, 2, {})]
    store = LatentStore(job.store)
    wanted = Editor.from_pretrained(model, batch_size=2).invert([job.root / name for name in NAMES], job.config)
    assert list(store.names) == NAMES
    for read_, found in zip(store, wanted, strict=True):
        assert_alike(read_.x, found.x)
        assert (read_.t, read_.recipe, read_.delta) == (found.t, found.recipe, None)
        assert read_.report == pytest.approx(found.report, rel=1e-3, abs=1e-3)


def test_two_state_latents_are_stored_completely(filled: Fill, job: FillJob, model: Path) -> None:
    filled(config=InversionConfig(solver="bdia", steps=3))
    wanted = Editor.from_pretrained(model, batch_size=2).invert([job.root], InversionConfig(solver="bdia", steps=3))
    for read_, found in zip(LatentStore(job.store), wanted, strict=True):
        assert read_.delta is not None
        assert found.delta is not None
        assert_alike(read_.delta, found.delta)


def test_complete_store_is_unchanged_and_loads_no_model(
    filled: Fill, job: FillJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = filled()
    before = {path: path.stat().st_ino for path in job.store.rglob("*")}
    monkeypatch.setattr(Editor, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    assert filled() == first
    assert {path: path.stat().st_ino for path in job.store.rglob("*")} == before


def test_no_temporary_files_remain(filled: Fill, job: FillJob) -> None:
    filled()
    shards = [f"shard-0000{index}.safetensors" for index in range(3)]
    assert sorted(bytes_of(job.store)) == ["model.json", "pictures.jsonl", *shards, "store.json"]


def test_store_contains_no_path_or_time(filled: Fill, job: FillJob, tmp_path: Path) -> None:
    (job.root / "4.png").write_bytes(b"no picture")
    (job.root / "5.png").unlink()
    (job.root / "5.png").symlink_to(tmp_path / "nowhere")
    filled()
    moved = tmp_path / "else" / "where"
    shutil.copytree(job.root, moved, symlinks=True)
    filled(root=moved, store=tmp_path / "other.latents")
    assert bytes_of(tmp_path / "other.latents") == bytes_of(job.store)
    assert all(str(tmp_path).encode() not in content for content in bytes_of(job.store).values())


def test_bad_image_fails_alone(filled: Fill, job: FillJob, tmp_path: Path) -> None:
    filled(store=tmp_path / "good.latents")
    (job.root / "4.png").write_bytes((job.root / "4.png").read_bytes()[:90])
    first, second, third = filled()
    assert (first, third) == (FinishedShard(0, 4, {}), FinishedShard(2, 2, {}))
    assert (second.rows, list(second.failures)) == (3, ["4.png"])
    assert second.failures["4.png"].startswith("the file is truncated or damaged")
    good, bad = LatentStore(tmp_path / "good.latents"), LatentStore(job.store)
    assert list(bad.names) == [name for name in NAMES if name != "4.png"]
    for row, name in enumerate(bad.names):
        assert_alike(bad[row].x, good[int(name[0])].x)
    before = bytes_of(job.store)
    assert filled() == [first, second, third]
    assert bytes_of(job.store) == before


def test_batch_and_shard_of_bad_images_only(filled: Fill, job: FillJob) -> None:
    for name in NAMES[:4]:
        (job.root / name).write_bytes(b"no picture")
    assert [each.rows for each in filled()] == [0, 4, 2]
    assert list(LatentStore(job.store).names) == NAMES[4:]
    assert LatentStore(job.store).recipe.solver == "ddim"


def test_disk_error_ends_run_without_blaming_images(
    filled: Fill, job: FillJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    filled(store=tmp_path / "good.latents")

    def broken(path: Path, *rest: object) -> InputImage:
        if path.name == "5.png":
            raise ImageError(f"{path}: cannot read: I/O error.") from OSError(errno.EIO, "I/O error")
        return read(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("ddim_edit.images.prepare.read", broken)
    with pytest.raises(ImageError, match=r"5\.png"):
        filled()
    monkeypatch.undo()
    filled()
    assert bytes_of(job.store) == bytes_of(tmp_path / "good.latents")


def test_missing_folder_ends_run(filled: Fill, job: FillJob) -> None:
    mine = prepare_store(job, NAMES, 4)
    shutil.rmtree(job.root)
    with pytest.raises(ImageError):
        list(fill_shards(job, mine, local_engine))
    assert not LatentStore(job.store).failures


class Cut(BaseException):
    """The end of a process, as far as one that goes on can play it."""


@pytest.mark.parametrize("batches", range(6))
def test_interruption_loses_at_most_one_batch(
    filled: Fill, job: FillJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    filled(store=tmp_path / "whole.latents")
    inverted: list[int] = []
    invert = Editor.invert_batches

    def counted(editor: Editor, batches: Iterable[list[InputImage]], *rest: Any, **options: Any) -> Iterator[Latents]:
        for latents in invert(editor, batches, *rest, **options):
            inverted.extend([len(latents)] * bool(latents))
            yield latents

    done: list[int] = []

    def stop(pictures: int) -> None:
        done.append(pictures)
        if len(done) > batches:
            raise Cut

    monkeypatch.setattr(Editor, "invert_batches", counted)
    mine = prepare_store(job, NAMES, 4)
    runs: Callable[[FillJob, list[int]], object] = lambda job, indices: local_engine(job, indices, None, stop)  # noqa: E731
    if batches < 5:
        with pytest.raises(Cut):
            list(fill_shards(job, mine, runs))  # type: ignore[arg-type]
    filled()
    # One batch may be in the network while the one before it is written.
    assert 5 <= len(inverted) <= 6
    assert bytes_of(job.store) == bytes_of(tmp_path / "whole.latents")


def test_damaged_part_is_recomputed(filled: Fill, job: FillJob, tmp_path: Path) -> None:
    filled(store=tmp_path / "whole.latents")
    prepare_store(job, NAMES, 4)
    parts = StoreFiles(job.store).parts(1)
    parts.mkdir(parents=True)
    (parts / "batch-0000.safetensors").write_bytes(b"half")
    (parts / ".ddim-edit-0123.safetensors").touch()
    (parts / "whole.safetensors").write_bytes(b"half")
    (job.store / ".ddim-edit-4567.jsonl").touch()
    filled()
    assert bytes_of(job.store) == bytes_of(tmp_path / "whole.latents")


def test_leftover_parts_are_removed_on_rerun(filled: Fill, job: FillJob) -> None:
    filled()
    before = bytes_of(job.store)
    parts = StoreFiles(job.store).parts(1)
    parts.mkdir(parents=True)
    (parts / "batch-0000.safetensors").touch()
    filled()
    assert bytes_of(job.store) == before


def test_new_images_are_added_as_shards(filled: Fill, job: FillJob) -> None:
    filled()
    before = bytes_of(job.store)
    for seed in (10, 11, 12, 13, 14):
        tiny.save_picture(job.root / f"{seed}.png", seed)
    tiny.save_picture(job.root / "0a.png", 15)
    (job.root / "3.png").unlink()
    assert [each.rows for each in filled()] == [4, 4, 2, 4, 2]
    after = bytes_of(job.store)
    assert {name: after[name] for name in before if name != "pictures.jsonl"} == {
        name: content for name, content in before.items() if name != "pictures.jsonl"
    }
    assert list(LatentStore(job.store).names) == [*NAMES, "0a.png", *(f"{seed}.png" for seed in range(10, 15))]


def test_several_processes_write_same_bytes_as_one(filled: Fill, job: FillJob, tmp_path: Path) -> None:
    filled(store=tmp_path / "one.latents", shard_size=3)
    for index in (1, 0):
        mine = prepare_store(job, NAMES, 3, Rank(index, 2, index))
        assert mine == list(range(index, 4, 2))
        assert [each.index for each in fill_shards(job, mine, local_engine)] == mine
    assert bytes_of(job.store) == bytes_of(tmp_path / "one.latents")


def test_locked_shard_of_another_process_is_untouched(job: FillJob) -> None:
    prepare_store(job, NAMES, 3, Rank(0, 2, 0))
    theirs = [job.store / ".ddim-edit-0123.json", StoreFiles(job.store).parts(0) / ".ddim-edit-4567.safetensors"]
    theirs[1].parent.mkdir(parents=True)
    for path in theirs:
        path.touch()
    list(fill_shards(job, prepare_store(job, NAMES, 3, Rank(1, 2, 1)), local_engine))
    assert all(path.exists() for path in theirs)


OTHER = {
    "batch_size": {"batch_size": 3},
    "method.steps": {"config": InversionConfig(solver="ddim", steps=4)},
    "method.solver": {"config": InversionConfig(solver="heun", steps=3)},
    "method.condition.label": {"config": InversionConfig(solver="ddim", steps=3, condition=Condition(label=1))},
    "crop.kind": {"crop": Box(0, 0, 8)},
    "dtype": {"dtype": "bf16"},
    "size": {"size": (32, 32)},
}


@pytest.mark.parametrize("name", OTHER)
def test_first_differing_setting_is_named(filled: Fill, job: FillJob, name: str) -> None:
    filled()
    before = bytes_of(job.store)
    tiny.save_picture(job.root / "new.png", 20)
    with pytest.raises(LatentMismatchError, match=f"^out.latents was begun with {name} .*, not "):
        filled(**OTHER[name])
    with pytest.raises(LatentMismatchError, match=r"with shard_size 4, not 5\. .*--overwrite"):
        filled(shard_size=5)
    assert bytes_of(job.store) == before


def test_other_model_is_refused_before_use(filled: Fill, job: FillJob, tmp_path: Path) -> None:
    filled()
    before = bytes_of(job.store)
    other = tiny.save_model(tmp_path / "other", seed=1)
    with pytest.raises(LatentMismatchError, match=r"tiny, which has another network \(other weights\) than other"):
        filled(model=str(other))
    same_name = tiny.save_model(tmp_path / "again" / "tiny", seed=1)
    tiny.save_picture(job.root / "new.png", 20)
    with pytest.raises(LatentMismatchError, match=r"tiny, which has another network \(other weights\) than tiny"):
        filled(model=str(same_name))
    after = bytes_of(job.store)
    assert {name: after[name] for name in before if name != "pictures.jsonl"} == {
        name: content for name, content in before.items() if name != "pictures.jsonl"
    }
    assert [each.rows for each in filled()] == [4, 4, 2, 1]


def test_empty_store_accepts_other_settings(filled: Fill, job: FillJob) -> None:
    unfit = InversionConfig(solver="ddim", steps=3, condition=Condition(label=1))
    with pytest.raises(ArgumentError, match="unconditional"):
        filled(config=unfit)
    assert [each.rows for each in filled(shard_size=5)] == [5, 5]


def test_batch_and_shard_sizes_are_kept_by_default(filled: Fill, job: FillJob) -> None:
    threads = torch.get_num_threads()
    assert choose_sizes(job.store, "cpu") == (8, 512, threads)
    filled()
    assert choose_sizes(job.store, "cpu") == (2, 4, threads)
    assert choose_sizes(job.store, "cpu", 16) == (16, 4, threads)
    assert choose_sizes(job.store, "cpu", None, 64) == (2, 64, threads)


def test_resumed_store_keeps_thread_count(job: FillJob) -> None:
    """Their number decides the last bits, so a rerun elsewhere must not choose for itself."""
    threads = torch.get_num_threads()
    one = replace(job, threads=threads)
    list(fill_shards(one, prepare_store(one, NAMES, 4), local_engine))
    assert choose_sizes(job.store, "cpu").threads == threads
    with pytest.raises(LatentMismatchError, match=f"with threads {threads}, not {threads + 1}"):
        prepare_store(replace(job, threads=threads + 1), NAMES, 4)


def test_no_inputs_make_an_empty_store(job: FillJob) -> None:
    assert prepare_store(job, [], 4) == []
    assert list(fill_shards(job, [], local_engine)) == []
    assert len(LatentStore(job.store)) == 0
    assert (read_settings(job.store / "store.json") or {})["batch_size"] == 2


def test_damaged_shard_is_reported(filled: Fill, job: FillJob) -> None:
    filled()
    before = bytes_of(job.store)
    file = StoreFiles(job.store).shard(1)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(LatentError, match="Delete it and run the same command again"):
        filled()
    file.unlink()
    filled()
    assert bytes_of(job.store) == before


def test_progress_counts_good_and_bad_images(job: FillJob) -> None:
    (job.root / "1.png").write_bytes(b"no picture")
    seen: list[int] = []
    evaluated: list[int] = []
    mine = prepare_store(job, NAMES, 4)
    list(local_engine(job, mine, evaluated.append, seen.append))
    assert seen == [2] * 5
    assert sum(evaluated) >= 9 * 3


def test_worker_is_reused_for_several_shards(job: FillJob, tmp_path: Path, filled: Fill) -> None:
    filled(store=tmp_path / "one.latents")
    prepare_store(job, NAMES, 4)
    one = Worker(job)
    editor = one.editor
    assert [one.fill(index).rows for index in (2, 0, 1)] == [2, 4, 4]
    assert one.editor is editor
    shards = {name: content for name, content in bytes_of(job.store).items() if name.startswith("shard-")}
    assert shards.items() <= bytes_of(tmp_path / "one.latents").items()


def test_names_are_relative_to_common_folder(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "c.png"):
        tiny.save_picture(tmp_path / name)
    assert list_images([tmp_path / "a"]) == (tmp_path / "a", ["1.png", "2.png"])
    assert list_images([tmp_path / "a", tmp_path / "b"]) == (tmp_path, ["a/1.png", "a/2.png", "b/1.png"])
    assert list_images([tmp_path / "a" / "2.png", tmp_path / "a"]) == (tmp_path / "a", ["2.png", "1.png"])
    assert list_images([tmp_path / "a", tmp_path / "b" / ".." / "c.png"]).names == ["a/1.png", "a/2.png", "c.png"]
    assert list_images([]).names == []
    with pytest.raises(ImageError, match="no such file or folder"):
        list_images([tmp_path / "absent"])


def test_settings_contain_whole_config(job: FillJob) -> None:
    grid = job.config.make_grid(Editor.from_pretrained(job.model).model.schedule)
    by_name, by_times = job.settings["method"], replace(job, config=InversionConfig(grid=grid)).settings["method"]
    assert by_name.keys() == set(InversionConfig.__dataclass_fields__)
    assert by_times["grid"] == {"name": grid.name, "times": list(grid.times)}
