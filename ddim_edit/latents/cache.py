"""Codes of many pictures, read in several spaces during one walk, and a folder that keeps them."""

import hashlib
import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ddim_edit.errors import LatentError
from ddim_edit.io import schema
from ddim_edit.io.tensorfile import TensorFormat
from ddim_edit.latents.provenance import Recipe
from ddim_edit.latents.spaces import Space

Cache = MutableMapping[str, Tensor]
"""Where codes are kept by their key: a `LatentCache`, or any mapping."""
_SUFFIX = ".safetensors"
_CACHED_FILE = TensorFormat(
    kind="cached latent",
    key="ddim-edit code",
    error=LatentError,
    remedy="Delete it.",
    schema={"key": schema.text},
)


class LatentArray(NamedTuple):
    """The codes of pictures in one space, float32 [B, ...], the recipe of that inversion, and times of bottlenecks."""

    values: Tensor
    recipe: Recipe
    times: tuple[float, ...] = ()


def cache_key(recipe: Recipe, space: Space, origin: object) -> str:
    """A name for one picture's code in one space: walk / picture / space, each a digest of all that matters."""
    return "/".join(map(_digest, (recipe.to_json(), origin, space.name)))


def _digest(record: object) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:24]


class LatentCache(MutableMapping[str, Tensor]):
    """Codes on disk, one safetensors file each, written whole or not at all; several processes may share it.

    What cannot be read counts as absent and is written again.

    Args:
        folder: where; made when first written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def __getitem__(self, key: str) -> Tensor:
        try:
            return _CACHED_FILE.load(self._path(key)).tensors["code"]
        except LatentError as error:
            raise KeyError(key) from error

    def __setitem__(self, key: str, code: Tensor) -> None:
        _CACHED_FILE.save(self._path(key), {"code": code}, {"key": key})

    def __delitem__(self, key: str) -> None:
        self._path(key).unlink()

    def __iter__(self) -> Iterator[str]:
        files = self.folder.glob(f"*/*/*{_SUFFIX}")
        return (str(file.relative_to(self.folder).with_suffix("")) for file in sorted(files))

    def __len__(self) -> int:
        return sum(1 for _ in self)
