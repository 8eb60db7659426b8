"""Files that hold one tensor: their headers are believed only as far as the file is long and the shape is right."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, Protocol

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ddim_edit.errors import LatentError
from ddim_edit.io.atomic import atomic

Shape = tuple[int, ...]

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_HEADER_ERRORS = (TypeError, SyntaxError, TokenError, RecursionError, MemoryError)  # numpy evaluates a literal
_OVER_BROKEN_FILES = (OSError, SafetensorError, ValueError, *_HEADER_ERRORS)
_FLOATS = {"F16", "BF16", "F32", "F64"}


class Container(Protocol):
    """A kind of file that holds the states of some latents as one tensor."""

    @property
    def suffix(self) -> str:
        """How the names of such files end."""
        ...

    def write(self, path: Path, x: Tensor) -> None:
        """Write x [B, C, H, W], the file whole or not at all."""
        ...

    def read(self, path: Path, shape: Shape) -> Tensor:
        """Float64 [B, C, H, W], of a tensor of that shape (C, H, W) or of several."""
        ...


@dataclass(frozen=True)
class NpyFile:
    """numpy's `.npy`, as `numpy.save` writes it; no objects, which would have to be unpickled."""

    suffix: str = ".npy"

    def write(self, path: Path, x: Tensor) -> None:
        """Write x [B, C, H, W] in its own dtype."""
        with _told(path, "written"), atomic(path) as temporary:
            np.save(temporary, x.cpu().contiguous().numpy(), allow_pickle=False)

    def read(self, path: Path, shape: Shape) -> Tensor:
        """Float64 [B, C, H, W].

        Raises:
            LatentError: not such a file, one cut short, of another shape, or of other numbers than floats.
        """
        with _told(path, "read"), path.open("rb") as file:
            version = npy.read_magic(file)
            if version not in _HEADERS:
                raise _unfit(path, f"version {version[0]}.{version[1]} of the format")
            found, _, dtype = _HEADERS[version](file)
            if dtype.kind != "f":
                raise _unfit(path, f"values of type {dtype}")
            rows = _rows(path, found, shape)
            if path.stat().st_size - file.tell() < rows * int(np.prod(shape)) * dtype.itemsize:
                raise _unfit(path, "fewer values than its header promises")
            values = np.load(path, allow_pickle=False)
        return _finite(path, torch.from_numpy(values.astype(np.float64)).reshape(rows, *shape))


@dataclass(frozen=True)
class TensorsFile:
    """Safetensors with one tensor, under whatever name; written under `key`."""

    key: str
    suffix: str = ".safetensors"

    def write(self, path: Path, x: Tensor) -> None:
        """Write x [B, C, H, W] in its own dtype."""
        write_tensors(path, {self.key: x})

    def read(self, path: Path, shape: Shape) -> Tensor:
        """Float64 [B, C, H, W].

        Raises:
            LatentError: not such a file, one with several tensors, of another shape, or of other numbers than floats.
        """
        with _told(path, "read"), safe_open(path, "pt") as file:
            names = list(file.keys())
            if len(names) != 1:
                raise _unfit(path, f"{len(names)} tensors")
            return _tensor(path, file, names[0], shape)


@dataclass(frozen=True)
class ComfyFile:
    """ComfyUI's `.latent`, as its nodes SaveLatent and LoadLatent have it; a foreign workflow in it is not kept."""

    suffix: str = ".latent"
    key: str = "latent_tensor"
    marker: str = "latent_format_version_0"
    first_scale: float = 0.18215
    """What tensors without the marker were multiplied by, whatever the model."""

    def write(self, path: Path, x: Tensor) -> None:
        """Write x [B, C, H, W] in its own dtype, with the marker."""
        write_tensors(path, {self.key: x, self.marker: torch.tensor([])})

    def read(self, path: Path, shape: Shape) -> Tensor:
        """Float64 [B, C, H, W]; errors as `TensorsFile`."""
        with _told(path, "read"), safe_open(path, "pt") as file:
            names = set(file.keys())
            if self.key not in names:
                raise _unfit(path, f"no tensor {self.key}")
            return _tensor(path, file, self.key, shape) / (1.0 if self.marker in names else self.first_scale)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file without a header of ours; LatentError for a place that cannot be written."""
    with _told(path, "written"), atomic(path) as temporary:
        temporary.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


class _Tensors(Protocol):
    """What is used of an open safetensors file; its own types are not known to mypy."""

    def get_slice(self, name: str) -> Any: ...
    def get_tensor(self, name: str) -> Tensor: ...


def _tensor(path: Path, file: _Tensors, name: str, shape: Shape) -> Tensor:
    view = file.get_slice(name)
    if view.get_dtype() not in _FLOATS:
        raise _unfit(path, f"values of type {view.get_dtype()}")
    rows = _rows(path, tuple(view.get_shape()), shape)
    return _finite(path, file.get_tensor(name).double().reshape(rows, *shape))


def _rows(path: Path, found: Shape, shape: Shape) -> int:
    """How many latents of `shape` a tensor of the found shape holds."""
    batch = found if len(found) == len(shape) + 1 else (1, *found)
    if batch[1:] != shape or batch[0] < 1:
        wanted = f"a tensor of shape {list(shape)} or {['B', *shape]}".replace("'", "")
        raise LatentError(wanted, f"{list(found)} in {path.name}", "use the model and --size that it is for")
    return batch[0]


def _finite(path: Path, x: Tensor) -> Tensor:
    if not x.isfinite().all():
        raise LatentError("finite numbers", f"NaN or infinity in {path.name}", "export it again, in float32")
    return x


def _unfit(path: Path, what: str) -> LatentError:
    return LatentError("a file with one tensor of floats", f"{path.name} with {what}", "export it again")


@contextmanager
def _told(path: Path, verb: str) -> Iterator[None]:
    """Tells what goes wrong with a file as a LatentError."""
    try:
        yield
    except _OVER_BROKEN_FILES as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(". ")
        given = f"{path.name} ({reason[:200]})"
        raise LatentError(f"a tensor file that can be {verb}", given, "check the path and the format") from error
