"""The components of a diffusers folder: where they are, their configs and their weights; safetensors and JSON only."""

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.io.schema import parse_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
LARGEST = 1 << 26
"""Bytes of the largest config that is read."""
HALF = "fp16"
"""What the variant of a checkpoint in float16 has in the names of its files."""


def component(folder: Path, name: str) -> Path:
    """A component's folder; old checkpoints such as google/ddpm-* keep everything in one."""
    return folder / name if (folder / name).is_dir() else folder


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: it cannot be read as one.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(f"a config of up to {LARGEST:,} bytes", f"{path}, which is larger", "fetch it again")
        config = parse_json(path.read_bytes())
    except OSError as error:
        remedy = "name a diffusers folder, or fetch the checkpoint again"
        raise ModelError(f"a file {path}", "none that can be read", remedy) from error
    except ValueError as error:
        raise ModelError(f"JSON in {path}", "something else", "fetch the checkpoint again") from error
    if not isinstance(config, dict):
        raise ModelError(f"a JSON object in {path}", f"a {type(config).__name__}", "fetch the checkpoint again")
    return config


def weights_in(folder: Path) -> Path:
    """The weights file of a component of ours: in full precision, or in float16 where there is no other."""
    half = folder / WEIGHTS.replace(".", f".{HALF}.", 1)
    return half if half.is_file() and not (folder / WEIGHTS).is_file() else folder / WEIGHTS


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a component, the attentions of old checkpoints under their names of today; no pickles, no shards.

    Raises:
        ModelError: a file that is missing, broken, sharded or a pickle.
    """
    if not path.is_file():
        raise ModelError(f"a file {path}", *what_stands_for(path))
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"tensors in {path}", f"a broken file ({error})", "fetch it again") from error
    return {_modern(name): tensor for name, tensor in weights.items()}


def what_stands_for(path: Path) -> tuple[str, str]:
    """What was given in place of the weights, and what to do."""
    resave = "with save_pretrained(folder, safe_serialization=True)"
    if path.with_name(path.name + ".index.json").exists():
        return (
            "a sharded checkpoint",
            f"load it in diffusers and save it as one file {resave}, max_shard_size='100GB'",
        )
    if pickles := sorted(file.name for file in path.parent.glob("*.bin")):
        return (
            f"only the pickle {pickles[0]}, which can run code",
            f"load it where you trust it and save it {resave}",
        )
    return "none", "fetch the checkpoint again"


def _modern(name: str) -> str:
    """Today's name of a parameter; checkpoints such as google/ddpm-cifar10-32 use an older one."""
    today = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    old = re.fullmatch(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", name)
    return old[1] + today[old[2]] + old[3] if old else name
