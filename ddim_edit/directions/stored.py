"""The latents of a store as codes to fit directions to."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ddim_edit.directions.rows import Picked
from ddim_edit.errors import ArgumentError, LatentError
from ddim_edit.latents.cache import LatentArray
from ddim_edit.latents.provenance import LatentArrayOrigin, Recipe
from ddim_edit.latents.store.files import StoreFiles, read_settings
from ddim_edit.latents.store.store import LatentStore


def stored_codes(store: LatentStore, labels: Mapping[str, float]) -> tuple[LatentArray, NDArray[np.float64]]:
    """The x of a store's labelled pictures, left on disk, and their labels [n]; cannot read the bottleneck.

    They live at the last time of the store's walk: x_T, unless it was inverted up to a level.

    Args:
        store: of latents that were inverted alike.
        labels: by the names that the store has for its pictures; names that it lacks are passed over.

    Raises:
        ArgumentError: a store with none of these pictures, or of latents of two states.
        LatentError: a store without latents.
    """
    names = list(store.names)
    indices = np.array([index for index, name in enumerate(names) if name in labels], dtype=np.intp)
    if not len(indices):
        given = (
            f"ones such as {next(iter(labels), 'none')!r}, where the store has {names[0]!r}" if names else "no latent"
        )
        raise ArgumentError("labels for pictures of the store", given, "name the files as the store does")
    if store[0].delta is not None:
        raise ArgumentError("latents of one state", f"ones of {store.recipe.solver}", "invert with another solver")
    values = Picked(store.x_rows, indices, tuple(store.shape))
    codes = LatentArray(cast(torch.Tensor, values), _recipe(store))
    return codes, np.array([labels[names[index]] for index in indices], dtype=np.float64)


def _recipe(store: LatentStore) -> Recipe:
    """As the recipe of `Editor.latents_at` at this level, so that images are inverted there alike."""
    settings = read_settings(StoreFiles(store.path).settings)
    if settings is None:
        raise LatentError("a store with its settings", f"{store.path}, which has none", "make the store anew")
    method: Mapping[str, Any] = settings["method"]
    recipe = store.recipe
    origin = LatentArrayOrigin(method["dequantise"], method["refine"], f"{recipe.times[-1]:g}")
    return replace(recipe, origin=origin)
