"""Exchange latents with other programs: numpy, safetensors, diffusers and ComfyUI.

Importing this module imports neither torch nor numpy, so that the command line can list the formats quickly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ddim_edit.errors import ArgumentError, InputWarning, LatentError, first_line
from ddim_edit.io.atomic import atomic
from ddim_edit.io.content import NUMPY, OWN, SAFETENSORS, describe_file
from ddim_edit.io.digest import digest_file
from ddim_edit.io.regular import require_regular

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddim_edit.latents.latent import Latent, Latents
    from ddim_edit.models.model import Model

Shape = tuple[int, ...]

ROUNDED = 0.01
"""How far a latent may be from itself after it was in a file of 16 bits."""
_COMFY_MARKER = "latent_format_version_0"
"""The tensor by which ComfyUI's LoadLatent recognises files whose values are not multiplied by a factor."""
_COMFY_FIRST_FACTOR = 0.18215
"""What the values of files without the marker were multiplied by, whatever the model."""


class Affine(NamedTuple):
    """z = x scale + shift: another program's z of our state x; numbers, or tensors [C, 1, 1]."""

    scale: Tensor | float = 1.0
    shift: Tensor | float = 0.0

    def apply(self, x: Tensor) -> Tensor:
        """Return the other program's z of our x."""
        return x * self.scale + self.shift

    def invert(self, z: Tensor) -> Tensor:
        """Return our x of the other program's z."""
        return (z - self.shift) / self.scale


def our_units(model: Model | None, t: float) -> Affine:
    """Return the identity: x_t = alpha_t x_0 + sigma_t eps, alpha^2 + sigma^2 = 1, whatever the model."""
    return Affine()


def diffusers_units(model: Model | None, t: float) -> Affine:
    """Return the units of what diffusers' pipelines take as `latents=`.

    They multiply it by the scheduler's `init_noise_sigma`. For schedules of betas it is x_t itself: with DDIM,
    DPM-Solver++ and PNDM the factor is 1, and with Euler on leading spacing it is 1 / alpha_T, the unit of its own
    state. For straight paths (flow matching) it is x_t / (alpha_t + sigma_t).

    Raises:
        ArgumentError: no model.
    """
    schedule = _require_model(model).schedule
    level = schedule.level(t)
    return Affine(1 / (level.alpha + level.sigma)) if schedule.description.get("kind") == "flow" else Affine()


def comfy_units(model: Model | None, t: float) -> Affine:
    """Return the units of what ComfyUI's KSamplerAdvanced continues from with `add_noise` disabled.

    z = x_t / alpha_t / scale + shift: ComfyUI multiplies latents by its model's own factor on the way in, and takes a
    state to be x_0 + s eps.

    Raises:
        ArgumentError: no model, or one without an autoencoder, which ComfyUI has no nodes for.
        LatentError: pure noise of a straight path or of zero terminal SNR, of which ComfyUI would keep nothing.
    """
    import torch

    from ddim_edit.diffusion.schedules import SMALLEST_ALPHA
    from ddim_edit.models.codec.autoencoder import AutoencoderCodec

    model = _require_model(model)
    if not isinstance(model.codec, AutoencoderCodec):
        raise ArgumentError(f"ComfyUI takes models with an autoencoder, and {model.name} has none. Use npy.")
    level = model.schedule.level(t)
    if level.alpha < 2 * SMALLEST_ALPHA:
        raise LatentError(
            f"At t = {level.t:g} this latent is pure noise, of which ComfyUI would keep nothing."
            " Use diffusers, npy or safetensors."
        )
    scale = torch.tensor(model.codec.scaling_factor, dtype=torch.float64).view(-1, 1, 1)
    shift = torch.tensor(model.codec.shift_factor, dtype=torch.float64).view(-1, 1, 1)
    return Affine(1 / (level.alpha * scale), shift)


def _require_model(model: Model | None) -> Model:
    if model is None:
        raise ArgumentError("This format has the units of a model. Pass the model that the latents are of.")
    return model


def _write_npy(path: Path, x: Tensor) -> None:
    import numpy as np

    with _writing(path) as temporary:
        np.save(temporary, x.cpu().contiguous().numpy(), allow_pickle=False)


def _read_npy(path: Path, shape: Shape) -> Tensor:
    import numpy as np
    import torch

    require_regular(path, LatentError)
    try:
        # Mapped, so that a header which promises more than the file has fails before any memory is taken. This is what
        # np.load(mmap_mode="r") calls, without its detour to pickles and archives.
        values = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy evaluates the header as a literal, which fails in a dozen ways
        raise _unreadable(path, error) from error
    if values.dtype.kind != "f":
        raise _unfit(path, f"it has values of type {values.dtype}")
    batch = _batch_size(path, values.shape, shape)
    return _require_finite(path, torch.from_numpy(values.astype(np.float64)).reshape(batch, *shape))


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    with _writing(path) as temporary:
        temporary.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


def _read_tensor(path: Path, key: str | None, shape: Shape) -> tuple[Tensor, set[str]]:
    """Return the tensor of a key, or the only one, as float64 [B, C, H, W], and the names of all tensors."""
    from safetensors import SafetensorError, safe_open

    require_regular(path, LatentError)
    if (kind := describe_file(path)) in OWN.values():
        raise LatentError(f"{path.name}: it is {kind}, which needs no import. Name a file of another program.")
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            if key is None and len(names) != 1:
                raise _unfit(path, f"it has {len(names)} tensors")
            if key is not None and key not in names:
                raise _unfit(path, f"it has no tensor {key}")
            name = key or names.pop()
            view = file.get_slice(name)
            if view.get_dtype() not in ("F16", "BF16", "F32", "F64"):
                raise _unfit(path, f"it has values of type {view.get_dtype()}")
            batch = _batch_size(path, tuple(view.get_shape()), shape)
            tensor: Tensor = file.get_tensor(name).double().reshape(batch, *shape)
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(path, error) from error
    return _require_finite(path, tensor), names


def _read_comfy(path: Path, shape: Shape) -> Tensor:
    x, names = _read_tensor(path, "latent_tensor", shape)
    return x if _COMFY_MARKER in names else x / _COMFY_FIRST_FACTOR


def _write_comfy(path: Path, x: Tensor) -> None:
    _write_tensors(path, {"latent_tensor": x, _COMFY_MARKER: x.new_empty(0)})


def _batch_size(path: Path, found: Shape, shape: Shape) -> int:
    """Return the number of latents of a shape in a tensor of the found shape."""
    batch = found if len(found) == len(shape) + 1 else (1, *found)
    if batch[1:] != shape or prod(batch) < 1:
        wanted = f"{list(shape)} or [B, {str(list(shape))[1:]}"
        raise LatentError(
            f"{path.name}: its tensor has the shape {list(found)}, and the model takes {wanted}."
            " Use the model and --size that it is for."
        )
    return batch[0]


def _require_finite(path: Path, x: Tensor) -> Tensor:
    if not x.isfinite().all():
        raise LatentError(f"{path.name}: it contains NaN or infinity. Export it again, in float32.")
    return x


def _unfit(path: Path, reason: str) -> LatentError:
    return LatentError(f"{path.name}: {reason}, not one tensor of floats. Export it again.")


def _unreadable(path: Path, error: Exception) -> LatentError:
    if (kind := describe_file(path)) not in (None, NUMPY, SAFETENSORS):
        return LatentError(f"{path.name}: it is {kind}, not a file of tensors. Check the path.")
    reason = getattr(error, "strerror", None) or first_line(error).rstrip(". ")
    return LatentError(f"{path.name}: cannot read the tensor file: {reason:.200}. Check the path and the format.")


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        with atomic(path) as temporary:
            yield temporary
    except OSError as error:
        raise LatentError(f"{path}: cannot write: {error.strerror or error}. Choose another place.") from error


class ExchangeFormat(NamedTuple):
    """Another program's way to keep latents.

    Attributes:
        name: for `export_latents` and `--to`.
        help: one line for the command line and the reference.
        suffix: how the names of such files end.
        write: (path, x [B, C, H, W]) writes the file, whole or not at all.
        read: (path, (C, H, W)) -> float64 [B, C, H, W].
        units: what the numbers mean, for a model at a time.
        dtype: of the file, unless the caller chooses another.
    """

    name: str
    help: str
    suffix: str
    write: Callable[[Path, Tensor], None]
    read: Callable[[Path, Shape], Tensor]
    units: Callable[[Model | None, float], Affine] = our_units
    dtype: str = "float64"

    @property
    def needs_model(self) -> bool:
        """Whether its units are those of a model."""
        return self.units is not our_units


FORMATS: Mapping[str, ExchangeFormat] = {
    each.name: each
    for each in (
        ExchangeFormat("npy", "numpy's array of x", ".npy", _write_npy, _read_npy),
        ExchangeFormat(
            "safetensors",
            "one tensor of x",
            ".safetensors",
            lambda path, x: _write_tensors(path, {"x": x}),
            lambda path, shape: _read_tensor(path, None, shape)[0],
        ),
        ExchangeFormat(
            "diffusers",
            "for latents= of diffusers' pipelines",
            ".safetensors",
            lambda path, x: _write_tensors(path, {"latents": x}),
            lambda path, shape: _read_tensor(path, None, shape)[0],
            diffusers_units,
            "float32",
        ),
        ExchangeFormat(
            "comfy", "for LoadLatent of ComfyUI", ".latent", _write_comfy, _read_comfy, comfy_units, "float32"
        ),
    )
}


def export_latents(
    path: str | Path,
    latents: Latent | Sequence[Latent],
    to: str,
    model: Model | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the states x of latents as one tensor [B, C, H, W] for another program; their recipe is lost.

    Read back by `import_latents` in float64, `npy` and `safetensors` return every bit.

    Args:
        path: the file, replaced if it exists.
        latents: at least one, all of one model, solver and grid.
        to: one of `FORMATS`.
        model: the one that the latents are of; needed for "diffusers" and "comfy".
        dtype: of the file; None is float64 for "npy" and "safetensors" and float32 for the others.

    Warns:
        InputWarning: latents of a grid that starts above the image, whose detail other programs cannot decode.

    Raises:
        ArgumentError: no latents, an unknown format, or a model that is missing or that the format is not for.
        LatentMismatchError: latents that are not decoded alike.
        NonFiniteError: NaN or infinity in a latent.
        LatentError: latents of two states, of which the second would be lost; values that the dtype does not hold; a
            place that cannot be written.
    """
    import torch

    from ddim_edit.latents.latent import Latent, Latents, require_compatible

    rows = [latents] if isinstance(latents, Latent) else list(latents)
    if not rows:
        raise ArgumentError("There are no latents to export.")
    require_compatible(rows)
    if any(row.delta is not None for row in rows):
        raise LatentError(f"Latents of {rows[0].recipe.solver} have two states, and a file would hold one. Use dpm2m.")
    form = _find(to)
    for row in rows:
        row.require_finite()
    if any(row.detail is not None for row in rows):
        start = rows[0].recipe.times[0]
        warnings.warn(
            f"The detail of the image below t = {start:g}, where its grid starts, is not in x, and another program "
            "will make its own. Invert with --grid karras:14 for that.",
            InputWarning,
            stacklevel=2,
        )
    kept = dtype or getattr(torch, form.dtype)
    x = form.units(model, rows[0].t).apply(Latents(rows).x.cpu()).to(kept)
    if not x.isfinite().all():
        raise LatentError(
            f"The latent has values that {kept} does not hold, beyond {torch.finfo(kept).max:g}, in the units of the"
            " format. Is it a latent at all? Nothing was written."
        )
    form.write(Path(path), x)


def import_latents(path: str | Path, like: Latent, of: str | None = None, model: Model | None = None) -> Latents:
    """Read latents from another program's file, to be decoded as `like` is.

    Nothing in such a file shows whether its numbers are an x_t of this model. `metrics.health` helps: a standard
    deviation far from 1 is no x_T.

    Args:
        path: a file with a tensor [C, H, W] or [B, C, H, W] of floats, of the shape of `like`.
        like: whose time and recipe they get: `Editor.noise([0])[0]`, or the latent that was exported.
        of: one of `FORMATS`; None goes by the file's suffix.
        model: the one that the file is for; needed for "diffusers" and "comfy".

    Raises:
        ArgumentError: an unknown format, or a model that is missing or that the format is not for.
        LatentError: a file that cannot be read as such, or a `like` of two states.
    """
    from ddim_edit.latents.latent import Latent, Latents
    from ddim_edit.latents.provenance import ImportOrigin

    path = Path(path)
    form = _find(of or format_of(path))
    if like.delta is not None:
        raise LatentError(f"Latents of {like.recipe.solver} have two states, and a file holds one. Use dpm2m.")
    x = form.units(model, like.t).invert(form.read(path, tuple(like.x.shape)))
    source = digest_file(path)
    latents = []
    for index, row in enumerate(x):
        recipe = replace(like.recipe, origin=ImportOrigin(form.name, source, index))
        latent = Latent(row, like.t, recipe, detail=like.detail)
        latents.append(_keep_detail(latent, like))
    return Latents(latents)


def _keep_detail(latent: Latent, like: Latent) -> Latent:
    """Return a latent with as much of its detail as it is still the latent that was exported.

    With c the cosine between them that is the part max(0, 2 c - 1), all of it where another program only rounded the
    latent, and nothing of a latent that is another one.
    """
    from ddim_edit.latents.latent import keep_detail

    if like.detail is None or float((latent.x - like.x).abs().max()) < ROUNDED:
        return latent
    x, y = latent.x.double(), like.x.double()
    return keep_detail(latent, like, float((x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-300)))


def format_of(path: Path) -> str:
    """Return the name of the first format whose files end as this one does.

    Raises:
        ArgumentError: there is none.
    """
    for name, form in FORMATS.items():
        if path.suffix.lower() == form.suffix:
            return name
    suffixes = ", ".join(dict.fromkeys(form.suffix for form in FORMATS.values()))
    raise ArgumentError(f"{path.name}: its suffix is none of {suffixes}. Say which format it has.")


def _find(name: str) -> ExchangeFormat:
    if name not in FORMATS:
        raise ArgumentError(f"There is no format {name!r}. Use {', '.join(FORMATS)}.")
    return FORMATS[name]
