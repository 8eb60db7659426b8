"""Write and read tensors with a JSON header in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from safetensors import SafetensorError, safe_open

from ddim_edit.errors import DDIMEditError
from ddim_edit.io.atomic import atomic
from ddim_edit.io.content import OWN, SAFETENSORS, describe_file
from ddim_edit.io.regular import require_regular
from ddim_edit.io.schema import Schema, describe, parse_json, validate

if TYPE_CHECKING:
    from torch import Tensor

Content = TypeVar("Content")
_REAL = ("F16", "BF16", "F32", "F64")
"""What safetensors calls real numbers that torch can compute with; it has no arithmetic of float8."""


class TensorFile(NamedTuple):
    """Tensors by name, and a header of JSON types."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]


class TensorInfo(NamedTuple):
    """The shape of a tensor in a file, and whether it holds real numbers."""

    shape: tuple[int, ...]
    is_floating_point: bool


class TensorFileHeader(NamedTuple):
    """The header of a file, and what it says of its tensors, by name."""

    header: dict[str, Any]
    tensors: dict[str, TensorInfo]


@dataclass(frozen=True)
class TensorFormat:
    """A kind of file: tensors and a header whose entries are known.

    Args:
        kind: what a file of it is called in messages, as in "latent file".
        key: the entry of safetensors' metadata that holds the header as sorted JSON.
        error: what to raise for a file that cannot be read or written.
        remedy: what to do about a file that cannot be read, as a sentence.
        schema: a check for each entry of the header; all of them must be there.
        version: the version that is written to the header as `format`, and refused if it is another one; with a version
            no unknown entries are accepted either. None for files whose version is inside of an entry.
    """

    kind: str
    key: str
    error: type[DDIMEditError]
    remedy: str
    schema: Schema = field(default_factory=dict)
    version: int | None = None

    def save(self, path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
        """Write a file, whole or not at all; equal content gives equal bytes.

        Raises:
            error: the place cannot be written; nothing half-written is left there.
        """
        from safetensors.torch import save

        path = Path(path)
        record = dict(header) if self.version is None else {"format": self.version, **header}
        plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        try:
            with atomic(path) as temporary:
                # save_file would make files that only their owner may read.
                temporary.write_bytes(save(plain, {self.key: json.dumps(record, sort_keys=True)}))
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise self.error(f"{path}: cannot write the {self.kind}: {reason}. Choose another place.") from error

    def load(self, path: str | Path) -> TensorFile:
        """Read a file that `save` wrote, bit by bit; nothing in it is executed.

        Raises:
            error: no such file, one of another kind or version, or one whose header does not fit the schema.
        """

        def read(file: Any) -> dict[str, Tensor]:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

        header, tensors = self._open(Path(path), "pt", read)
        return TensorFile(tensors, header)

    def read_header(self, path: str | Path) -> TensorFileHeader:
        """Read a file's header and the kinds of its tensors, without importing torch. Errors as `load`."""

        def read(file: Any) -> dict[str, TensorInfo]:
            found: dict[str, TensorInfo] = {}
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                found[name] = TensorInfo(tuple(part.get_shape()), part.get_dtype() in _REAL)
            return found

        return TensorFileHeader(*self._open(Path(path), "np", read))

    def _open(self, path: Path, framework: str, read: Callable[[Any], Content]) -> tuple[dict[str, Any], Content]:
        """Return the header of a file, checked, and what `read` returns of the open file."""
        require_regular(path, self.error)
        try:
            with safe_open(path, framework) as file:
                header = parse_json((file.metadata() or {})[self.key])
                content = read(file)
        except FileNotFoundError as error:
            raise self.error(f"{path.name}: no such file.") from error
        except KeyError as error:
            raise self._refusal(path, f"it has no {self.key!r} header") from error
        except (OSError, SafetensorError, ValueError) as error:
            raise self._refusal(path, str(error).rstrip(".")) from error
        versioned = self.version is not None and isinstance(header, dict)
        if versioned and (version := header.pop("format", None)) != self.version:
            known = f"format {self.version} of a {self.kind}, not {describe(version)}"
            raise self.error(f"{path.name}: this version of ddim-edit reads {known}. Use the one that wrote it.")
        source = f"{path.name}: not a {self.kind}"
        return validate(header, self.schema, source, self.error, self.remedy, closed=versioned), content

    def _refusal(self, path: Path, reason: str) -> DDIMEditError:
        kind = describe_file(path)
        if kind not in (None, SAFETENSORS, OWN.get(self.key)):
            return self.error(f"{path.name}: it is {kind}, not a {self.kind}. {self.remedy}")
        return self.error(f"{path.name}: not a {self.kind}: {reason}. {self.remedy}")
