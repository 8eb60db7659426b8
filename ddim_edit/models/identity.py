"""What identifies a model: a digest of each of its components, made of their content alone.

The digest of a component has three parts: its tensors in float16, the same in bfloat16, and its configuration.
Components are equal if their configurations and at least one of the two others are. So a checkpoint equals its copies
in float16 and in bfloat16, whatever its folder, files, shards and container are. Two copies of which one was rounded to
float16 and one to bfloat16 are not recognised as equal: they have no rounding in common.

Nothing here imports torch before it has tensors, so that recipes can be shown without it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.io.prefetch import prefetch_map

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ddim_edit.models.checkpoint import Checkpoint

Components = Mapping[str, str]
"""The digest of each component of a model, by its name: network, autoencoder, text_encoder, process and so on."""

COMPONENTS = schema.map_of(schema.text)
"""The check for components in JSON."""

_LENGTH = 16
_CHUNK = 1 << 20
"""Numbers that are rounded at a time, few enough to stay in a processor's cache until they are hashed."""
_PROCESS = "noise schedule or parametrization"
# Words in the names of entries on training, on sizes that can be chosen, and on the program that wrote the config.
_NOT_COMPUTED = (
    *("dropout", "initializer", "use_cache", "output_attentions", "output_hidden", "dtype", "architectures"),
    *("transformers_version", "num_train_timesteps", "force_upcast", "return_dict", "gradient_checkpointing"),
)


def find_difference(mine: Components, theirs: Components) -> str | None:
    """Return how the components of two models differ, as in "another text encoder (other weights)", or None.

    Args:
        mine: of the model at hand.
        theirs: of the model that something was made with.
    """
    found = []
    for name in dict.fromkeys((*mine, *theirs)):
        words = _PROCESS if name == "process" else name.replace("_", " ")
        if name not in mine:
            found.append(f"one {words} more")
        elif name not in theirs:
            found.append(f"one {words} less")
        elif problem := _compare(mine[name], theirs[name]):
            found.append(f"another {words}{problem}")
    return " and ".join(found) or None


def _compare(mine: str, theirs: str) -> str:
    """Return which parts of two digests differ, as " (other weights)"; empty where they are equal."""
    *my_tensors, my_config = mine.split("-")
    *their_tensors, their_config = theirs.split("-")
    tensors_equal = len(my_tensors) == len(their_tensors) and (
        not my_tensors or any(a == b for a, b in zip(my_tensors, their_tensors, strict=True))
    )
    if tensors_equal and my_config == their_config:
        return ""
    if not my_tensors:
        return " (other settings)"
    problems = [] if tensors_equal else ["weights"]
    if my_config != their_config:
        problems.append("settings")
    return f" (other {' and '.join(problems)})"


def digest_config(config: object, tensors: str = "") -> str:
    """Return the digest of a component of this configuration, of JSON types, and the `digest_tensors` of its tensors.

    Examples:
        >>> digest_config({"heads": 8}) == digest_config({"heads": 8.0, "_name_or_path": "a/b"})
        True
    """
    text = json.dumps(_plain(config), sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_LENGTH]
    return f"{tensors}-{digest}" if tensors else digest


def _plain(value: object) -> Any:
    """Return a value as JSON types: without the entries that are defaults, paths or names, and 8.0 as 8."""
    # At once, as nearly all of a vocabulary's 100,000 values are these.
    if type(value) in (str, int):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        record = {}
        for each in fields(value):
            default = each.default if each.default_factory is MISSING else each.default_factory()
            if (mine := getattr(value, each.name)) != default:
                record[each.name] = _plain(mine)
        return {"class": type(value).__name__, **without_irrelevant(record)}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items() if not str(name).startswith("_")}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str | int | float | None) else getattr(value, "__qualname__", str(value))


def without_irrelevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a config that can change what is computed."""
    found = {}
    for name, value in config.items():
        if not name.startswith("_") and not any(word in name for word in _NOT_COMPUTED):
            found[name] = value
    return found


def config_beyond_defaults(kind: type[Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the config of a network of diffusers has beyond the defaults of its class.

    A newer version of the library, whose classes have more entries, then changes nothing. Entries that the class does
    not know never reach it.
    """
    found = {}
    for name, parameter in signature(kind).parameters.items():
        if name in config and parameter.kind is not Parameter.VAR_KEYWORD:
            default = _plain(parameter.default)
            if _plain(config[name]) != default:
                found[name] = config[name]
    return {"class": kind.__name__, **without_irrelevant(found)}


def network_component(network: nn.Module, tensors: str) -> str:
    """Return the digest of one of our own networks: its class, its settings and its tensors."""
    settings = {name: getattr(network, name) for name in ("config", "heads") if hasattr(network, name)}
    record = {name: _plain(each) for name, each in settings.items()}
    if "config" in record:
        record["config"].pop("sample_size", None)  # of the images it was trained on; it computes at any
    return digest_config({"class": type(network).__name__, **record}, tensors)


def process_component(checkpoint: Checkpoint) -> str:
    """Return the digest of the noise schedule and of how the network is called."""
    return digest_config({"schedule": dict(checkpoint.schedule.description), "network": checkpoint.parametrization})


def digest_tensors(tensors: Mapping[str, Tensor], source: str) -> str:
    """Return the digest of tensors by name, rounded to float16 and to bfloat16.

    Args:
        tensors: of any dtype, on any device; their order does not matter.
        source: what they are, for the error, as in "unet".

    Raises:
        ModelError: a tensor that is not finite; the message names it.
    """
    names = sorted(tensors)

    def digest(name: str) -> tuple[list[int], tuple[str, str]]:
        tensor = tensors[name]  # once, as mappings may compute it
        return list(tensor.shape), _digest_tensor(tensor, f"{source}: the tensor {name}")

    # In threads, as rounding and hashing release Python's lock.
    threads = min(8, os.cpu_count() or 1)
    rows = [result() for _, result in prefetch_map(digest, names, len(names), threads)]
    halves = []
    for half in range(2):
        lines = [f"{name} {shape} {row[half]}" for name, (shape, row) in zip(names, rows, strict=True)]
        halves.append(hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_LENGTH])
    return "-".join(halves)


def _digest_tensor(tensor: Tensor, source: str) -> tuple[str, str]:
    import torch

    kinds = (torch.float16, torch.bfloat16) if tensor.is_floating_point() else (torch.int64, torch.int64)
    digests = [hashlib.sha256(), hashlib.sha256()]
    # Of a tensor in channels_last this is a copy, in the order of its indices.
    flat = tensor.detach().reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK].cpu()
        # A sum is finite where all of its terms are, overflow aside, and takes a fraction of the time.
        if not part.sum().isfinite() and not part.isfinite().all():
            raise ModelError(f"{source} contains NaN or infinite values. Download the checkpoint again.")
        for digest, kind in zip(digests, kinds, strict=True):
            rounded = part.to(kind)
            # numpy has no bfloat16; its bytes are those of int16.
            digest.update(rounded.view(torch.int16 if tensor.is_floating_point() else kind).numpy().data)
    return digests[0].hexdigest(), digests[1].hexdigest()
