from . import labels
from .direction import SUFFIX, Direction, unit
from .estimators import LDADirection, LogisticDirection, MeanDifference, RidgeDirection, SVMDirection
from .fitting import METHODS, DirectionEstimator, fit_direction, principal_directions
from .geometry import complement, cosines, rotate
from .measuring import concordance
from .moving import BottleneckEdit, Edit, ShellEdit, make_edit, orthogonalize
from .principal import PrincipalDirections
from .rows import Picked, Rows
from .shelf import directions_in, find_direction, packaged_directions
from .stored import stored_codes

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
    "labels",
    "make_edit",
    "orthogonalize",
    "packaged_directions",
    "principal_directions",
    "rotate",
    "stored_codes",
    "unit",
]
