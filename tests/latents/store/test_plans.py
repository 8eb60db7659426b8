import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit import ArgumentError, LatentError, LatentMismatchError
from ddim_edit.latents.store.layout import Layout, is_store
from ddim_edit.latents.store.plan import Plan
from ddim_edit.latents.store.settings import agree, read_settings

from .samples import latent, save_store

NAMES = st.lists(st.text(min_size=1, max_size=3), max_size=20)
SETTINGS = {"batch_size": 4, "method": {"solver": "ddim", "steps": 20, "condition": {}}, "shard_size": 8}


@given(first=NAMES, then=NAMES, size=st.integers(1, 5))
def test_plans_grow_at_their_end_alone(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], then: list[str], size: int
) -> None:
    file = tmp_path_factory.mktemp("plans") / "pictures.jsonl"
    before = list(Plan(file).grow(first, size))
    after = list(Plan(file).grow(then, size))
    assert after[: len(before)] == before
    flat = [name for names in after for name in names]
    assert flat == list(dict.fromkeys(first + then))
    assert all(0 < len(names) <= size for names in after)
    assert [Plan(file)[index] for index in range(len(after))] == after


def test_a_plan_of_the_same_names_is_not_written_again(tmp_path: Path) -> None:
    file = tmp_path / "pictures.jsonl"
    Plan(file).grow(["a", "b", "c"], 2)
    before = file.stat()
    assert list(Plan(file).grow(["c", "a"], 2)) == [["a", "b"], ["c"]]
    assert file.stat().st_ino == before.st_ino


def test_a_shard_of_a_plan_is_read_alone(tmp_path: Path) -> None:
    file = tmp_path / "pictures.jsonl"
    plan = Plan(file).grow("abcdef", 2)
    file.write_bytes(b"x" * plan._starts[1] + file.read_bytes()[plan._starts[1] :])
    assert plan[-1] == ["e", "f"]
    assert plan[1:] == [["c", "d"], ["e", "f"]]
    with pytest.raises(LatentError, match="wanted the list of a store's pictures"):
        plan[0]


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    assert Plan(tmp_path / "p").grow([name], 2)[0] == [name]


def test_settings_are_written_once_and_held_against_later_ones(tmp_path: Path) -> None:
    file = Layout(save_store(tmp_path / "a.latents", [{"a": latent(0)}])).settings
    file.unlink()
    agree(file, SETTINGS)
    before = file.read_bytes()
    agree(file, json.loads(json.dumps(SETTINGS)))
    with pytest.raises(
        LatentMismatchError, match=r"^wanted method.steps 20, by which a.latents was begun, was given 5: "
    ):
        agree(file, {**SETTINGS, "method": {**SETTINGS["method"], "steps": 5}})  # type: ignore[dict-item]
    with pytest.raises(LatentMismatchError, match=r"wanted method.condition.prompt null, .* was given \"hat\""):
        agree(file, {**SETTINGS, "method": {**SETTINGS["method"], "condition": {"prompt": "hat"}}})  # type: ignore[dict-item]
    assert file.read_bytes() == before


def test_settings_by_which_nothing_was_computed_give_way(tmp_path: Path) -> None:
    file = Layout(tmp_path / "a.latents").settings
    agree(file, SETTINGS)
    agree(file, {**SETTINGS, "shard_size": 9})
    assert (read_settings(file) or {})["shard_size"] == 9


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"batch_size": 2}', "\xff"])
def test_other_settings_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(LatentError, match=r"wanted (the settings of a store|a store of format 1), was given"):
        agree(tmp_path / "store.json", SETTINGS)


def test_only_a_store_or_a_free_name_is_usable(tmp_path: Path) -> None:
    Layout(tmp_path / "absent").require_usable()
    Layout(save_store(tmp_path / "a.latents", [])).require_usable()
    (tmp_path / "begun.latents").mkdir()
    (tmp_path / "begun.latents" / ".ddim-edit-0123.json").touch()
    Layout(tmp_path / "begun.latents").require_usable()
    (tmp_path / "begun.latents" / "notes.txt").touch()
    for path in (tmp_path / "begun.latents", tmp_path / "begun.latents" / "notes.txt"):
        with pytest.raises(ArgumentError, match="wanted a store of latents or a free name"):
            Layout(path).require_usable()
        with pytest.raises(ArgumentError):
            Layout(path).clear()
    assert (tmp_path / "begun.latents" / "notes.txt").exists()


def test_clearing_removes_what_the_store_wrote_and_nothing_else(tmp_path: Path) -> None:
    folder = save_store(tmp_path / "a.latents", [{"a": latent(0)}])
    agree(Layout(folder).model, {"name": "faces"})
    Layout(folder).parts(1).mkdir(parents=True)
    (folder / ".ddim-edit-0123.jsonl").touch()
    (folder / "notes.txt").touch()
    Layout(folder).clear()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert not is_store(folder)


def test_old_temporaries_are_swept_and_young_ones_are_another_process(tmp_path: Path) -> None:
    old, young = tmp_path / ".ddim-edit-0.json", tmp_path / ".ddim-edit-1.json"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    Layout(tmp_path).sweep(3600)
    assert list(tmp_path.iterdir()) == [young]
    Layout(tmp_path).sweep(0)
    assert not list(tmp_path.iterdir())
