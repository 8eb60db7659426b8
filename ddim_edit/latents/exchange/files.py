"""The formats by name, and latents through them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ddim_edit.errors import ArgumentError, LatentError
from ddim_edit.latents.exchange.containers import ComfyFile, Container, NpyFile, TensorsFile
from ddim_edit.latents.exchange.units import Units, for_comfy, for_diffusers, plain
from ddim_edit.latents.latent import Latent, Latents, require_compatible
from ddim_edit.latents.provenance import ImportOrigin
from ddim_edit.models.model import Model


@dataclass(frozen=True)
class Format:
    """Another program's way to keep latents.

    Attributes:
        container: the kind of file.
        units: what its numbers mean.
        dtype: what it is written in.
    """

    container: Container
    units: Units
    dtype: torch.dtype = torch.float64

    @property
    def needs_model(self) -> bool:
        """Whether its units are those of a model."""
        return self.units is not plain


FORMATS: Mapping[str, Format] = {
    "npy": Format(NpyFile(), plain),
    "safetensors": Format(TensorsFile("x"), plain),
    "diffusers": Format(TensorsFile("latents"), for_diffusers, torch.float32),
    "comfy": Format(ComfyFile(), for_comfy, torch.float32),
}


def export_latents(
    path: str | Path,
    latents: Latent | Sequence[Latent],
    to: str,
    model: Model | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the states of latents of one walk as one tensor [B, C, H, W] for another program; their recipe is lost.

    Read back by `import_latents` in float64, `npy` and `safetensors` return every bit.

    Args:
        path: the file, replaced if it exists.
        latents: at least one, all of one walk.
        to: one of `FORMATS`.
        model: the one that the latents are of; needed for "diffusers" and "comfy".
        dtype: of the file; float64 for "npy" and "safetensors" and float32 for the others, if left out.

    Raises:
        ArgumentError: no latents, an unknown format, or a model that is missing or that the format is not for.
        LatentMismatchError: latents of different walks.
        LatentError: latents of two states, of which the second would be lost; a place that cannot be written.
    """
    rows = [latents] if isinstance(latents, Latent) else list(latents)
    if not rows:
        raise ArgumentError("at least one latent", "none", "invert a picture first")
    require_compatible(rows)
    if any(row.delta is not None for row in rows):
        given = f"one of {rows[0].recipe.solver}, which has two"
        raise LatentError("a latent of one state", given, "invert with dpm2m or ddim")
    form = _find(to)
    x = form.units(model, rows[0].t).of(Latents(rows).x.cpu())
    form.container.write(Path(path), x.to(dtype or form.dtype))


def import_latents(path: str | Path, like: Latent, of: str | None = None, model: Model | None = None) -> Latents:
    """The latents of another program's file, to be decoded as `like` is; cannot tell whether they ever were its x_t.

    Look at `metrics.health`: a std far from 1 is no x_T.

    Args:
        path: a file with a tensor [C, H, W] or [B, C, H, W] of floats, of the shape of `like`.
        like: whose time and recipe they get; `Editor.noise([0], method)[0]`, or what was exported.
        of: one of `FORMATS`; by the file's suffix if left out.
        model: the one that the file is for; needed for "diffusers" and "comfy".

    Raises:
        ArgumentError: an unknown format, or a model that is missing or that the format is not for.
        LatentError: a file that cannot be read as such, or a `like` of two states.
    """
    path = Path(path)
    name = of or format_of(path)
    form = _find(name)
    if like.delta is not None:
        given = f"one of {like.recipe.solver}, which has two"
        raise LatentError("a latent of one state to be like", given, "use one of dpm2m or ddim")
    x = form.units(model, like.t).undone(form.container.read(path, tuple(like.x.shape)))
    source = _digest(path)
    return Latents(
        Latent(row, like.t, replace(like.recipe, origin=ImportOrigin(name, source, index)))
        for index, row in enumerate(x)
    )


def format_of(path: Path) -> str:
    """The format that a file's suffix stands for.

    Raises:
        ArgumentError: none.
    """
    for name, form in FORMATS.items():
        if path.suffix.lower() == form.container.suffix:
            return name
    suffixes = ", ".join(dict.fromkeys(form.container.suffix for form in FORMATS.values()))
    raise ArgumentError(f"a file name in {suffixes}", path.name, "say which format it is")


def _find(name: str) -> Format:
    if name not in FORMATS:
        raise ArgumentError(f"a format out of {', '.join(FORMATS)}", name, "choose one of these")
    return FORMATS[name]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
