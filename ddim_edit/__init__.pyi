from . import directions, distributed, evaluation, images, latents, metrics, training, ui
from .config import InversionConfig
from .diffusion.denoisers import (
    ClippedDenoiser,
    Denoiser,
    GuidedDenoiser,
    MixtureDenoiser,
    NetworkDenoiser,
)
from .diffusion.grids import GRID_ENTRIES, GRIDS, Flow, Grid, Karras, find_grid, make_grid
from .diffusion.integration import Inversion, Sampled, invert, sample
from .diffusion.noise import SeededNoise
from .diffusion.parametrization import (
    DDPMParametrization,
    EDMParametrization,
    FlowParametrization,
    Parametrization,
    Prediction,
)
from .diffusion.schedules import Level, NoiseSchedule, Span
from .diffusion.solvers.exact import ExactSolver
from .diffusion.solvers.registry import SOLVER_ENTRIES, SOLVERS, find_solver
from .diffusion.solvers.solver import Solver
from .diffusion.workload import Workload
from .directions.direction import Direction
from .directions.edits import orthogonalize
from .directions.estimators.lda import LDADirection
from .directions.estimators.logistic import LogisticDirection
from .directions.estimators.mean import MeanDifference
from .directions.estimators.ridge import RidgeDirection
from .directions.estimators.svm import SVMDirection
from .directions.finding import find_direction
from .directions.fitting import fit_direction, principal_directions
from .directions.principal import PrincipalDirections
from .directions.word_direction import WordDirection
from .editor import Editor
from .encoder import LatentEncoder
from .errors import (
    ArgumentError,
    DDIMEditError,
    DirectionError,
    DirectionMismatchError,
    ImageError,
    InputWarning,
    LatentError,
    LatentMismatchError,
    MissingExtraError,
    ModelError,
    NonFiniteError,
)
from .evaluation.evaluator import evaluate
from .evaluation.grid_search import GridSearch, tune_grid
from .evaluation.likelihood.bits import Likelihood, LikelihoodConfig, log_likelihood
from .evaluation.probing import ProbeReport, probe
from .evaluation.report import Evaluation
from .hub.sharing import save_to_hub
from .latents.cache import LatentArray, LatentCache
from .latents.finding import load_latents
from .latents.latent import Latent, Latents
from .latents.provenance import Recipe
from .latents.store.store import LatentStore, StoreRows
from .machine import hardware
from .metrics.reconstruction import ReconstructedImage, Reconstruction
from .models.checkpoint import ModelParts
from .models.codec.autoencoder import Autoencoder, AutoencoderCodec
from .models.codec.pixels import Codec
from .models.codec.refinement import REFINERS
from .models.condition import Condition
from .models.devices import suited_dtype
from .models.families.registry import FAMILIES
from .models.loading import load_face_template, load_model
from .models.model import Model
from .models.packaged import packaged_models
from .models.typicality import Typicality

__all__ = [
    "FAMILIES",
    "GRIDS",
    "GRID_ENTRIES",
    "REFINERS",
    "SOLVERS",
    "SOLVER_ENTRIES",
    "ArgumentError",
    "Autoencoder",
    "AutoencoderCodec",
    "ClippedDenoiser",
    "Codec",
    "Condition",
    "DDIMEditError",
    "DDPMParametrization",
    "Denoiser",
    "Direction",
    "DirectionError",
    "DirectionMismatchError",
    "EDMParametrization",
    "Editor",
    "Evaluation",
    "ExactSolver",
    "Flow",
    "FlowParametrization",
    "Grid",
    "GridSearch",
    "GuidedDenoiser",
    "ImageError",
    "InputWarning",
    "Inversion",
    "InversionConfig",
    "Karras",
    "LDADirection",
    "Latent",
    "LatentArray",
    "LatentCache",
    "LatentEncoder",
    "LatentError",
    "LatentMismatchError",
    "LatentStore",
    "Latents",
    "Level",
    "Likelihood",
    "LikelihoodConfig",
    "LogisticDirection",
    "MeanDifference",
    "MissingExtraError",
    "MixtureDenoiser",
    "Model",
    "ModelError",
    "ModelParts",
    "NetworkDenoiser",
    "NoiseSchedule",
    "NonFiniteError",
    "Parametrization",
    "Prediction",
    "PrincipalDirections",
    "ProbeReport",
    "Recipe",
    "ReconstructedImage",
    "Reconstruction",
    "RidgeDirection",
    "SVMDirection",
    "Sampled",
    "SeededNoise",
    "Solver",
    "Span",
    "StoreRows",
    "Typicality",
    "WordDirection",
    "Workload",
    "directions",
    "distributed",
    "evaluate",
    "evaluation",
    "find_direction",
    "find_grid",
    "find_solver",
    "fit_direction",
    "hardware",
    "images",
    "invert",
    "latents",
    "load_face_template",
    "load_latents",
    "load_model",
    "log_likelihood",
    "make_grid",
    "metrics",
    "orthogonalize",
    "packaged_models",
    "principal_directions",
    "probe",
    "sample",
    "save_to_hub",
    "suited_dtype",
    "training",
    "tune_grid",
    "ui",
]
