"""Files of tensors: safetensors, and pickles of which nothing is ever run."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.io import content
from ddim_edit.io.content import describe_file
from ddim_edit.models.file_kinds import explain_file

_MOST_INFLATED = 4
"""How many times as large as its file a checkpoint may be; torch compresses nothing but TorchScript's code."""
_RESAVE = (
    "Load it where you trust it, with the code that wrote it, and save its state_dict with save_file of safetensors."
)


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file, by name.

    Raises:
        ModelError: the file is broken, or of another kind.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise unreadable(path) from error


def load_pickle(path: Path) -> object:
    """Return what torch unpickles when it may build nothing but tensors and containers.

    Tensors in files of torch 1.6 and later are read from the disk when they are used.

    Raises:
        ModelError: the file is broken, of another kind, or would run code.
    """
    zipped = zipfile.is_zipfile(path)
    try:
        if zipped:
            # torch never compresses tensors; a file that does may inflate to any size.
            with zipfile.ZipFile(path) as archive:
                size = sum(part.file_size for part in archive.infolist())
            if size > max(_MOST_INFLATED * path.stat().st_size, 1 << 20):
                raise ModelError(f"{path}: the file would inflate to {size:,} bytes. Save it anew with torch.save.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of unusual pickles, which it then refuses or reads
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except ModelError:
        raise
    except Exception as error:  # an unpickler that meets a broken file raises anything at all
        if isinstance(error, pickle.UnpicklingError) and (called := re.search(r"GLOBAL ([\w.]+)", str(error))):
            problem = f"the pickle calls {called[1][:80]}, so it cannot be read without running code"
        elif "TorchScript" in str(error):
            problem = "it is a TorchScript program, which cannot be read without running code"
        else:
            raise unreadable(path) from error
        raise ModelError(f"{path}: {problem}. {_RESAVE}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors by name in a file of nothing else: safetensors or a pickle, with or without "state_dict".

    Raises:
        ModelError: the file is broken, of another kind, without tensors, or would run code.
    """
    if path.suffix.lower() == ".safetensors":
        return load_safetensors(path)
    loaded = load_pickle(path)
    while isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    found = {}
    for name, value in loaded.items() if isinstance(loaded, Mapping) else ():
        if isinstance(name, str) and isinstance(value, Tensor):
            found[name] = value.detach()
    if not found:
        raise ModelError(f"{path}: there are no tensors by name in this pickle. Download it again.")
    return found


def unreadable(path: Path) -> ModelError:
    """Return the error for a file of tensors that cannot be read, with what it is instead."""
    kind = explain_file(path)
    # A zip or a pickle that is named as torch's checkpoints are is one that is damaged inside.
    damaged = path.suffix.lower() != ".safetensors" and describe_file(path) in (content.ZIP, content.PICKLE)
    if kind is not None and not damaged:
        return ModelError(f"{path}: {kind}")
    return ModelError(
        f"{path}: the file is broken, or of another kind. Download it again, or save its state_dict with save_file of "
        "safetensors."
    )
