"""Every form in which training scripts leave a network, and every file that is none."""

import argparse
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from ddim_edit.errors import ModelError
from ddim_edit.models.checkpoint_file import read_settings, read_state_dict

States = dict[str, Tensor]


def network(value: float) -> States:
    return {"conv.weight": torch.full((2, 3), value), "conv.bias": torch.full((2,), value), "freqs": torch.arange(4.0)}


RAW, AVERAGE = network(1.0), network(2.0)
BARE = {name: tensor for name, tensor in AVERAGE.items() if name != "freqs"}  # as helpers keep it: parameters only
COPIES = {"ema_model": AVERAGE, "online_model": RAW}


def adam() -> dict[str, Any]:
    """Adam's state, with more tensors in it than the network has."""
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(9)]
    stepping = torch.optim.Adam(weights, lr=torch.tensor(1e-3))
    for weight in weights:
        weight.grad = torch.ones(2)
    stepping.step()
    return stepping.state_dict()


OPTIMIZER = adam()


def prefixed(prefix: str, state: States) -> States:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def both_copies() -> States:
    """A state dict of ema-pytorch."""
    copies = {f"{copy}.{name}": tensor for copy, state in COPIES.items() for name, tensor in state.items()}
    return copies | {"initted": torch.tensor(True), "step": torch.tensor(7)}


def assert_same(state: Mapping[str, Tensor], wanted: States) -> None:
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items())
    assert not any(tensor.requires_grad for tensor in state.values())


WRAPPED: dict[str, tuple[object, States]] = {
    "the state dict itself": (RAW, RAW),
    "ordered": (OrderedDict(RAW), RAW),
    "parameters": ({name: nn.Parameter(tensor) for name, tensor in RAW.items()}, RAW),
    "DataParallel": (prefixed("module", RAW), RAW),
    "DataParallel of a compiled network": (prefixed("module._orig_mod", RAW), RAW),
    "compiled inside": ({"conv._orig_mod.weight": torch.ones(1)}, {"conv.weight": torch.ones(1)}),
    "an attribute of another kind": (RAW | {"_extra_state": "7", "version": 3}, RAW),
    "ermongroup": ([prefixed("module", RAW), OPTIMIZER, 3, 70, BARE], AVERAGE),
    "ermongroup, no average": ([prefixed("module", RAW), OPTIMIZER, 3, 70], RAW),
    "model and optimizer": ({"model": RAW, "optimizer": OPTIMIZER, "epoch": 3}, RAW),
    "lightning": ({"state_dict": RAW, "optimizer_states": [OPTIMIZER], "global_step": 3}, RAW),
    "ema beside model": ({"model": RAW, "ema": AVERAGE}, AVERAGE),
    "ema before model": ({"ema": AVERAGE, "model": RAW}, AVERAGE),
    "ema_model": ({"net": RAW, "ema_model": AVERAGE}, AVERAGE),
    "model_ema": ({"module": RAW, "model_ema": BARE}, AVERAGE),
    "params_ema": ({"params": RAW, "params_ema": AVERAGE}, AVERAGE),
    "a rate in the key": ({"model": RAW, "ema_0.9999": AVERAGE}, AVERAGE),
    "ema with its own counters": ({"model": RAW, "ema": {"decay": 0.999, "shadow": BARE}}, AVERAGE),
    "an average only": ({"ema": AVERAGE, "step": torch.tensor(9)}, AVERAGE),
    "an average that lacks weights": ({"model": RAW, "ema": {"conv.bias": AVERAGE["conv.bias"]}}, RAW),
    "an average of no names": ({"model": RAW, "ema": {"shadow_params": list(AVERAGE.values())}}, RAW),
    "no average, but a word like it": ({"model": RAW, "schema": BARE}, RAW),
    "an average of a network with other names": ({"model": RAW, "ema": prefixed("net", AVERAGE)}, RAW),
    "names of another taste": ({"w": torch.ones(1)}, {"w": torch.ones(1)}),
    "ema-pytorch": (both_copies(), AVERAGE),
    "denoising-diffusion-pytorch": (
        {"step": 7, "model": RAW, "opt": OPTIMIZER, "ema": both_copies(), "scaler": None, "version": "2.2.5"},
        AVERAGE,
    ),
    "ema-pytorch without the live copy": ({"model": RAW, "ema": prefixed("ema_model", AVERAGE)}, AVERAGE),
}  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(("content", "wanted"), WRAPPED.values(), ids=WRAPPED)
def test_a_wrapped_network_is_found(tmp_path: Path, content: object, wanted: States, legacy: bool) -> None:
    torch.save(content, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=not legacy)
    assert_same(read_state_dict(tmp_path / "ckpt.pt"), wanted)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".PT"])
def test_every_suffix_of_a_pickle_is_read(tmp_path: Path, suffix: str) -> None:
    torch.save(RAW, tmp_path / f"model{suffix}")
    assert_same(read_state_dict(tmp_path / f"model{suffix}"), RAW)


@pytest.mark.parametrize("content", [RAW, prefixed("module", RAW), both_copies()])
def test_safetensors_are_unwrapped_as_pickles_are(tmp_path: Path, content: States) -> None:
    save_file({name: tensor.clone() for name, tensor in content.items()}, tmp_path / "model.safetensors")
    torch.save(content, tmp_path / "model.pt")
    assert_same(read_state_dict(tmp_path / "model.safetensors"), dict(read_state_dict(tmp_path / "model.pt")))


def test_a_link_is_read_under_its_own_name(tmp_path: Path) -> None:
    torch.save(RAW, tmp_path / "0a1b2c")
    (tmp_path / "model.pt").symlink_to(tmp_path / "0a1b2c")
    assert_same(read_state_dict(tmp_path / "model.pt"), RAW)


NAMES = st.from_regex(r"[a-z]{1,5}\.[0-9]\.(weight|bias)", fullmatch=True).filter(
    lambda name: not name.startswith(("module.", "ema_model."))
)
KEYS = st.sampled_from(["model", "state_dict", "net", "generator", "params", "module"])


@st.composite
def states(draw: st.DrawFn) -> States:
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    return {name: torch.tensor(draw(st.lists(st.integers(-9, 9), max_size=3))) for name in names}


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(states(), st.lists(KEYS, max_size=3), st.booleans(), st.sampled_from([None, "ema", "ema_model", "net_ema"]))
def test_unwrapping_undoes_any_wrapping(
    tmp_path: Path, state: States, keys: list[str], parallel: bool, average: str | None
) -> None:
    """Of a network, its optimizer and its average, all under some keys, the average is what is left."""
    raw = {name: tensor + 1 for name, tensor in state.items()} if average else state
    content: dict[str, Any] = {"net": prefixed("module", raw) if parallel else raw, "opt": OPTIMIZER, "step": 4}
    if average:
        content[average] = state
    for key in keys:
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "model.pt")
    assert_same(read_state_dict(tmp_path / "model.pt"), state)


class Malicious:
    """What would make a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_malicious_pickles_are_refused(tmp_path: Path, legacy: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "model.pt"
    content = {"model": RAW, "args": Malicious(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError) as refusal:
        read_state_dict(path)
    for part in ("without running code", f"{os.system.__module__}.system", "save_file of safetensors"):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the file is as malicious as it looks


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"model": RAW, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({"model": RAW, "loss": np.float64(0.1)}, "multiarray.scalar"),
    ],
)
def test_what_a_pickle_wanted_to_load_is_named(tmp_path: Path, content: object, name: str) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(
        ModelError,
        match=rf"the pickle calls \S*{name}, so it cannot be read without running code. Load it where you trust it",
    ):
        read_state_dict(tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"it is a TorchScript program, .* Load it where you trust it"):
        read_state_dict(tmp_path / "model.pt")


def saved(path: Path, content: object, legacy: bool = False) -> bytes:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path.read_bytes()


def safetensors(path: Path) -> bytes:
    save_file(RAW, path)
    return path.read_bytes()


BROKEN: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "truncated zip": ("model.pt", lambda path: saved(path, RAW)[:-40]),
    "truncated legacy": ("model.ckpt", lambda path: saved(path, RAW, legacy=True)[:-5]),
    "text": ("model.pth", lambda path: b"<html>not found</html>"),
    "zip of something else": ("model.pt", lambda path: b"PK\x03\x04" + bytes(60)),
    "a plain pickle": ("model.bin", lambda path: pickle.dumps({"conv.weight": [1.0]})),
    "safetensors in disguise": ("model.pt", safetensors),
    "truncated safetensors": ("model.safetensors", lambda path: safetensors(path)[:-9]),
    "a pickle in disguise": ("model.safetensors", lambda path: saved(path, RAW)),
}


@pytest.mark.parametrize(("name", "content"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused(tmp_path: Path, name: str, content: Callable[[Path], bytes]) -> None:
    path = tmp_path / name
    path.write_bytes(content(path))
    with pytest.raises(ModelError, match=f"{name}: (the file is (broken, or of another kind|cut short)|it is an? )"):
        read_state_dict(path)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data(), st.booleans())
def test_a_file_with_any_byte_changed_is_read_or_refused(tmp_path: Path, data: st.DataObject, legacy: bool) -> None:
    content = bytearray(saved(tmp_path / "model.pt", {"model": RAW}, legacy))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "model.pt").write_bytes(content)
    with suppress(ModelError):
        assert all(isinstance(tensor, Tensor) for tensor in read_state_dict(tmp_path / "model.pt").values())


@pytest.mark.parametrize(
    ("content", "kind"),
    [(7, "int"), ([], "list"), ([torch.ones(2)], "list"), ({"a": 1}, "dict"), (torch.ones(2), "Tensor")],
)
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object, kind: str) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=f"there are no tensors by name in this {kind}"):
        read_state_dict(tmp_path / "model.pt")


def test_a_dictionary_that_holds_itself_is_read(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": RAW}
    content |= dict.fromkeys("abcdefgh", content)
    torch.save(content, tmp_path / "model.pt")
    assert_same(read_state_dict(tmp_path / "model.pt"), RAW)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelError, match=f"{name}: the file is empty. Download it again"):
        read_state_dict(tmp_path / name)


def test_a_folder_a_missing_file_and_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "model.pkl").write_bytes(b"1")
    for name, given_ in (
        ("folder.pt", "is a folder"),
        ("absent.pt", "there is no such file"),
        ("model.pkl", "checkpoint files end in"),
    ):
        with pytest.raises(ModelError, match=given_):
            read_state_dict(tmp_path / name)


def test_settings_stand_beside_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    assert read_settings(path) == {}
    (tmp_path / "model.json").write_text(json.dumps({"image_size": 64, "clip": None}))
    assert read_settings(path) == {"image_size": 64, "clip": None}


@pytest.mark.parametrize(("text", "complaint"), [("{", "it is not JSON"), ("[1]", "it must be a JSON object")])
def test_broken_settings_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ModelError, match=rf"model\.json: {complaint}"):
        read_settings(tmp_path / "model.pt")
