from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ddim_edit import Latent, LatentError
from ddim_edit.latents.store.shard import Shard, join_shards, write_shard

from .samples import RECIPE, SHAPE, latent, same


@settings(max_examples=20)
@given(paired=st.booleans(), seeds=st.lists(st.integers(0, 2**30), max_size=5, unique=True))
def test_latents_come_back_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, paired: bool, seeds: list[int]) -> None:
    latents = {f"{seed}.png": latent(seed, paired) for seed in seeds}
    path = tmp_path_factory.mktemp("shards") / "one.safetensors"
    write_shard(path, latents, {}, SHAPE)
    shard = Shard(path)
    assert len(shard) == len(seeds)
    assert all(same(read, kept) for read, kept in zip(shard, latents.values(), strict=True))
    assert [shard.record(row)["name"] for row in range(len(shard))] == list(latents)


def test_a_shard_is_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    latents = {name: latent(seed, paired=True) for seed, name in enumerate("abc")}
    write_shard(tmp_path / "one.safetensors", latents, {}, SHAPE)
    tensors = load_file(tmp_path / "one.safetensors")
    assert set(tensors) == {"x", "delta", "records", "offsets", "checksums"}
    assert torch.equal(tensors["x"], torch.stack([each.x for each in latents.values()]))
    assert (tensors["records"].dtype, tensors["offsets"].dtype) == (torch.uint8, torch.int64)


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 4), min_size=1, max_size=5), paired=st.booleans())
def test_parts_join_to_the_bytes_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], paired: bool
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    latents = {f"{seed}.png": latent(seed, paired, converged=seed % 3 > 0) for seed in range(sum(cuts))}
    names, parts, failures = iter(latents), [], {}
    for number, size in enumerate(cuts):
        part = {name: latents[name] for name in islice(names, size)}
        failures[f"bad {number}"] = "no picture"
        parts.append(folder / f"{number}.safetensors")
        write_shard(parts[-1], part, {f"bad {number}": "no picture"}, SHAPE)
    join_shards(folder / "joined", parts)
    write_shard(folder / "whole", latents, failures, SHAPE)
    assert (folder / "joined").read_bytes() == (folder / "whole").read_bytes()
    assert Shard(folder / "joined").header.unconverged == sum(seed % 3 == 0 for seed in range(sum(cuts)))


def test_the_recipe_of_a_shard_is_what_its_latents_share(tmp_path: Path) -> None:
    write_shard(tmp_path / "one", {"a": latent(0), "b": latent(1)}, {}, SHAPE)
    shared = RECIPE.to_json()
    del shared["dequantise"], shared["origin"]
    assert Shard(tmp_path / "one").header.recipe == shared
    write_shard(tmp_path / "none", {}, {"a": "no picture"}, SHAPE)
    assert Shard(tmp_path / "none").header == (0, SHAPE, ("x",), 0, None, {"a": "no picture"}, 0)


def test_rows_are_float32_and_flat(tmp_path: Path) -> None:
    latents = {str(seed): latent(seed) for seed in range(5)}
    write_shard(tmp_path / "one", latents, {}, SHAPE)
    rows = Shard(tmp_path / "one").rows(slice(1, 4))
    wanted = np.stack([latents[str(seed)].x.numpy().ravel() for seed in (1, 2, 3)]).astype(np.float32)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, wanted)


def test_a_latent_of_a_shard_may_be_changed_and_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    write_shard(tmp_path / "one", {"a": latent(0)}, {}, SHAPE)
    shard = Shard(tmp_path / "one")
    shard[0].x.zero_()
    assert same(shard[0], latent(0))
    assert shard[0].x.untyped_storage().nbytes() == 8 * latent(0).x.numel()


@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_a_file_that_is_cut_short_is_told_in_one_sentence_when_it_is_opened(tmp_path: Path, left: int) -> None:
    write_shard(tmp_path / "one", {"a": latent(0)}, {}, SHAPE)
    whole = (tmp_path / "one").read_bytes()
    (tmp_path / "one").write_bytes(whole[:left])
    with pytest.raises(LatentError, match=r"one: not a shard of a store: .*\. Delete it and"):
        Shard(tmp_path / "one")


def test_other_files_are_no_shards(tmp_path: Path) -> None:
    latent(0).save(tmp_path / "a.latent.safetensors")
    with pytest.raises(LatentError, match="not a shard of a store"):
        Shard(tmp_path / "a.latent.safetensors")
    with pytest.raises(LatentError, match="no such file"):
        Shard(tmp_path / "absent")


def test_a_disk_that_is_full_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "ascontiguousarray", fail)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path / "one", {"a": latent(0)}, {}, SHAPE)
    assert not list(tmp_path.iterdir())


def test_joining_opens_one_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [tmp_path / f"{seed}.safetensors" for seed in range(6)]
    for seed, part in enumerate(parts):
        write_shard(part, {str(seed): latent(seed)}, {}, SHAPE)
    alive, most = set[int](), [0]

    class Counted(Shard):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            alive.add(id(self))
            most.append(len(alive))

        def __del__(self) -> None:
            alive.discard(id(self))

    monkeypatch.setattr("ddim_edit.latents.store.shard.Shard", Counted)
    join_shards(tmp_path / "joined", parts)
    assert max(most) <= 2
    assert [row.report["nfe"] for row in Shard(tmp_path / "joined")] == [20 + seed for seed in range(6)]


def test_latents_are_read_as_their_own_files_are(tmp_path: Path) -> None:
    latent(3, paired=True).save(tmp_path / "a.latent.safetensors")
    write_shard(tmp_path / "one", {"a": latent(3, paired=True)}, {}, SHAPE)
    assert same(Shard(tmp_path / "one")[0], Latent.load(tmp_path / "a.latent.safetensors"))
