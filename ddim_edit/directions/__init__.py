"""Directions: attributes as unit vectors in a latent space, fitted, measured, kept in files, and moved along."""

from ddim_edit.directions.direction import SUFFIX, Direction, unit
from ddim_edit.directions.estimators import (
    LDADirection,
    LogisticDirection,
    MeanDifference,
    RidgeDirection,
    SVMDirection,
)
from ddim_edit.directions.fitting import METHODS, DirectionEstimator, concordance, fit_direction
from ddim_edit.directions.geometry import complement, cosines, rotate
from ddim_edit.directions.moving import BottleneckEdit, Edit, ShellEdit, make_edit, orthogonalize
from ddim_edit.directions.principal import PrincipalDirections
from ddim_edit.directions.shelf import directions_in, find_direction, packaged_directions

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
    "PrincipalDirections",
    "RidgeDirection",
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
    "rotate",
    "unit",
]
