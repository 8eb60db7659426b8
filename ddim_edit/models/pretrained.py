"""Components of diffusers folders: their files, their weights, and loading them with diffusers or transformers.

Both libraries take seconds to import, so they are imported when a checkpoint needs them and not before. Of a folder
only JSON and weights are read: safetensors, or pickles that contain nothing but tensors.
"""

import hashlib
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddim_edit.errors import DDIMEditError, ModelError
from ddim_edit.io import schema
from ddim_edit.io.digest import digest_file
from ddim_edit.io.extras import import_extra
from ddim_edit.io.ignored_warnings import ignored_warnings
from ddim_edit.models.announcements import announce, announce_loading
from ddim_edit.models.file_kinds import program_of
from ddim_edit.models.tensor_files import (
    StoredTensors,
    common_dtype,
    read_tensors,
    require_unquantised,
    upcast_fp8,
)
from ddim_edit.models.weights import fill_in_place, require_all, require_plausible_config, without_parameters

WEIGHTS = "diffusion_pytorch_model.safetensors"
_STEM = "diffusion_pytorch_model|(?:pytorch_)?model"
"""How the names of weights files of diffusers and of transformers begin."""
_WHOLE = re.compile(rf"(?:{_STEM})(?:\.(?P<variant>\w+))?\.(?P<container>safetensors|bin)")
_INDEX = re.compile(rf"(?:{_STEM})\.(?P<container>safetensors|bin)\.index(?:\.(?P<variant>\w+))?\.json")
_ROUNDED = ("fp16", "bf16")
"""What the rounded variants of a checkpoint have in the names of their files."""
_NOT_AVERAGED = "non_ema"
"""What the variant has whose weights were not averaged in training; the others of Stable Diffusion are averages."""


class ComponentWeights(NamedTuple):
    """The tensors of a component by name, the files that they are in, and what to call these in errors."""

    tensors: Mapping[str, Tensor]
    files: list[Path]
    source: str


def component_folder(folder: Path, name: str) -> Path:
    """Return a component's folder; old checkpoints such as google/ddpm-* keep all components in one."""
    return folder / name if (folder / name).is_dir() else folder


def read_config(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a checkpoint.

    Raises:
        ModelError: it is missing, or holds something else.
    """
    return schema.read_json(path, ModelError, "Name a diffusers folder, or download the checkpoint again.")


class WeightsFiles(NamedTuple):
    """The files of one copy of a component's weights.

    Fields: paths; variant, the word that is in their names, or ""; container, "safetensors" or "bin".
    """

    paths: list[Path]
    variant: str
    container: str


def weights_files(folder: Path) -> list[Path]:
    """Return the files that the weights of a component are in, as `find_weights` chooses them.

    Raises:
        ModelError: as `find_weights`.
    """
    return find_weights(folder).paths


def find_weights(folder: Path) -> WeightsFiles:
    """Return the files of the best copy of a component's weights: one file, or the shards that an index names.

    Full precision comes first, then what was rounded, and last what was not averaged in training; of each safetensors
    come before pickles.

    Raises:
        ModelError: there are none, or an index of shards that are not there.
    """
    copies: list[tuple[int, bool, bool, str, re.Match[str]]] = []
    for name in sorted(file.name for file in folder.iterdir()) if folder.is_dir() else ():
        for pattern in (_WHOLE, _INDEX):
            if (found := pattern.fullmatch(name)) and (folder / name).is_file():
                rank = _rank_variant(found["variant"] or "")
                copies.append((rank, found["container"] == "bin", pattern is _INDEX, name, found))
    if not copies:
        raise missing_weights(folder)
    *_, is_index, name, found = min(copies, key=lambda copy: copy[:4])
    paths = _shards(folder / name) if is_index else [folder / name]
    return WeightsFiles(paths, found["variant"] or "", found["container"])


def _rank_variant(variant: str) -> int:
    order = ("", *_ROUNDED, None, _NOT_AVERAGED)
    return order.index(variant if variant in order else None)


def _shards(index: Path) -> list[Path]:
    names = read_config(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{index}: this list of shards has no weight_map. Download the checkpoint again.")
    files = [index.with_name(Path(name).name) for name in sorted(set(names.values()))]
    for file in files:
        if not file.is_file():
            raise ModelError(
                f"{index}: this list of shards names {file.name:.80}, which is not there. Download that file, or, if "
                "the weights were saved anew since, the list that belongs to them."
            )
    return files


def fingerprint(files: Iterable[Path]) -> str:
    """Return the SHA-256 of one file, or that of the digests of several in the order of their names."""
    digests = [digest_file(file) for file in sorted(files)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read_weights(files: Iterable[Path]) -> dict[str, Tensor]:
    """Return the tensors in the weights files of a component, by today's names of diffusers.

    Raises:
        ModelError: a file that is broken, or of another kind.
    """
    weights: dict[str, Tensor] = {}
    for file in files:
        tensors = upcast_fp8(read_tensors(file))
        require_unquantised({name: str(tensor.dtype) for name, tensor in tensors.items()}, str(file))
        weights |= tensors
    return {_current_name(name): tensor for name, tensor in weights.items()}


def has_fp8(folder: Path) -> bool:
    """Return whether the weights of a component are fp8; safetensors alone have them."""
    files = [file for file in weights_files(folder) if file.suffix == ".safetensors"]
    return StoredTensors(files).is_fp8


def read_component_weights(folder: Path, config: Mapping[str, Any], quick: bool = False) -> ComponentWeights:
    """Return the weights of a component, which are as many as its config says.

    Args:
        folder: has the weights.
        config: of the component.
        quick: as for `announce_loading`.

    Raises:
        ModelError: weights that are missing, broken, or too few for the config.
    """
    files = weights_files(folder)
    announce_loading(folder.name, files, quick)
    tensors = read_weights(files)
    source = str(files[0] if len(files) == 1 else folder)
    require_plausible_config(config, [tensor.shape for tensor in tensors.values()], source)
    return ComponentWeights(tensors, files, source)


def _current_name(name: str) -> str:
    # Diffusers renamed the layers of attentions in 0.12; checkpoints such as google/ddpm-cifar10-32 were never resaved.
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    old = re.fullmatch(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", name)
    return old[1] + renamed[old[2]] + old[3] if old else name


def missing_weights(folder: Path) -> ModelError:
    """Return the error for a component without weights, or with those of other programs only."""
    for file in sorted(folder.glob("*")):
        if program := program_of(file):
            return ModelError(
                f"{folder.name}: there are only weights of {program} ({file.name:.60}). Download those of PyTorch, in "
                "safetensors."
            )
    return ModelError(f"{folder / WEIGHTS}: there is no such file. Download the checkpoint again.")


def import_diffusers(purpose: str) -> Any:
    """Return the diffusers library, with transformers imported too.

    Args:
        purpose: what they are needed for, as the subject of a sentence, as in "Running a UNet2DConditionModel".

    Raises:
        MissingExtraError: one of them is not installed.
    """
    if "diffusers" not in sys.modules:
        announce("importing diffusers")
    # Diffusers first: it imports from transformers what it finds there.
    library = import_extra("diffusers", "diffusers", purpose)
    for module in (library, import_extra("transformers", "diffusers", purpose)):
        module.utils.logging.disable_progress_bar()
    return library


def find_class(library: Any, name: str) -> Any:
    """Return a class of diffusers or transformers.

    Raises:
        ModelError: the library is older than the class.
    """
    kind = getattr(library, name, None)
    if kind is None:
        title, version = library.__name__, library.__version__
        raise ModelError(f"{title} {version} has no {name} yet. Install a newer one: pip install --upgrade {title}.")
    return kind


def from_pretrained(kind: Any, folder: Path, **options: Any) -> Any:
    """Return `kind.from_pretrained` of a folder on disk, read without the network; of pickles only on request.

    Raises:
        ModelError: the folder does not hold what it should.
    """
    with explain_errors(f"{folder.name}: cannot load a {kind.__name__}"), quiet_libraries():
        return kind.from_pretrained(folder, **{"local_files_only": True, "use_safetensors": True, **options})


def load_pretrained_network(
    kind: Any,
    folder: Path,
    dtype: torch.dtype | None = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Any:
    """Return a network of diffusers on the CPU with all of its weights from the folder, in eval mode.

    Tensors are read, cast and laid out one by one, so memory holds the network once, in its dtype, and little more.
    Those of safetensors that need neither stay in their file, which is mapped into memory.

    Args:
        kind: the class of the network.
        folder: the component's folder; its weights may be in shards.
        dtype: of its weights; None for that of the files, or float32 where these have several.
        memory_format: of the weights of its convolutions.

    Raises:
        ModelError: weights that are missing or broken, that do not fit the config, or pickles that would run code.
    """
    config = read_config(folder / "config.json")
    stored = open_weights(folder, config)
    with (
        explain_errors(f"{folder.name}: cannot build a {kind.__name__} from config.json"),
        quiet_libraries(),
        without_parameters(),
    ):
        network = kind.from_config(config)
    fill_in_place(network, stored, dtype or stored.dtype, memory_format, folder.name)
    return network


def open_weights(folder: Path, config: Mapping[str, Any]) -> StoredTensors:
    """Return the weights of a component by today's names of diffusers, none of which is read yet.

    Raises:
        ModelError: as `load_pretrained_network`.
    """
    files = weights_files(folder)
    announce_loading(folder.name, files)
    stored = stored_weights(files)
    require_unquantised({name: record.dtype for name, record in stored.records.items()}, str(files[0]))
    require_plausible_config(config, [record.shape for record in stored.records.values()], folder.name)
    return stored


def stored_weights(files: Iterable[Path]) -> StoredTensors:
    """Return the tensors in the weights files of a component, by today's names of diffusers; none is read yet.

    Raises:
        ModelError: a file that is broken, or of another kind.
    """
    stored = StoredTensors(files)
    return stored.renamed({_current_name(name): name for name in stored.records})


def load_pretrained_text_encoder(kind: Any, folder: Path) -> Any:
    """Return a text encoder of transformers on the CPU, with all of its weights from the folder, in eval mode.

    Its weights have the dtype that they have in the files, float32 where these have several.

    Args:
        kind: the class of the network.
        folder: the component's folder; its weights may be in shards.

    Raises:
        ModelError: weights that are missing or broken, or pickles that would run code.
    """
    config = read_config(folder / "config.json")
    stored = open_weights(folder, config)
    if stored.is_fp8:
        return fill_pretrained_network(kind, config, stored, folder.name)
    weights = find_weights(folder)
    # transformers reads pickles with weights_only, and these have been read so already.
    options: dict[str, Any] = {"use_safetensors": weights.container != "bin"}
    if weights.variant:
        options["variant"] = weights.variant
    # The library draws at random what a file lacks, and only logs it; the loading report lists it.
    network, report = from_pretrained(kind, folder, output_loading_info=True, torch_dtype=stored.dtype, **options)
    require_all(report["missing_keys"], folder.name)
    return network.eval().requires_grad_(False)


def fill_pretrained_network(kind: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> Any:
    """Return a network of transformers on the CPU, with all of its weights from tensors in memory, in eval mode.

    Its weights have the dtype of the tensors, float32 where these have several.

    Args:
        kind: the class of the network.
        config: the entries of its config.
        tensors: by the names of transformers' files.
        name: what to call it in errors.

    Raises:
        ModelError: tensors that are missing, or of other shapes.
    """
    require_plausible_config(config, [tensor.shape for tensor in tensors.values()], name)
    options: dict[str, Any] = {"state_dict": dict(tensors), "torch_dtype": common_dtype(tensors.values())}
    with explain_errors(f"{name}: cannot build a {kind.__name__}"), quiet_libraries():
        options["config"] = kind.config_class(**config)
        network, report = kind.from_pretrained(None, output_loading_info=True, **options)
    require_all(report["missing_keys"], name)
    return network.eval().requires_grad_(False)


@contextmanager
def without_lasting_hooks(*modules: object) -> Iterator[None]:
    """Remove what transformers registers inside the block to read hidden states: local functions cannot be pickled.

    Args:
        *modules: what is no module is left alone.
    """
    # The mark is transformers' own; without it, it registers its hooks again when they are needed.
    mark = "_output_capturing_hooks_installed"
    parts = [part for module in modules if isinstance(module, nn.Module) for part in module.modules()]
    before = [(mark in vars(part), set(part._forward_hooks)) for part in parts]
    try:
        yield
    finally:
        for part, (was_marked, hooks) in zip(parts, before, strict=True):
            if not was_marked:
                vars(part).pop(mark, None)
            for key in set(part._forward_hooks) - hooks:
                del part._forward_hooks[key]


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what diffusers and transformers log and warn of from standard error; what matters is raised as errors."""
    logs = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with ignored_warnings:
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextmanager
def explain_errors(problem: str) -> Iterator[None]:
    """Raise whatever diffusers or transformers raise inside as one `ModelError`.

    Args:
        problem: what went wrong, as the beginning of the message.
    """
    try:
        yield
    except DDIMEditError:
        raise
    except Exception as error:  # the libraries' errors have no common base below Exception
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{problem} ({reason}). Download the checkpoint again.") from error
