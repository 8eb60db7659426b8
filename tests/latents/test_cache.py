import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_edit import LatentCache, LatentError, Recipe
from ddim_edit.latents.cache import LatentArray, cache_key
from ddim_edit.latents.provenance import LatentArrayOrigin
from ddim_edit.latents.spaces import BottleneckSpace, StateSpace

RECIPE = Recipe(
    "m", {"process": "a" * 16}, {"kind": "linear"}, "epsilon", "float32", "dpm2m", "karras:14", (1.0, 400.0, 1000.0)
)
KEY, OTHER = "a/b/c", "a/b/d"


@settings(max_examples=20)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_latents_read_back_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, shape: list[int], seed: int) -> None:
    code = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    folder = LatentCache(tmp_path_factory.mktemp("codes"))
    folder[KEY] = code
    assert torch.equal(LatentCache(folder.folder)[KEY], code)
    assert folder[KEY].dtype == torch.float32


def test_cache_is_a_mutable_mapping(tmp_path: Path) -> None:
    folder = LatentCache(tmp_path / "made" / "when needed")
    assert (len(folder), list(folder), KEY in folder) == (0, [], False)
    assert not folder.folder.exists()
    folder.update({OTHER: torch.ones(2), KEY: torch.zeros(2)})
    assert (len(folder), list(folder), KEY in folder) == (2, [KEY, OTHER], True)
    folder[KEY] = torch.full((2,), 5.0)
    assert folder[KEY].tolist() == [5, 5]
    del folder[KEY]
    assert list(folder) == [OTHER]
    with pytest.raises(KeyError):
        folder[KEY]


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a letter"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "foreign": lambda path: __import__("safetensors.torch").torch.save_file({"code": torch.ones(2)}, path),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_count_as_absent(tmp_path: Path, name: str) -> None:
    folder = LatentCache(tmp_path)
    folder[KEY] = torch.ones(2)
    BROKEN[name](tmp_path / f"{KEY}.safetensors")
    assert KEY not in folder
    with pytest.raises(KeyError):
        folder[KEY]


def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    folder = LatentCache(tmp_path)
    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(LatentError, match="no space left"):
        folder[KEY] = torch.ones(2)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_every_setting_changes_the_key() -> None:
    origin, space = {"source": "s", "preprocessing": {"crop": "centre"}}, StateSpace(400.0)
    changes = {
        "components": {"process": "b" * 16},
        "schedule": {"kind": "cosine"},
        "prediction": "sample",
        "dtype": "bfloat16",
        "solver": "ddim",
        "grid": "quad",
        "times": (1.0, 500.0, 1000.0),
        "origin": LatentArrayOrigin(1),
    }
    assert cache_key(replace(RECIPE, model="renamed"), space, origin) == cache_key(RECIPE, space, origin)
    keys = [cache_key(replace(RECIPE, **{name: value}), space, origin) for name, value in changes.items()]
    keys += [
        cache_key(RECIPE, space, origin),
        cache_key(RECIPE, StateSpace(401.0), origin),
        cache_key(RECIPE, BottleneckSpace((400.0,), 1000.0), origin),
        cache_key(RECIPE, BottleneckSpace((1.0, 400.0), 1000.0), origin),
        cache_key(RECIPE, space, {**origin, "source": "t"}),
        cache_key(RECIPE, space, {**origin, "preprocessing": {"crop": [1, 2, 3]}}),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key(replace(RECIPE), StateSpace(400.0), dict(reversed(origin.items()))) == keys[len(changes)]


def test_a_key_is_a_short_relative_path() -> None:
    key = cache_key(RECIPE, StateSpace(1 / 3), {"source": "../" * 50})
    assert [len(part) for part in key.split("/")] == [24, 24, 24]
    assert set(key) <= set("0123456789abcdef/")


@pytest.mark.parametrize("rows", [torch.tensor([True, False, True]), torch.tensor([0, 2])], ids=["mask", "indices"])
def test_some_latents_are_taken_with_the_names_of_their_images(rows: torch.Tensor) -> None:
    array = LatentArray(torch.arange(3.0)[:, None], RECIPE, images=("a", "b", "c"))
    some = array.take(rows)
    assert some.values.tolist() == [[0], [2]]
    assert some.images == ("a", "c")
    assert array._replace(images=()).take(rows).images == ()
