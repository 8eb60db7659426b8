import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit import ArgumentError, LatentError, LatentStore
from ddim_edit.latents.store.shard import Shard
from ddim_edit.latents.store.store import SequenceView

from .samples import RECIPE, SHAPE, latent, same, save_store

LATENTS = [latent(seed) for seed in range(7)]
SHARDS = [
    {"a.png": LATENTS[0], "c.png": LATENTS[1], "d.png": LATENTS[2]},
    {},
    {"e.png": LATENTS[3]},
    {"sub/f.png": LATENTS[4], "sub/g.png": LATENTS[5], "z.png": LATENTS[6]},
]
FAILURES = {0: {"b.png": "no picture"}, 1: {"bad.png": "cut short"}}
NAMES = ["a.png", "c.png", "d.png", "e.png", "sub/f.png", "sub/g.png", "z.png"]


@pytest.fixture
def store(tmp_path: Path) -> LatentStore:
    return LatentStore(save_store(tmp_path / "some.latents", SHARDS, FAILURES))


def test_it_is_a_sequence_of_all_its_latents(store: LatentStore) -> None:
    assert len(store) == 7
    assert all(same(read, kept) for read, kept in zip(store, LATENTS, strict=True))
    assert all(same(store[row], LATENTS[row]) for row in range(-7, 7))
    for row in (7, -8):
        with pytest.raises(IndexError):
            store[row]


@given(start=st.none() | st.integers(-9, 9), stop=st.none() | st.integers(-9, 9), step=st.sampled_from([1, 2, -1, -3]))
def test_slices_are_views_like_those_of_a_list(start: int | None, stop: int | None, step: int) -> None:
    rows, letters = slice(start, stop, step), "abcdefg"
    view = SequenceView(letters, range(7)[rows])
    assert list(view) == list(letters[rows])
    assert list(view[1:]) == list(letters[rows][1:])


def test_a_slice_reads_nothing_until_it_is_asked(store: LatentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "__getitem__", lambda *_: pytest.fail("it was read"))
    assert len(store[2:][::-1]) == 5
    monkeypatch.undo()
    assert same(store[2:][::-1][0], LATENTS[6])


def test_names_are_those_of_the_rows(store: LatentStore) -> None:
    assert list(store.names) == NAMES
    assert [store.names[row] for row in range(-7, 7)] == NAMES * 2
    assert list(store.names[5:2:-1]) == NAMES[5:2:-1]
    assert len(store.names) == 7


def test_it_tells_what_all_share_and_what_failed(store: LatentStore) -> None:
    assert store.recipe == RECIPE
    assert store.shape == SHAPE
    assert store.shards == 4
    assert store.complete
    assert store.failures == FAILURES[0] | FAILURES[1]
    assert store.unconverged == 0


def test_a_store_that_is_still_being_made_shows_what_is_there(tmp_path: Path) -> None:
    folder = save_store(tmp_path / "some.latents", SHARDS, FAILURES)
    (folder / "shard-00002.safetensors").unlink()
    store = LatentStore(folder)
    assert not store.complete
    assert list(store.names) == [name for name in NAMES if name != "e.png"]
    assert same(store[3], LATENTS[4])


def test_opening_reads_headers_alone_and_keeps_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_store(tmp_path / "some.latents", [{f"{n}.png": latent(n)} for n in range(30)])
    for name in ("record", "array", "rows", "__getitem__", "_file"):
        monkeypatch.setattr(Shard, name, property(lambda _: pytest.fail("more than a header was read")))
    store = LatentStore(folder)
    assert (len(store), store.names[17], len(store.x_rows)) == (30, "17.png", 30)
    monkeypatch.undo()
    gc.collect()
    assert sum(type(each) is Shard for each in gc.get_objects()) == 0


def test_walking_through_it_keeps_one_shard_open(tmp_path: Path) -> None:
    store = LatentStore(save_store(tmp_path / "some.latents", [{f"{n}.png": latent(n)} for n in range(8)]))
    for row, _ in enumerate(store):
        gc.collect()
        assert sum(type(each) is Shard for each in gc.get_objects()) <= 2, row


@given(start=st.none() | st.integers(-9, 9), stop=st.none() | st.integers(-9, 9))
def test_rows_are_the_matrix_of_all_x(
    tmp_path_factory: pytest.TempPathFactory, start: int | None, stop: int | None
) -> None:
    folder = tmp_path_factory.getbasetemp() / "rows.latents"
    rows = LatentStore(folder if folder.exists() else save_store(folder, SHARDS, FAILURES)).x_rows
    whole = np.stack([each.x.numpy().ravel() for each in LATENTS]).astype(np.float32)
    assert rows.shape == whole.shape == (len(rows), 60)
    part = rows[start:stop]
    assert part.dtype == np.float32
    assert part.shape == whole[start:stop].shape
    assert np.array_equal(part, whole[start:stop])


def test_rows_come_in_runs(store: LatentStore) -> None:
    with pytest.raises(ArgumentError, match="in slices of step 1, not 2"):
        store.x_rows[::2]


def test_it_can_be_sent_to_another_process(store: LatentStore) -> None:
    assert same(store[0], LATENTS[0])
    again = pickle.loads(pickle.dumps(store))
    assert same(again[5], LATENTS[5])


def test_a_folder_that_is_no_store_says_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(LatentError, match="is not a store of latents"):
            LatentStore(path)


def test_a_broken_shard_is_found_when_the_store_is_opened(tmp_path: Path) -> None:
    folder = save_store(tmp_path / "some.latents", SHARDS, FAILURES)
    file = folder / "shard-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(LatentError, match=r"shard-00003\.safetensors: not a shard of a store"):
        LatentStore(folder)


def test_an_empty_store_has_no_recipe(tmp_path: Path) -> None:
    store = LatentStore(save_store(tmp_path / "some.latents", []))
    assert (len(store), list(store), list(store.names), store.complete) == (0, [], [], True)
    with pytest.raises(LatentError, match="has no latent yet"):
        _ = store.recipe
