"""Read a checkpoint that is one file, and the settings beside it. Nothing in a file is ever run."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.models.families.family import SINGLE_FILE_SUFFIXES
from ddim_edit.models.file_kinds import explain_file, explain_own
from ddim_edit.models.tensor_files import load_pickle, load_safetensors

if TYPE_CHECKING:
    from ddim_edit.models.checkpoint import StateDict

# ermongroup/ddim saves a list with these contents: https://github.com/ermongroup/ddim/blob/main/runners/diffusion.py
_ERMONGROUP_LIST = ("model", "optimizer", "epoch", "step", "ema")
# Prefixes of the two copies of a network that ema-pytorch saves.
_ONLINE, _AVERAGED = "online_model.", "ema_model."
# The word in keys of training scripts, as in "ema", "model_ema" or "ema_0.9999", but not in "schema".
_EMA = re.compile(r"(?<![a-z])ema(?![a-z])")
# DataParallel and torch.compile put these into the names of parameters.
_WRAPPERS = {"module", "_orig_mod"}


def read_state_dict(path: Path) -> "StateDict":
    """Return the tensors of the network in a checkpoint file, by name; averaged weights come before raw ones.

    Training scripts wrap state dicts in dictionaries, in ermongroup's list, in ema-pytorch's `ema_model.`; all that is
    taken off, as are `module.` and `_orig_mod.` in names. The state dict with the most tensors is the network. One
    under a key with the word "ema" takes its place if it lacks none of its weights and biases, and is completed with
    what else it lacks (buffers). Optimizers and counters are left out. Averages without names (`shadow_params`) are
    not found.

    Args:
        path: a .safetensors, .pt, .pth, .ckpt or .bin file, or a link to one.

    Raises:
        ModelError: no such file, one of another kind, broken, without named tensors, or a pickle that would run code.
    """
    if path.is_dir():
        raise ModelError(f"{path}: this is a folder. Name the checkpoint file in it.")
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file. Check the spelling.")
    suffix = path.suffix.lower()
    if suffix not in SINGLE_FILE_SUFFIXES and (kind := explain_file(path)) is not None:
        raise ModelError(f"{path}: {kind}")
    if suffix not in SINGLE_FILE_SUFFIXES:
        known = ", ".join(SINGLE_FILE_SUFFIXES)
        raise ModelError(f"{path}: checkpoint files end in {known}. Save the state_dict with save_file of safetensors.")
    if not path.stat().st_size:
        raise ModelError(f"{path}: the file is empty. Download it again.")
    if kind := explain_own(path):
        raise ModelError(f"{path}: {kind}")
    loaded = load_safetensors(path) if suffix == ".safetensors" else load_pickle(path)
    kind = type(loaded).__name__
    if isinstance(loaded, list | tuple):
        named = zip(_ERMONGROUP_LIST, loaded, strict=False)
        loaded = {name: part for name, part in named if isinstance(part, Mapping)}
    raw: StateDict = {}
    averaged: StateDict = {}
    for is_average, state in _find_state_dicts(loaded):
        if is_average:
            averaged = max(averaged, state, key=len)
        else:
            raw = max(raw, state, key=len)
    state = _complete(averaged, raw)
    if not state and isinstance(loaded, Mapping) and "layer_structure" in loaded:
        raise ModelError(
            f"{path}: it is a hypernetwork, which changes another model and is none itself, and cannot be added to one "
            "here. Use that model."
        )
    if not state:
        raise ModelError(f"{path}: there are no tensors by name in this {kind}. Save a network's state_dict().")
    return state


def read_settings(path: Path) -> dict[str, Any]:
    """Return the contents of NAME.json beside the checkpoint NAME.pt, unchecked; nothing where there is no such file.

    Raises:
        ModelError: it is not a JSON object.
    """
    beside = path.with_suffix(".json")
    return schema.read_json(beside, ModelError, "Correct it, or remove it.") if beside.is_file() else {}


def _find_state_dicts(loaded: object) -> Iterator[tuple[bool, "StateDict"]]:
    """Yield every state dict in there, and whether it is an average."""
    # Not recursive: a pickle may be nested deeply, or hold itself. Optimizers keep their tensors below numbers or in
    # lists, which are not followed.
    found: list[tuple[bool, object]] = [(False, loaded)]
    seen: set[int] = set()
    for is_average, part in found:
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        tensors: dict[str, Tensor] = {}
        for name, value in part.items():
            if isinstance(name, str):
                found.append((is_average or _EMA.search(name.lower()) is not None, value))
                if isinstance(value, Tensor):
                    tensors[".".join(each for each in name.split(".") if each not in _WRAPPERS)] = value.detach()
        # ema-pytorch puts two state dicts into one, and its counters beside them.
        for prefix, averaged in ((_ONLINE, False), (_AVERAGED, True)):
            names = [name for name in tensors if name.startswith(prefix)]
            yield averaged, {name.removeprefix(prefix): tensors.pop(name) for name in names}
        yield is_average, tensors


def _complete(averaged: "StateDict", raw: "StateDict") -> "StateDict":
    """Return the averaged copy with the buffers that only the raw one has; the raw one if weights are among these."""
    lacking = {name: tensor for name, tensor in raw.items() if name not in averaged}
    if not averaged or any(name.endswith((".weight", ".bias")) for name in lacking):
        return raw
    # Where nothing is in common they are two networks, and the average is one of its own.
    return {**lacking, **averaged} if len(lacking) < len(raw) else averaged
