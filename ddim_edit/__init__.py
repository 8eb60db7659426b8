"""ddim-edit: the noise latent x_T of a diffusion model as a GAN-like latent space.

Names load on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddim_edit import directions, filling, images, interchange, interpolate, labels, metrics, training, ui
    from ddim_edit.backends import load_model, packaged_models, suited_dtype
    from ddim_edit.codec import REFINERS, Autoencoder, AutoencoderCodec, Codec
    from ddim_edit.codes import CodeFolder, Codes
    from ddim_edit.condition import Condition
    from ddim_edit.denoise import (
        ClippedDenoiser,
        Denoiser,
        GuidedDenoiser,
        MixtureDenoiser,
        NetworkDenoiser,
        Preconditioned,
        Prediction,
        Straight,
    )
    from ddim_edit.directions import (
        Direction,
        LDADirection,
        LogisticDirection,
        MeanDifference,
        PrincipalDirections,
        RidgeDirection,
        SVMDirection,
        find_direction,
        fit_direction,
        orthogonalize,
        principal_directions,
    )
    from ddim_edit.editor import Editor
    from ddim_edit.encoder import LatentEncoder
    from ddim_edit.errors import (
        ArgumentError,
        DDIMEditError,
        DirectionError,
        DirectionMismatchError,
        ImageError,
        LatentError,
        LatentMismatchError,
        ModelError,
    )
    from ddim_edit.evaluation import Evaluation, evaluate
    from ddim_edit.latent import Latent, Latents, Recipe
    from ddim_edit.likelihood import Integration, Likelihood, log_likelihood
    from ddim_edit.model import Model
    from ddim_edit.noise import SeededNoise
    from ddim_edit.probing import ProbeReport, probe
    from ddim_edit.roundtrip import Reconstruction
    from ddim_edit.schedule import GRIDS, Flow, Grid, Karras, Level, NoiseSchedule, Span, make_grid
    from ddim_edit.solve import SOLVERS, Exact, Inversion, Method, Sampled, Solver, find_solver, invert, sample
    from ddim_edit.store import LatentStore, StoreRows

_HOMES = {
    "backends": ("load_model", "packaged_models", "suited_dtype"),
    "codec": ("REFINERS", "Autoencoder", "AutoencoderCodec", "Codec"),
    "codes": ("CodeFolder", "Codes"),
    "condition": ("Condition",),
    "denoise": (
        "ClippedDenoiser",
        "Denoiser",
        "GuidedDenoiser",
        "MixtureDenoiser",
        "NetworkDenoiser",
        "Preconditioned",
        "Prediction",
        "Straight",
    ),
    "directions": (
        "Direction",
        "LDADirection",
        "LogisticDirection",
        "MeanDifference",
        "PrincipalDirections",
        "RidgeDirection",
        "SVMDirection",
        "find_direction",
        "fit_direction",
        "orthogonalize",
        "principal_directions",
    ),
    "editor": ("Editor",),
    "encoder": ("LatentEncoder",),
    "errors": (
        "ArgumentError",
        "DDIMEditError",
        "DirectionError",
        "DirectionMismatchError",
        "ImageError",
        "LatentError",
        "LatentMismatchError",
        "ModelError",
    ),
    "evaluation": ("Evaluation", "evaluate"),
    "latent": ("Latent", "Latents", "Recipe"),
    "likelihood": ("Integration", "Likelihood", "log_likelihood"),
    "model": ("Model",),
    "noise": ("SeededNoise",),
    "probing": ("ProbeReport", "probe"),
    "roundtrip": ("Reconstruction",),
    "schedule": ("GRIDS", "Flow", "Grid", "Karras", "Level", "NoiseSchedule", "Span", "make_grid"),
    "solve": ("SOLVERS", "Exact", "Inversion", "Method", "Sampled", "Solver", "find_solver", "invert", "sample"),
    "store": ("LatentStore", "StoreRows"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("directions", "filling", "images", "interchange", "interpolate", "labels", "metrics", "training", "ui")

__all__ = [
    "GRIDS",
    "REFINERS",
    "SOLVERS",
    "ArgumentError",
    "Autoencoder",
    "AutoencoderCodec",
    "ClippedDenoiser",
    "CodeFolder",
    "Codec",
    "Codes",
    "Condition",
    "DDIMEditError",
    "Denoiser",
    "Direction",
    "DirectionError",
    "DirectionMismatchError",
    "Editor",
    "Evaluation",
    "Exact",
    "Flow",
    "Grid",
    "GuidedDenoiser",
    "ImageError",
    "Integration",
    "Inversion",
    "Karras",
    "LDADirection",
    "Latent",
    "LatentEncoder",
    "LatentError",
    "LatentMismatchError",
    "LatentStore",
    "Latents",
    "Level",
    "Likelihood",
    "LogisticDirection",
    "MeanDifference",
    "Method",
    "MixtureDenoiser",
    "Model",
    "ModelError",
    "NetworkDenoiser",
    "NoiseSchedule",
    "Preconditioned",
    "Prediction",
    "PrincipalDirections",
    "ProbeReport",
    "Recipe",
    "Reconstruction",
    "RidgeDirection",
    "SVMDirection",
    "Sampled",
    "SeededNoise",
    "Solver",
    "Span",
    "StoreRows",
    "Straight",
    "directions",
    "evaluate",
    "filling",
    "find_direction",
    "find_solver",
    "fit_direction",
    "images",
    "interchange",
    "interpolate",
    "invert",
    "labels",
    "load_model",
    "log_likelihood",
    "make_grid",
    "metrics",
    "orthogonalize",
    "packaged_models",
    "principal_directions",
    "probe",
    "sample",
    "suited_dtype",
    "training",
    "ui",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
