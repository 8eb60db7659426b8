"""Components of diffusers folders: their files, their weights, and loading them with diffusers or transformers.

Both libraries take seconds to import, so they are imported when a checkpoint needs them and not before. Of a folder
only JSON and safetensors are read: pickles can run code.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ddim_edit.errors import DDIMEditError, ModelError
from ddim_edit.io import schema
from ddim_edit.io.extras import import_extra
from ddim_edit.models.weights import require_plausible_config

WEIGHTS = "diffusion_pytorch_model.safetensors"
FP16 = "fp16"
"""What the float16 variant of a checkpoint has in the names of its files."""
_SAFE_SAVE = "save_pretrained(folder, safe_serialization=True)"


def component_folder(folder: Path, name: str) -> Path:
    """Return a component's folder; old checkpoints such as google/ddpm-* keep all components in one."""
    return folder / name if (folder / name).is_dir() else folder


def read_config(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a checkpoint.

    Raises:
        ModelError: it is missing, or holds something else.
    """
    return schema.read_json(path, ModelError, "Name a diffusers folder, or download the checkpoint again.")


def weights_file(folder: Path) -> Path:
    """Return the weights file of a network of diffusers: full precision, or float16 where there is no other."""
    half = folder / WEIGHTS.replace(".", f".{FP16}.", 1)
    return half if half.is_file() and not (folder / WEIGHTS).is_file() else folder / WEIGHTS


def weights_files(folder: Path) -> list[Path]:
    """Return all files that the weights of a component are in: one, or its shards."""
    whole = weights_file(folder)
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def fingerprint(files: Iterable[Path]) -> str:
    """Return the SHA-256 of one file, or that of the digests of several in the order of their names."""
    digests = []
    for file in sorted(files):
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a component's only weights file, by today's names of diffusers.

    Raises:
        ModelError: the file is missing, broken, sharded or a pickle.
    """
    if not path.is_file():
        raise missing_weights(path)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: the file is broken ({error}). Download it again.") from error
    return {_current_name(name): tensor for name, tensor in weights.items()}


def _current_name(name: str) -> str:
    # Diffusers renamed the layers of attentions in 0.12; checkpoints such as google/ddpm-cifar10-32 were never resaved.
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    old = re.fullmatch(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", name)
    return old[1] + renamed[old[2]] + old[3] if old else name


def missing_weights(path: Path) -> ModelError:
    """Return the error for weights that are not where they should be; it tells shards and pickles apart."""
    if path.with_name(path.name + ".index.json").exists():
        return ModelError(
            f"{path}: the checkpoint is sharded. Load it in diffusers and save it as one file with "
            f"{_SAFE_SAVE[:-1]}, max_shard_size='100GB')."
        )
    if pickles := sorted(file.name for file in path.parent.glob("*.bin")):
        return ModelError(
            f"{path.parent.name}: there is only the pickle {pickles[0]}, which can run code. Load it where you trust "
            f"it and save it with {_SAFE_SAVE}."
        )
    return ModelError(f"{path}: there is no such file. Download the checkpoint again.")


def import_diffusers(purpose: str) -> Any:
    """Return the diffusers library, with transformers imported too.

    Args:
        purpose: what they are needed for, as the subject of a sentence, as in "Running a UNet2DConditionModel".

    Raises:
        MissingExtraError: one of them is not installed.
    """
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
    with explain_errors(f"{folder.name}: cannot load a {kind.__name__}"), _quiet():
        return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **options)


def load_pretrained_network(kind: Any, folder: Path) -> Any:
    """Return a network of diffusers or transformers on the CPU in float32, with all of its weights from the folder.

    Args:
        kind: the class of the network.
        folder: the component's folder; its weights may be in shards.

    Raises:
        ModelError: weights that are missing, pickled or broken.
    """
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise missing_weights(folder / WEIGHTS)
    shapes: list[tuple[int, ...]] = []
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                shapes += [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            problem = f"{folder.name}: cannot load a {kind.__name__}: {path.name} is broken ({error})"
            raise ModelError(f"{problem}. Download the checkpoint again.") from error
    require_plausible_config(read_config(folder / "config.json"), shapes, folder.name)
    variant = {"variant": FP16} if all(FP16 in file.suffixes[0] for file in files) else {}
    # The libraries draw at random what a file lacks, and say so in a log alone; the loading report tells.
    network, report = from_pretrained(kind, folder, output_loading_info=True, **variant)
    if missing := sorted(report["missing_keys"]):
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ModelError(
            f"{folder.name}: the weights do not fit the config: {missing[0]}{others} missing. "
            "Take both from one checkpoint."
        )
    return network.float().eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    # What matters of the libraries' logs is raised as an error.
    logs = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
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
