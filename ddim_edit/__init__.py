"""ddim-edit: the noise latent x_T of a diffusion model as a GAN-like latent space.

Names load on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddim_edit import images, interpolate, metrics
    from ddim_edit.backends import load_model, packaged_models
    from ddim_edit.denoise import (
        ClippedDenoiser,
        Denoiser,
        GuidedDenoiser,
        MixtureDenoiser,
        NetworkDenoiser,
        Prediction,
    )
    from ddim_edit.editor import Editor
    from ddim_edit.errors import (
        ArgumentError,
        DDIMEditError,
        ImageError,
        LatentError,
        LatentMismatchError,
        ModelError,
    )
    from ddim_edit.latent import Latent, Latents, Recipe
    from ddim_edit.model import Model
    from ddim_edit.noise import SeededNoise
    from ddim_edit.roundtrip import Reconstruction
    from ddim_edit.schedule import GRIDS, Grid, Karras, Level, NoiseSchedule, Span, make_grid
    from ddim_edit.solve import SOLVERS, Exact, Inversion, Method, Sampled, Solver, find_solver, invert, sample

_HOMES = {
    "backends": ("load_model", "packaged_models"),
    "denoise": (
        "ClippedDenoiser",
        "Denoiser",
        "GuidedDenoiser",
        "MixtureDenoiser",
        "NetworkDenoiser",
        "Prediction",
    ),
    "editor": ("Editor",),
    "errors": ("ArgumentError", "DDIMEditError", "ImageError", "LatentError", "LatentMismatchError", "ModelError"),
    "latent": ("Latent", "Latents", "Recipe"),
    "model": ("Model",),
    "noise": ("SeededNoise",),
    "roundtrip": ("Reconstruction",),
    "schedule": ("GRIDS", "Grid", "Karras", "Level", "NoiseSchedule", "Span", "make_grid"),
    "solve": ("SOLVERS", "Exact", "Inversion", "Method", "Sampled", "Solver", "find_solver", "invert", "sample"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = ("images", "interpolate", "metrics")

__all__ = [
    "GRIDS",
    "SOLVERS",
    "ArgumentError",
    "ClippedDenoiser",
    "DDIMEditError",
    "Denoiser",
    "Editor",
    "Exact",
    "Grid",
    "GuidedDenoiser",
    "ImageError",
    "Inversion",
    "Karras",
    "Latent",
    "LatentError",
    "LatentMismatchError",
    "Latents",
    "Level",
    "Method",
    "MixtureDenoiser",
    "Model",
    "ModelError",
    "NetworkDenoiser",
    "NoiseSchedule",
    "Prediction",
    "Recipe",
    "Reconstruction",
    "Sampled",
    "SeededNoise",
    "Solver",
    "Span",
    "find_solver",
    "images",
    "interpolate",
    "invert",
    "load_model",
    "make_grid",
    "metrics",
    "packaged_models",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
