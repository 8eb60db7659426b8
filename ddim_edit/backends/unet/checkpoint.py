"""From a diffusers `unet` folder to a network that runs; safetensors and JSON only."""

import json
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ddim_edit.backends.unet.config import UNetConfig
from ddim_edit.backends.unet.network import UNet
from ddim_edit.backends.weights import fill
from ddim_edit.errors import ModelError

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_unet(folder: Path) -> UNet:
    """The network in a diffusers `unet` folder, ready to run on the CPU; reads no pickles and no shards.

    It is float32 whatever the file holds, channels_last, in eval mode, and its weights ask for no gradients.
    The attention names of old checkpoints are understood.

    Errors: ModelError for a file that is missing, broken, sharded or a pickle, for a config that is not
    implemented, and for tensors that are missing, unknown or of another shape.
    """
    config = UNetConfig.from_dict(_read_config(folder / "config.json"))
    weights = _read_weights(folder / WEIGHTS)
    return fill(lambda: UNet(config), weights, str(folder / WEIGHTS))


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"a file {path}", "none that can be read", "name a diffusers unet folder") from error
    except ValueError as error:
        raise ModelError(f"JSON in {path}", "something else", "fetch the checkpoint again") from error
    if not isinstance(config, dict):
        raise ModelError(f"a JSON object in {path}", f"a {type(config).__name__}", "fetch the checkpoint again")
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"a file {path}", *_what_stands_for(path))
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"tensors in {path}", f"a broken file ({error})", "fetch it again") from error
    return {_modern(name): tensor for name, tensor in weights.items()}


def _what_stands_for(path: Path) -> tuple[str, str]:
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
