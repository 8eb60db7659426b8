"""A checkpoint comes back bit by bit, and what is none is refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ddim_edit import DDIMEditError, ModelError
from ddim_edit.training import Checkpoint, LossRow

from .conftest import Train

FILE = "training/checkpoint.safetensors"
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.builds(LossRow, st.integers(0), st.none() | NUMBERS, NUMBERS, NUMBERS)), st.integers(0, 2**40))
def test_checkpoints_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[LossRow], step: int) -> None:
    file = tmp_path_factory.getbasetemp() / "checkpoint.safetensors"
    tensors = {"x": torch.tensor([1.0, float("inf"), -0.0])}
    record = {"lr": 2e-4, "origin": {"network": "tiny"}}
    Checkpoint(record, step, tuple(rows), {"scale": 65536.0}, tensors).save(file)
    found = Checkpoint.load(file)
    assert found._replace(tensors={}) == Checkpoint(record, step, tuple(rows), {"scale": 65536.0}, {})
    assert found.tensors["x"].numpy().tobytes() == tensors["x"].numpy().tobytes()


HEADER: dict[str, Any] = {"format": 1, "record": {}, "step": 1, "rows": [[0, None, 1.0, 0.0]], "scale": None}
BROKEN: list[dict[str, Any]] = [
    {"format": 2},
    {"record": 3},
    {"step": "many"},
    {"step": None},
    {"rows": [[1, 2]]},
    {"rows": 7},
    {"rows": None},
]


@pytest.mark.parametrize("change", BROKEN, ids=json.dumps)
def test_broken_headers_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "c", {"training": json.dumps(HEADER | change)})
    with pytest.raises(ModelError, match=r"^c: "):
        Checkpoint.load(tmp_path / "c")


@given(st.binary(max_size=200))
def test_other_files_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "noise.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match="not a checkpoint of a training"):
        Checkpoint.load(file)


@pytest.mark.parametrize("damage", ["cut", "pickle", "tensors", "shapes", "scale"])
def test_damaged_checkpoints_are_refused(trainer: Train, tmp_path: Path, damage: str) -> None:
    trainer(steps=2).run()
    file = tmp_path / "model" / FILE
    kept = Checkpoint.load(file)
    damages = {
        "cut": lambda: file.write_bytes(file.read_bytes()[:-100]),
        "pickle": lambda: torch.save({"x": torch.zeros(1)}, file),
        "tensors": lambda: kept._replace(tensors={"x": torch.zeros(1)}).save(file),
        "shapes": lambda: kept._replace(tensors={name: x.new_zeros(3) for name, x in kept.tensors.items()}).save(file),
        "scale": lambda: kept._replace(scale={"scale": 1}).save(file),
    }
    damages[damage]()
    with pytest.raises(DDIMEditError, match="Train anew with --overwrite"):
        trainer(steps=2)


def test_restored_state_equals_the_saved_one(trainer: Train) -> None:
    one = trainer(steps=3)
    one.run()
    before = {name: tensor.clone() for name, tensor in one._state.state_dict().items()}
    again = trainer(steps=3)
    after = again._state.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
        assert tensor.dtype == after[name].dtype
    own = dict(again._state.network.named_parameters())
    for weight in own.values():
        assert again._state._adam.state[weight]["exp_avg"].stride() == weight.stride()
