import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit import ArgumentError, LatentError, LatentMismatchError
from ddim_edit.latents.store.files import ShardPlan, StoreFiles, ensure_settings, is_store, read_settings

from .samples import latent, save_store

NAMES = st.lists(st.text(min_size=1, max_size=3), max_size=20)
SETTINGS = {
    "batch_size": 4,
    "crop": {"kind": "centre square"},
    "method": {"solver": "ddim", "steps": 20, "condition": {}},
    "shard_size": 8,
}


@given(first=NAMES, then=NAMES, size=st.integers(1, 5))
def test_plans_grow_at_their_end_alone(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], then: list[str], size: int
) -> None:
    file = tmp_path_factory.mktemp("plans") / "pictures.jsonl"
    before = list(ShardPlan(file).extend(first, size))
    after = list(ShardPlan(file).extend(then, size))
    assert after[: len(before)] == before
    flat = [name for names in after for name in names]
    assert flat == list(dict.fromkeys(first + then))
    assert all(0 < len(names) <= size for names in after)
    assert [ShardPlan(file)[index] for index in range(len(after))] == after


def test_a_plan_of_the_same_names_is_not_written_again(tmp_path: Path) -> None:
    file = tmp_path / "pictures.jsonl"
    ShardPlan(file).extend(["a", "b", "c"], 2)
    before = file.stat()
    assert list(ShardPlan(file).extend(["c", "a"], 2)) == [["a", "b"], ["c"]]
    assert file.stat().st_ino == before.st_ino


def test_a_shard_of_a_plan_is_read_alone(tmp_path: Path) -> None:
    file = tmp_path / "pictures.jsonl"
    plan = ShardPlan(file).extend("abcdef", 2)
    file.write_bytes(b"x" * plan._line_starts[1] + file.read_bytes()[plan._line_starts[1] :])
    assert plan[-1] == ["e", "f"]
    assert plan[1:] == [["c", "d"], ["e", "f"]]
    with pytest.raises(LatentError, match="the list of images is damaged"):
        plan[0]


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    assert ShardPlan(tmp_path / "p").extend([name], 2)[0] == [name]


def test_settings_are_written_once_and_held_against_later_ones(tmp_path: Path) -> None:
    file = StoreFiles(save_store(tmp_path / "a.latents", [{"a": latent(0)}])).settings
    file.unlink()
    ensure_settings(file, SETTINGS)
    before = file.read_bytes()
    ensure_settings(file, json.loads(json.dumps(SETTINGS)))
    with pytest.raises(LatentMismatchError, match=r"^a.latents was begun with method.steps 20, not 5\. "):
        ensure_settings(file, {**SETTINGS, "method": {**SETTINGS["method"], "steps": 5}})  # type: ignore[dict-item]
    with pytest.raises(LatentMismatchError, match=r"with method.condition.prompt null, not \"hat\""):
        ensure_settings(file, {**SETTINGS, "method": {**SETTINGS["method"], "condition": {"prompt": "hat"}}})  # type: ignore[dict-item]
    assert file.read_bytes() == before


def test_settings_by_which_nothing_was_computed_give_way(tmp_path: Path) -> None:
    file = StoreFiles(tmp_path / "a.latents").settings
    ensure_settings(file, SETTINGS)
    ensure_settings(file, {**SETTINGS, "shard_size": 9})
    assert (read_settings(file) or {})["shard_size"] == 9


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 1}', '{"format": 2}', '{"format": 3}', '{"batch_size": 2}', "\xff"]
)
def test_other_settings_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(LatentError, match=r"^.*store\.json: .*([Mm]ake the store anew|the version that wrote it)\.$"):
        ensure_settings(tmp_path / "store.json", SETTINGS)


def test_only_a_store_or_a_free_name_is_usable(tmp_path: Path) -> None:
    StoreFiles(tmp_path / "absent").require_usable()
    StoreFiles(save_store(tmp_path / "a.latents", [])).require_usable()
    (tmp_path / "begun.latents").mkdir()
    (tmp_path / "begun.latents" / ".ddim-edit-0123.json").touch()
    StoreFiles(tmp_path / "begun.latents").require_usable()
    (tmp_path / "begun.latents" / "notes.txt").touch()
    for path in (tmp_path / "begun.latents", tmp_path / "begun.latents" / "notes.txt"):
        with pytest.raises(ArgumentError, match="exists and is not a store of latents"):
            StoreFiles(path).require_usable()
        with pytest.raises(ArgumentError):
            StoreFiles(path).remove()
    assert (tmp_path / "begun.latents" / "notes.txt").exists()


def test_clearing_removes_what_the_store_wrote_and_nothing_else(tmp_path: Path) -> None:
    folder = save_store(tmp_path / "a.latents", [{"a": latent(0)}])
    ensure_settings(StoreFiles(folder).model, {"name": "faces"})
    StoreFiles(folder).parts(1).mkdir(parents=True)
    (folder / ".ddim-edit-0123.jsonl").touch()
    (folder / "notes.txt").touch()
    StoreFiles(folder).remove()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert not is_store(folder)


def test_old_temporaries_are_swept_and_young_ones_are_another_process(tmp_path: Path) -> None:
    old, young = tmp_path / ".ddim-edit-0.json", tmp_path / ".ddim-edit-1.json"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    StoreFiles(tmp_path).remove_temporaries(3600)
    assert list(tmp_path.iterdir()) == [young]
    StoreFiles(tmp_path).remove_temporaries(0)
    assert not list(tmp_path.iterdir())
