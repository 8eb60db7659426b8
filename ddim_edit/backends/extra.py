"""Diffusers and transformers, loaded when a checkpoint needs them and not before: both take seconds to import."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddim_edit.errors import DDIMEditError, ModelError

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
    with _explained(f"a {kind.__name__} in {folder.name}"):
        return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **options)


@contextmanager
def _explained(wanted: str) -> Iterator[None]:
    try:
        yield
    except DDIMEditError:
        raise
    except Exception as error:  # the libraries' errors have no common base below Exception
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(wanted, f"something else ({reason})", "fetch the checkpoint again") from error
