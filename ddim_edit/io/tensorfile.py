"""Tensors and a JSON header in one safetensors file: written whole or not at all, read without running anything."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ddim_edit.io.atomic import atomic
from ddim_edit.io.schema import parsed


class TensorFile(NamedTuple):
    """What such a file holds; it does not know what any of it means."""

    tensors: Mapping[str, Tensor]
    header: Mapping[str, Any]

    def save(self, path: Path, key: str) -> None:
        """Write it, the header as sorted JSON under one key; equal content gives equal bytes.

        Errors: OSError and SafetensorError as they come; the caller knows what kind of file it was writing.
        """
        plain = {name: tensor.cpu().contiguous() for name, tensor in self.tensors.items()}
        with atomic(path) as temporary:
            # Not save_file, whose files only their owner may read.
            temporary.write_bytes(save(plain, {key: json.dumps(self.header, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path, key: str) -> "TensorFile":
        """Read it back, bit by bit.

        Errors: OSError, SafetensorError, KeyError, TypeError or ValueError for a file of another kind.
        """
        with safe_open(path, "pt") as file:
            header = parsed((file.metadata() or {})[key])
            return cls({name: file.get_tensor(name) for name in file.keys()}, dict(header))  # noqa: SIM118
