"""Grids that were found for models, kept on disk so that `--grid auto` searches once.

A file is called by a hash of all that decides where steps should be: the model's content, the solver, the number of
steps, and the guidance. One that cannot be read counts as absent, with a warning.
"""

import hashlib
import json
import warnings
from pathlib import Path

from ddim_edit.config import InversionConfig
from ddim_edit.errors import ArgumentError, InputWarning
from ddim_edit.evaluation.grid_search import GridSearch
from ddim_edit.io.atomic import atomic
from ddim_edit.models.digest_cache import cache_folder
from ddim_edit.models.model import Model

_VERSION = 1


def grid_file(model: Model, config: InversionConfig) -> Path | None:
    """Return the file that keeps the grid of a model: ddim-edit/grids/HASH.json beside other caches.

    Args:
        model: known by the content of its components, whatever its name and dtype.
        config: whose solver, steps and guidance count.

    Returns:
        The path, whether there is such a file or not; None for a user without a home.
    """
    folder = cache_folder()
    decides = {
        "version": _VERSION,
        "components": dict(model.components),
        "shape": model.shape,
        "solver": config.solver_name,
        "steps": config.steps,
        "guidance_scale": config.condition.guidance_scale,
    }
    name = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
    return None if folder is None else folder.with_name("grids") / f"{name}.json"


def load_grid(model: Model, config: InversionConfig) -> GridSearch | None:
    """Return what was found for a model before, or None.

    Warns:
        InputWarning: there is a file that cannot be read, or that says something else.
    """
    file = grid_file(model, config)
    if file is None or not file.exists():
        return None
    try:
        return GridSearch.from_json(json.loads(file.read_bytes()))
    except (OSError, ValueError, RecursionError, ArgumentError):
        warnings.warn(f"{file}: is damaged, so the grid is searched again.", InputWarning, stacklevel=2)
        return None


def save_grid(found: GridSearch, model: Model, config: InversionConfig) -> Path | None:
    """Keep what was found for a model, and return the file; None where nothing can be written."""
    file = grid_file(model, config)
    if file is None:
        return None
    try:
        with atomic(file) as temporary:
            temporary.write_text(json.dumps({"model": model.name, **found.to_json()}, indent=1), encoding="utf-8")
    except OSError:
        return None
    return file
