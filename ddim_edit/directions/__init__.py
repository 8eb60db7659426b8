"""Directions: attributes as unit vectors in a latent space, fitted, measured, kept in files, and moved along.

What fits loads scikit-learn, and so only on first use: to move along a direction needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ddim_edit.directions.direction import SUFFIX, Direction, unit
from ddim_edit.directions.geometry import complement, cosines, rotate
from ddim_edit.directions.moving import BottleneckEdit, Edit, ShellEdit, make_edit, orthogonalize
from ddim_edit.directions.shelf import directions_in, find_direction, packaged_directions

if TYPE_CHECKING:
    from ddim_edit.directions.estimators import (
        LDADirection,
        LogisticDirection,
        MeanDifference,
        RidgeDirection,
        SVMDirection,
    )
    from ddim_edit.directions.fitting import METHODS, DirectionEstimator, fit_direction, principal_directions
    from ddim_edit.directions.measuring import concordance
    from ddim_edit.directions.principal import PrincipalDirections
    from ddim_edit.directions.rows import Picked, Rows
    from ddim_edit.directions.stored import stored_codes

_LATE = {
    **dict.fromkeys(
        ("LDADirection", "LogisticDirection", "MeanDifference", "RidgeDirection", "SVMDirection"), "estimators"
    ),
    **dict.fromkeys(("METHODS", "DirectionEstimator", "fit_direction", "principal_directions"), "fitting"),
    "concordance": "measuring",
    "PrincipalDirections": "principal",
    **dict.fromkeys(("Picked", "Rows"), "rows"),
    "stored_codes": "stored",
}

__all__ = [
    "METHODS",
    "SUFFIX",
    "BottleneckEdit",
    "Direction",
    "DirectionEstimator",
    "Edit",
    "LDADirection",
    "LogisticDirection",
    "MeanDifference",
    "Picked",
    "PrincipalDirections",
    "RidgeDirection",
    "Rows",
    "SVMDirection",
    "ShellEdit",
    "complement",
    "concordance",
    "cosines",
    "directions_in",
    "find_direction",
    "fit_direction",
    "make_edit",
    "orthogonalize",
    "packaged_directions",
    "principal_directions",
    "rotate",
    "stored_codes",
    "unit",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
