"""Components of diffusers folders: their files, their weights, and loading them with diffusers or transformers.

Both libraries take seconds to import, so they are imported when a checkpoint needs them and not before. Of a folder
only JSON and safetensors are read: pickles can run code.
"""

import hashlib
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ddim_edit.errors import DDIMEditError, ModelError
from ddim_edit.io import schema
from ddim_edit.io.digest import digest_file
from ddim_edit.io.extras import import_extra
from ddim_edit.io.ignored_warnings import ignored_warnings
from ddim_edit.models.announcements import announce, announce_loading
from ddim_edit.models.file_kinds import describe_fp8, explain_file
from ddim_edit.models.weights import require_plausible_config

WEIGHTS = "diffusion_pytorch_model.safetensors"
_STEMS = ("diffusion_pytorch_model", "model")
"""How the names of weights files of diffusers and of transformers begin."""
FP16 = "fp16"
"""What the float16 variant of a checkpoint has in the names of its files."""
_SAFE_SAVE = "save_pretrained(folder, safe_serialization=True)"


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


def weights_files(folder: Path) -> list[Path]:
    """Return the files that the weights of a component are in: full precision, or float16 where there is no other.

    They are those that diffusers and transformers read: one file, or the shards that an index names.

    Raises:
        ModelError: there are none, only pickles, or an index of shards that are not there.
    """
    for variant in ("", f".{FP16}"):
        for stem in _STEMS:
            whole = folder / f"{stem}{variant}.safetensors"
            if whole.is_file():
                return [whole]
            index = folder / f"{stem}.safetensors.index{variant}.json"
            if index.is_file():
                return _shards(index)
    raise missing_weights(folder)


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
        try:
            weights |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise unreadable_weights(file, error) from error
        if kind := describe_fp8({str(tensor.dtype) for tensor in weights.values()}):
            raise ModelError(f"{file}: {kind}")
    return {_current_name(name): tensor for name, tensor in weights.items()}


def read_component_weights(folder: Path, config: Mapping[str, Any], quick: bool = False) -> ComponentWeights:
    """Return the weights of a component, which are as many as its config says.

    Args:
        folder: has the weights in safetensors.
        config: of the component.
        quick: as for `announce_loading`.

    Raises:
        ModelError: weights that are missing, pickled, broken, or too few for the config.
    """
    files = weights_files(folder)
    announce_loading(folder.name, files, quick)
    tensors = read_weights(files)
    source = str(files[0] if len(files) == 1 else folder)
    require_plausible_config(config, [tensor.shape for tensor in tensors.values()], source)
    return ComponentWeights(tensors, files, source)


def unreadable_weights(path: Path, error: Exception) -> ModelError:
    """Return the error for a weights file that is not one of safetensors, with what it is instead."""
    if kind := explain_file(path):
        return ModelError(f"{path}: {kind}")
    return ModelError(f"{path}: the file is broken ({error}). Download it again.")


def _current_name(name: str) -> str:
    # Diffusers renamed the layers of attentions in 0.12; checkpoints such as google/ddpm-cifar10-32 were never resaved.
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    old = re.fullmatch(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", name)
    return old[1] + renamed[old[2]] + old[3] if old else name


def missing_weights(folder: Path) -> ModelError:
    """Return the error for a component without weights, or with pickles only."""
    if pickles := sorted(file.name for file in folder.glob("*.bin")):
        return ModelError(
            f"{folder.name}: there is only the pickle {pickles[0]}, which can run code. Load it where you trust "
            f"it and save it with {_SAFE_SAVE}."
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


def from_pretrained(kind: Any, folder: Path, **options: Any) -> Any:
    """Return `kind.from_pretrained` of a folder on disk, read without pickles and without the network.

    Raises:
        ModelError: the folder does not hold what it should.
    """
    with explain_errors(f"{folder.name}: cannot load a {kind.__name__}"), quiet_libraries():
        return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **options)


def load_pretrained_network(kind: Any, folder: Path) -> Any:
    """Return a network of diffusers or transformers on the CPU in float32, with all of its weights from the folder.

    Args:
        kind: the class of the network.
        folder: the component's folder; its weights may be in shards.

    Raises:
        ModelError: weights that are missing, pickled or broken.
    """
    files = weights_files(folder)
    announce_loading(folder.name, files)
    shapes: list[tuple[int, ...]] = []
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                views = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
            shapes += [tuple(view.get_shape()) for view in views]
            if kind_of_file := describe_fp8({view.get_dtype() for view in views}):
                raise ModelError(f"{path}: {kind_of_file}")
        except (OSError, SafetensorError) as error:
            raise unreadable_weights(path, error) from error
    require_plausible_config(read_config(folder / "config.json"), shapes, folder.name)
    variant = {"variant": FP16} if all(f".{FP16}" in file.name for file in files) else {}
    # The libraries draw at random what a file lacks, and only log it; the loading report lists it.
    network, report = from_pretrained(kind, folder, output_loading_info=True, **variant)
    if missing := sorted(report["missing_keys"]):
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ModelError(
            f"{folder.name}: the weights do not fit the config: {missing[0]}{others} missing. "
            "Take both from one checkpoint."
        )
    return network.float().eval().requires_grad_(False)


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
