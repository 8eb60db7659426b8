"""What texts become, kept on disk by content, so that a large text encoder need not run again, nor be read.

A file is called by a hash of the text and of all that decides what it becomes. As with `digest_cache`, nothing here is
ever fatal, and small text encoders leave nothing behind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.io.atomic import atomic
from ddim_edit.models.digest_cache import cache_folder, mark_used
from ddim_edit.models.tensor_files import load_safetensors

_VERSION = 1
_SMALLEST = 128 << 20
"""Bytes of the files of text encoders from which on what they return is kept; less runs in a fraction of a second."""
_MOST = 512 << 20
"""Bytes that are kept; what was not used for longest goes first."""


def is_worth_keeping(files: Sequence[Path]) -> bool:
    """Return whether text encoders with these weights are so large that what they return is kept on disk."""
    return sum(file.stat().st_size for file in files) >= _SMALLEST


@dataclass(frozen=True)
class CachedEncoding:
    """Encodes texts, and keeps what they become on disk.

    Args:
        encode: encodes one text.
        described: all that decides what a text becomes, besides itself, in words.
    """

    encode: Callable[[str], Mapping[str, Tensor]]
    described: tuple[str, ...]

    def __call__(self, text: str) -> Mapping[str, Tensor]:
        """Return what a text becomes, from the disk if it is there."""
        file = self._file(text)
        if file is None:
            return self.encode(text)
        with suppress(OSError, ModelError):
            found = {name: tensor.clone() for name, tensor in load_safetensors(file).items()}
            mark_used(file)
            return found
        made = self.encode(text)
        # Views of one tensor cannot be saved.
        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in made.items()
        }
        with suppress(OSError, SafetensorError):
            with atomic(file) as temporary:
                save_file(tensors, temporary)
            mark_used(file)
            _forget_oldest(file.parent)
        return made

    def _file(self, text: str) -> Path | None:
        folder = cache_folder()
        described = json.dumps([_VERSION, torch.__version__, *self.described, text])
        name = hashlib.sha256(described.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return None if folder is None else folder.with_name("embeddings") / f"{name}.safetensors"


def _forget_oldest(folder: Path) -> None:
    files = [(file.stat().st_mtime_ns, file.stat().st_size, file) for file in folder.glob("*.safetensors")]
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= _MOST:
            break
        file.unlink()
        total -= size
