"""Fit to the latents of a store, which stay on disk."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ddim_edit.directions.label_tables import normalize
from ddim_edit.directions.streaming import LatentRows
from ddim_edit.errors import ArgumentError, LatentError
from ddim_edit.latents.cache import LatentArray
from ddim_edit.latents.provenance import LatentArrayOrigin
from ddim_edit.latents.store.files import StoreFiles, read_settings
from ddim_edit.latents.store.store import LatentStore


@dataclass(frozen=True, eq=False)
class PickedRows:
    """Some of the rows of a store as latents of a shape; what lies between them is never read.

    Args:
        rows: all of them.
        indices: of those meant, increasing.
        latent_shape: the shape of one.
    """

    rows: LatentRows
    indices: NDArray[np.intp]
    latent_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *latent_shape)."""
        return (len(self.indices), *self.latent_shape)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, where: slice, /) -> NDArray[np.float32]:
        wanted = self.indices[where]
        # Runs of consecutive rows are read together.
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
        parts = [self.rows[int(run[0]) : int(run[-1]) + 1] for run in runs if len(run)]
        together = np.concatenate(parts) if parts else np.empty(0, np.float32)
        return together.reshape(len(wanted), *self.latent_shape)


def stored_latents(store: LatentStore, labels: Mapping[str, float]) -> tuple[LatentArray, NDArray[np.float64]]:
    """Return the latents of a store's labelled images, left on disk, and their labels [n].

    They stand at the last time of the store's inversion: x_T, unless it was inverted up to another level. A store has
    no bottlenecks.

    Args:
        store: of latents that were inverted alike.
        labels: by the names that the store has for its images, in any form of Unicode; others are ignored.

    Raises:
        ArgumentError: a store with none of these images, or of latents of two states.
        LatentError: a store without latents or settings.
    """
    names = list(map(normalize, store.names))
    labels = {normalize(name): label for name, label in labels.items()}
    indices = np.array([index for index, name in enumerate(names) if name in labels], dtype=np.intp)
    if not len(indices):
        known = f"calls its first image {names[0]!r}" if names else "has no latent"
        raise ArgumentError(
            f"None of the labels, such as that of {next(iter(labels), None)!r}, is of an image of the store, which "
            f"{known}. Name the files as the store does."
        )
    if store.paired:
        raise ArgumentError(
            f"The store holds two-state latents of {store.recipe.solver}, to which no direction can be fitted. "
            "Invert with another solver."
        )
    settings = read_settings(StoreFiles(store.path).settings)
    if settings is None:
        raise LatentError(f"{store.path}: the store has no settings. Make it again.")
    config: Mapping[str, Any] = settings["method"]
    # As the recipe of `Editor.latents_at` at this level, so that images are inverted there alike.
    origin = LatentArrayOrigin(config["dequantise"], config["refine"], f"{store.recipe.times[-1]:g}")
    values = cast(torch.Tensor, PickedRows(store.x_rows, indices, tuple(store.shape)))
    sources = []
    for index in map(int, indices):
        location = store.locate(index)
        record = store.shard(location.shard).record(location.row)
        origin_of_row = record["origin"]
        # Stores of older versions know the file alone, by which copies in other formats are not found.
        sources.append(str(origin_of_row.get("pixels") or origin_of_row.get("source", f"row {index}")))
    latents = LatentArray(values, replace(store.recipe, origin=origin), images=tuple(sources))
    return latents, np.array([labels[names[index]] for index in indices], dtype=np.float64)
