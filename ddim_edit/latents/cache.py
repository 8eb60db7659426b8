"""Latents of many images at one level, and a folder that keeps them between runs."""

import hashlib
import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_edit.errors import LatentError
from ddim_edit.io import schema
from ddim_edit.io.tensorfile import TensorFormat
from ddim_edit.latents.provenance import Recipe
from ddim_edit.latents.spaces import Space

Cache = MutableMapping[str, Tensor]
"""Where latents are kept by their key: a `LatentCache`, or any mapping."""
_SUFFIX = ".safetensors"
_CACHED_FILE = TensorFormat(
    kind="cached latent",
    key="ddim-edit code",
    error=LatentError,
    remedy="Delete it.",
    schema={"key": schema.text},
)


class LatentArray(NamedTuple):
    """Values at one level for many images, to fit and probe on; not to be decoded one by one.

    Attributes:
        values: float32 [B, ...]: states [B, C, H, W], or bottlenecks [B, K, C, h, w] at K times.
        recipe: of the inversion, up to that level.
        times: of the bottlenecks; empty for states.
        images: a digest of the pixels of each image, by which copies are known; empty where unknown.
    """

    values: Tensor
    recipe: Recipe
    times: tuple[float, ...] = ()
    images: tuple[str, ...] = ()

    def take(self, rows: Tensor) -> "LatentArray":
        """Return the latents of some of the images.

        Args:
            rows: a mask [B], or indices [b].
        """
        indices = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        images = tuple(self.images[index] for index in indices.tolist()) if self.images else ()
        return self._replace(values=self.values[indices], images=images)


def cache_key(recipe: Recipe, space: Space, origin: object) -> str:
    """Return the name of one image's latent in one space: inversion / image / space, each a digest.

    Args:
        recipe: of the inversion; whatever changes a latent is in it. The name of the model is left out.
        space: where it is read.
        origin: digest and preprocessing of the image, as JSON types.
    """
    inversion = {**recipe.to_json(), "model": None}
    return "/".join(_digest(part) for part in (inversion, origin, space.name))


def _digest(record: object) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:24]


class LatentCache(MutableMapping[str, Tensor]):
    """Latents on disk by key, one safetensors file each; several processes may share it.

    Files are written whole or not at all. One that cannot be read counts as absent, and is written again.

    Args:
        folder: the folder, made when it is first written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __getitem__(self, key: str) -> Tensor:
        try:
            return _CACHED_FILE.load(self._path(key)).tensors["code"]
        except LatentError as error:
            # Damaged, of an older format or absent: in each case the latent is made again.
            raise KeyError(key) from error

    def __setitem__(self, key: str, value: Tensor) -> None:
        _CACHED_FILE.save(self._path(key), {"code": value}, {"key": key})

    def __delitem__(self, key: str) -> None:
        self._path(key).unlink()

    def __iter__(self) -> Iterator[str]:
        files = sorted(self.folder.glob(f"*/*/*{_SUFFIX}"))
        return (str(file.relative_to(self.folder).with_suffix("")) for file in files)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"
