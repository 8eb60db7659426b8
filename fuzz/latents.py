"""Any bytes as a latent file: as the whole of it, as its header, or as the JSON in its metadata."""

import json
import sys
import tempfile
from pathlib import Path

import atheris
import torch  # noqa: F401 - before anything is instrumented, which would take minutes for torch

with atheris.instrument_imports(include=["ddim_edit", "json"]):
    from ddim_edit.errors import LatentError
    from ddim_edit.latents.latent import Latent

FILE = Path(tempfile.mkdtemp()) / "a.latent.safetensors"
TENSOR = {"x": {"dtype": "F64", "shape": [1, 1, 1], "data_offsets": [0, 8]}}


def with_header(text: bytes) -> bytes:
    """Write a file of a header and eight bytes of data."""
    return len(text).to_bytes(8, "little") + text + bytes(8)


def with_metadata(text: bytes) -> bytes:
    """Write a complete file with a text in its metadata."""
    return with_header(json.dumps({"__metadata__": {"ddim-edit": text.decode("utf-8", "replace")}, **TENSOR}).encode())


FORMS = (bytes, with_header, with_metadata, with_metadata)


def one(data: bytes) -> None:
    """Read one file."""
    FILE.write_bytes(FORMS[data[0] % len(FORMS)](data[1:]) if data else b"")
    try:
        Latent.load(FILE)
    except LatentError as error:
        str(error)


atheris.Setup(sys.argv, one)
atheris.Fuzz()
