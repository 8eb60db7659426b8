from . import labels
from .direction import SUFFIX, Direction, to_unit
from .edits import BottleneckEdit, Edit, ShellEdit, make_edit, orthogonalize
from .estimators.lda import LDADirection
from .estimators.logistic import LogisticDirection
from .estimators.mean import MeanDifference
from .estimators.ridge import RidgeDirection
from .estimators.svm import SVMDirection
from .finding import directions_in, find_direction, packaged_directions
from .fitting import fit_direction, principal_directions
from .geometry import complement, cosines, rotate
from .guided import GuidedEdit
from .principal import PrincipalDirections
from .registry import ESTIMATORS, EstimatorEntry, make_estimator
from .store_rows import PickedRows, stored_latents
from .streaming import LatentRows
from .validation import DirectionEstimator, concordance
from .word_direction import WORD_FORMS, WordDirection
from .words import WordEdit, make_edits, resolve_direction

__all__ = [
    "ESTIMATORS",
    "SUFFIX",
    "WORD_FORMS",
    "BottleneckEdit",
    "Direction",
    "DirectionEstimator",
    "Edit",
    "EstimatorEntry",
    "GuidedEdit",
    "LDADirection",
    "LatentRows",
    "LogisticDirection",
    "MeanDifference",
    "PickedRows",
    "PrincipalDirections",
    "RidgeDirection",
    "SVMDirection",
    "ShellEdit",
    "WordDirection",
    "WordEdit",
    "complement",
    "concordance",
    "cosines",
    "directions_in",
    "find_direction",
    "fit_direction",
    "labels",
    "make_edit",
    "make_edits",
    "make_estimator",
    "orthogonalize",
    "packaged_directions",
    "principal_directions",
    "resolve_direction",
    "rotate",
    "stored_latents",
    "to_unit",
]
