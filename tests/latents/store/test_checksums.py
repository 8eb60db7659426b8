"""A bit that is flipped anywhere in a shard is noticed where it is read, and costs the row that it is in."""

from pathlib import Path

import numpy as np
import pytest

from ddim_edit import LatentError, LatentStore
from ddim_edit.latents.store.shard import Shard

from .samples import latent, save_store

ROWS = 3


@pytest.fixture(params=[False, True], ids=["single", "paired"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    rows = {f"{seed}.png": latent(seed, request.param) for seed in range(ROWS)}
    return save_store(tmp_path / "s.latents", [rows]) / "shard-00000.safetensors"


def damaged_rows(file: Path) -> set[int]:
    shard = Shard(file)
    found = set()
    for row in range(len(shard)):
        try:
            shard[row]
        except LatentError as error:
            found.add(row if f"row {row}" in str(error) else -1)
    return found


def test_every_byte_is_under_a_checksum(file: Path) -> None:
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    positions = np.random.default_rng(0).choice(len(content), 400, replace=False)
    for position in map(int, positions):
        spoiled = bytearray(content)
        spoiled[position] ^= 1 << position % 8
        file.write_bytes(spoiled)
        try:
            assert damaged_rows(file), f"byte {position} of {len(content)}"
        except LatentError:
            assert position < start or b"checksum" in content[:start]  # the header, or its checksum
    file.write_bytes(content)
    assert damaged_rows(file) == set()


@pytest.mark.parametrize("name", ["x", "records"])
def test_a_damaged_row_costs_no_other(file: Path, name: str) -> None:
    shard = Shard(file)
    value = shard.array(name)[1] if name == "x" else shard._record_bytes(1)
    found = file.read_bytes().index(bytes(np.ascontiguousarray(value)) if name == "x" else value)
    content = bytearray(file.read_bytes())
    content[found + 40] ^= 1
    file.write_bytes(content)
    assert damaged_rows(file) == {1}
    store = LatentStore(file.parent)
    assert store[0].t == store[2].t == 1000.0
    assert len(store.x_rows[2:3]) == 1
    with pytest.raises(LatentError, match=r"row 1 (is damaged: its checksum is another one|is damaged)"):
        store.x_rows[0:3]


def test_rows_are_checked_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddim_edit.latents.store import shard

    counted: list[int] = []
    checksum = shard._checksum
    monkeypatch.setattr(shard, "_checksum", lambda *args: counted.append(1) or checksum(*args))
    rows = LatentStore(file.parent).x_rows
    for _ in range(3):
        rows[0:ROWS]
    assert len(counted) == ROWS
