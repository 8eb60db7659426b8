"""Diffusers and transformers, loaded when a checkpoint needs them and not before: both take seconds to import."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ddim_edit.errors import DDIMEditError, ModelError
from ddim_edit.models.component import HALF, WEIGHTS, read_json, what_stands_for
from ddim_edit.models.weights import require_room

INSTALL = "pip install 'ddim-edit[diffusers]'"


def diffusers(needed_for: str) -> Any:
    """The library.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import diffusers as library
        import transformers
    except ImportError as error:
        wanted = f"diffusers and transformers, to run {needed_for}"
        raise ModelError(wanted, f"an installation without ({error.name})", INSTALL) from error
    for each in (library, transformers):
        each.utils.logging.disable_progress_bar()
    return library


def pretrained(kind: Any, folder: Path, **options: Any) -> Any:
    """`kind.from_pretrained` of a folder on disk; reads no pickles and asks nobody.

    Raises:
        ModelError: the folder does not hold what it should.
    """
    with explained(f"a {kind.__name__} in {folder.name}"), _silent():
        return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **options)


def load_network(kind: Any, folder: Path) -> Any:
    """A network of either library in a component's folder, on the CPU in float32; none of its weights is made up.

    Raises:
        ModelError: weights that are missing, pickles or broken.
    """
    if not any(folder.glob("*.safetensors")):
        given, remedy = what_stands_for(folder / WEIGHTS)
        raise ModelError(f"safetensors in {folder.name}", given, remedy)
    require_room(read_json(folder / "config.json"), list(_shapes(kind, folder)), folder.name)
    halved = all(HALF in file.suffixes[0] for file in folder.glob("*.safetensors"))
    variant = {"variant": HALF} if halved else {}
    # The libraries would draw at random what a file lacks, and say so in a log alone.
    found, report = pretrained(kind, folder, output_loading_info=True, **variant)
    if missing := sorted(report["missing_keys"]):
        wanted = f"in {folder.name} the tensors that its config describes"
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ModelError(wanted, f"no {missing[0]}{more}", "take both from one checkpoint")
    return found.float().eval().requires_grad_(False)


def _shapes(kind: Any, folder: Path) -> Iterator[tuple[int, ...]]:
    """Of all tensors in a component's folder, from the headers of its files."""
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                yield from (tuple(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            wanted = f"a {kind.__name__} in {folder.name}"
            raise ModelError(wanted, f"the broken file {path.name} ({error})", "fetch the checkpoint again") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps the libraries' logs quiet: what matters of them is raised."""
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
def explained(wanted: str) -> Iterator[None]:
    """Whatever the libraries raise inside, as one sentence.

    Raises:
        ModelError: that.
    """
    try:
        yield
    except DDIMEditError:
        raise
    except Exception as error:  # the libraries' errors have no common base below Exception
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(wanted, f"something else ({reason})", "fetch the checkpoint again") from error
