"""One checkpoint file, and the settings beside it, as plain data; nothing in a file is ever run."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.io.schema import parse_json
from ddim_edit.models.checkpoint import State
from ddim_edit.models.single_file.family import Settings

_PICKLES = (".pt", ".pth", ".ckpt", ".bin")
SUFFIXES = (".safetensors", *_PICKLES)

# What ermongroup/ddim keeps in a list, in this order.
_LIST = ("model", "optimizer", "epoch", "step", "ema")
# How ema-pytorch tells its two copies apart.
_LIVE, _AVERAGED = "online_model.", "ema_model."
_PACKED = 4
"""How many times as large as its file a checkpoint may be; torch packs nothing but TorchScript's code."""
_WRAPPERS = {"module", "_orig_mod"}  # put into names by DataParallel and torch.compile


def read_states(path: Path) -> State:
    """The network's tensors in a checkpoint file, averaged ones first; no pickle that needs code, no shards.

    Training scripts wrap state dicts in dictionaries, in ermongroup's list, in ema-pytorch's `ema_model.`; all that is
    taken off, as are `module.` and `_orig_mod.` in names. The state dict with the most tensors is the network; one
    under a key with the word "ema" takes its place if it lacks none of its weights and biases, and is completed with
    what else it lacks (buffers). Optimizers and counters are left out. Averages without names (`shadow_params`) are
    not seen.

    Args:
        path: a .safetensors, .pt, .pth, .ckpt or .bin file, or a link to one.

    Raises:
        ModelError: no such file, one of another kind, broken, without named tensors, or a pickle that would run code.
    """
    _check_file(path)
    content = (_load_pickle if path.suffix.lower() in _PICKLES else _load_safetensors)(path)
    state = _network(content)
    if not state:
        raise ModelError(
            f"tensors by name in {path}", f"a {type(content).__name__} without any", "save a network's state_dict()"
        )
    return state


def read_settings(path: Path, allowed: Collection[str]) -> Settings:
    """What stands in NAME.json beside the checkpoint NAME.pt; nothing where there is no such file. Values go unchecked.

    Args:
        path: the checkpoint.
        allowed: the names that its family knows.

    Raises:
        ModelError: not a JSON object, or an unknown name.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return {}
    try:
        settings = parse_json(beside.read_bytes())
    except (OSError, ValueError) as error:
        remedy = "correct it, or take it away"
        raise ModelError(f"settings as JSON in {beside}", "a file that cannot be read as such", remedy) from error
    if not isinstance(settings, dict):
        raise ModelError(f"a JSON object in {beside}", f"a {type(settings).__name__}", 'write {"name": value}')
    if unknown := sorted(settings.keys() - set(allowed)):
        names = ", ".join(sorted(allowed)) or "none"
        raise ModelError(f"settings out of {names} in {beside}", ", ".join(map(repr, unknown)), "take the others out")
    return settings


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ModelError("a checkpoint file", f"the folder {path}", "name the file in it")
    if not path.is_file():
        raise ModelError("a checkpoint file", f"{path}, which does not exist", "check the spelling")
    if path.suffix.lower() not in SUFFIXES:
        remedy = "save the state_dict with safetensors.torch.save_file"
        raise ModelError(f"a checkpoint file on {', '.join(SUFFIXES)}", str(path), remedy)
    if not path.stat().st_size:
        raise ModelError(f"tensors in {path}", "an empty file", "fetch it again")


def _load_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _broken(path) from error


def _load_pickle(path: Path) -> object:
    """What torch unpickles when it may build nothing but tensors and containers."""
    zipped = zipfile.is_zipfile(path)
    try:
        if zipped:
            _check_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells of unusual pickles, which it then refuses or reads
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except ModelError:
        raise
    except Exception as error:  # an unpickler that meets a broken file raises anything at all
        raise _refusal(path, error) from error


def _check_zip(path: Path) -> None:
    """Refuse what torch never writes: tensors that are packed, and so may be of any size once they are unpacked."""
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > max(_PACKED * path.stat().st_size, 1 << 20):
        given = f"one that would unpack to {size:,} bytes"
        raise ModelError(f"a checkpoint as torch writes it in {path}", given, "save it anew with torch.save")


def _refusal(path: Path, error: Exception) -> ModelError:
    wanted = f"tensors in {path} that are read without running code"
    convert = "load it where you trust it, with the code that wrote it, and save its state_dict with"
    remedy = f"{convert} safetensors.torch.save_file"
    if isinstance(error, pickle.UnpicklingError) and (loads := re.search(r"GLOBAL ([\w.]+)", str(error))):
        return ModelError(wanted, f"a pickle that calls for {loads[1][:80]}", remedy)
    if "TorchScript" in str(error):
        return ModelError(wanted, "a TorchScript program", remedy)
    return _broken(path)


def _broken(path: Path) -> ModelError:
    remedy = "fetch it again, or save the state_dict in it with safetensors.torch.save_file"
    return ModelError(f"tensors in {path}", "a broken file, or one of another kind", remedy)


def _network(content: object) -> State:
    """The network in what was loaded; empty where there is none."""
    if isinstance(content, list | tuple):
        content = {name: part for name, part in zip(_LIST, content, strict=False) if isinstance(part, Mapping)}
    largest: dict[bool, State] = {False: {}, True: {}}
    for average, state in _states(content):
        largest[average] = max(largest[average], state, key=len)
    return _complete(largest[True], largest[False])


def _states(content: object) -> Iterator[tuple[bool, State]]:
    """Every state dict in there, and whether it is an average; an optimizer keeps its own below numbers or lists."""
    found, seen = [(False, content)], set[int]()  # not recursive: a pickle may be deep, or hold itself
    for average, part in found:
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        named = {name: value for name, value in part.items() if isinstance(name, str)}
        yield from _copies(average, {name: value for name, value in named.items() if isinstance(value, Tensor)})
        found += [(average or _means_average(name), value) for name, value in named.items()]


def _copies(average: bool, tensors: State) -> Iterator[tuple[bool, State]]:
    """The state dicts in one: ema-pytorch puts two, and its counters beside them."""
    plain = {_bare(name): tensor.detach() for name, tensor in tensors.items()}
    for prefix, averaged in ((_LIVE, False), (_AVERAGED, True)):
        yield averaged, {name.removeprefix(prefix): plain.pop(name) for name in list(plain) if name.startswith(prefix)}
    yield average, plain


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _means_average(key: str) -> bool:
    return re.search(r"(?<![a-z])ema(?![a-z])", key.lower()) is not None


def _complete(averaged: State, raw: State) -> State:
    """The averaged copy with what only the raw one has, its buffers; the raw one if weights are among that."""
    lacking = {name: tensor for name, tensor in raw.items() if name not in averaged}
    if not averaged or any(name.endswith((".weight", ".bias")) for name in lacking):
        return raw
    return {**lacking, **averaged} if len(lacking) < len(raw) else averaged
