"""Networks as ONNX graphs, exported once for a shape of their inputs and kept on disk by content.

A graph is called by a hash of the weights and the layers that it was made of, of the shapes of its inputs but for the
size of a batch, and of the versions of what exported it. A folder holds the graph, its weights, and the digests of
both, by which files that were damaged are known. As with `digest_cache`, nothing here is ever fatal: what cannot be
kept on disk is exported anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from torch import Tensor, nn

from ddim_edit.errors import ModelError, first_line
from ddim_edit.io.atomic import atomic
from ddim_edit.io.digest import digest_file
from ddim_edit.io.ignored_warnings import ignored_warnings
from ddim_edit.io.locks import FolderLock
from ddim_edit.models.announcements import announce
from ddim_edit.models.digest_cache import cache_folder, mark_used
from ddim_edit.models.executors import Inputs

Value = TypeVar("Value")

_VERSION = 1
_GRAPH, _WEIGHTS = "graph.onnx", "graph.onnx.data"
_DIGESTS = "digests.json"
_MOST = 8 << 30
"""Bytes that are kept; what was not used for longest goes first."""
_LARGEST_BATCH = 1 << 20
_EXPORTING = threading.Lock()
_EXPORTERS = ("ddim-edit", "torch", "onnxscript", "diffusers")


def load_graph(network: nn.Module, inputs: Inputs, load: Callable[[Path], Value]) -> Value:
    """Return what `load` makes of the file of a network's graph, which is exported if it is not on disk.

    Args:
        network: in float32 on the CPU, with plain layers.
        inputs: examples [B, ...] of any B; the graph is for inputs of these shapes but for B.
        load: reads the file, and the weights beside it; neither is there for longer.

    Raises:
        ModelError: a network that cannot be exported.
    """
    folder = cache_folder()
    if folder is not None:
        kept = folder.with_name("graphs") / _name(network, inputs)
        # No folder may be made there, the disk may be full, or the folder may have gone meanwhile.
        with suppress(OSError), FolderLock(kept):
            if not _is_whole(kept):
                _keep(network, inputs, kept)
            mark_used(kept)
            return load(kept / _GRAPH)
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        file = Path(scratch, _GRAPH)
        _export(network, inputs, file)
        return load(file)


def _name(network: nn.Module, inputs: Inputs) -> str:
    """Return a hash of all that decides what a graph computes."""
    digest = hashlib.sha256()
    shapes = {name: [list(value.shape[1:]), str(value.dtype)] for name, value in inputs.items()}
    versions = {}
    for package in _EXPORTERS:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    digest.update(json.dumps([_VERSION, versions, shapes]).encode())
    # The text of a module has its layers and their settings; what else its forward pass depends on is in its config.
    digest.update(repr(network).encode())
    for module in network.modules():
        digest.update(repr(_settings(module)).encode())
    # All bits count, unlike in what identifies a model, which equals its copies in half precision.
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _settings(module: nn.Module) -> object:
    """Return the config of a module, without the names and paths that diffusers writes there."""
    config = getattr(module, "config", None)
    if not isinstance(config, Mapping):
        return config
    return {str(name): value for name, value in sorted(config.items()) if not str(name).startswith("_")}


def _is_whole(folder: Path) -> bool:
    """Return whether a folder holds a graph as it was written."""
    try:
        wanted = json.loads((folder / _DIGESTS).read_bytes())
        found = {name: digest_file(folder / name) for name in (_GRAPH, _WEIGHTS)}
    except (OSError, ValueError, RecursionError):
        return False
    return bool(wanted == found)


def _keep(network: nn.Module, inputs: Inputs, folder: Path) -> None:
    """Export a graph into a folder that is locked; its digests are written last, so that half a graph is none."""
    # Files that another process has mapped live on; written to in place, they would change under it.
    for name in (_DIGESTS, _GRAPH, _WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    _export(network, inputs, folder / _GRAPH)
    digests = {name: digest_file(folder / name) for name in (_GRAPH, _WEIGHTS)}
    with atomic(folder / _DIGESTS) as temporary:
        temporary.write_text(json.dumps(digests), encoding="utf-8")
    mark_used(folder)
    _forget_oldest(folder)


def _forget_oldest(newest: Path) -> None:
    """Remove what was not used for longest, until all that is kept is small enough, but never the newest graph."""
    total = 0
    for folder in sorted(newest.parent.iterdir(), key=lambda folder: folder.stat().st_mtime_ns, reverse=True):
        total += sum(file.stat().st_size for file in folder.glob("graph.*"))
        if total > _MOST and folder != newest:
            shutil.rmtree(folder, ignore_errors=True)


class _ByPosition(nn.Module):
    """A network that takes its inputs by position, as exporters want them."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the network's output."""
        output: Tensor = self.network(**dict(zip(self.names, inputs, strict=True)))
        return output


@contextmanager
def _flag_left_alone() -> Iterator[None]:
    """Have torch.export leave torch's older flag for tf32 alone, which it would read and write back.

    Reading it raises inside `float32_precision`, in which other threads may be; None stands for no change.
    """
    name = "_get_cudnn_allow_tf32"
    with _EXPORTING:
        read = getattr(torch._C, name)
        setattr(torch._C, name, lambda: None)
        try:
            yield
        finally:
            setattr(torch._C, name, read)


def _export(network: nn.Module, inputs: Inputs, file: Path) -> None:
    """Write the graph of a network for batches of any size, and its weights beside it."""
    announce("exporting the network, which is done once for each size of images")
    module = _ByPosition(network, tuple(inputs)).eval()
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    # A batch of 1 would be taken for a constant.
    with torch.inference_mode(False), torch.no_grad(), ignored_warnings, _flag_left_alone():
        examples = tuple(value[:1].expand(2, *value.shape[1:]).clone() for value in inputs.values())
        try:
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=["output"],
                dynamic_shapes=(tuple({0: batch} for _ in examples),),
            )
            assert program is not None  # as it is without dynamo
            program.save(str(file), external_data=True)
        except OSError:
            raise
        except Exception as error:  # torch.export fails in many ways
            raise ModelError(
                f"This network cannot be exported ({first_line(error.__cause__ or error, 160)}). Leave --runtime out."
            ) from error
