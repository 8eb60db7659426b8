"""Latents of other programs that are not imported."""

import pickle
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from .. import tiny
from .kit import Kit, Line, Make
from .spoiling import BYTES, TENSORS, share


def npy(array: Any) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_of(header: bytes) -> bytes:
    """A .npy file of a header of its own, and a few zeros."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)


def foreign(name: str, content: Callable[[], bytes]) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        (folder / name).write_bytes(content())
        return ["import", folder / name, "-o", folder / "out", "--model", kit.model]

    return make


GOOD_NPY = npy(np.ones((3, tiny.SIZE, tiny.SIZE)))
NPY: Mapping[str, Callable[[], bytes]] = {
    **{name: lambda spoil=spoil: spoil(GOOD_NPY) for name, spoil in share(BYTES, 1, 3).items()},
    "flat": lambda: npy(np.ones(768)),
    "of another size": lambda: npy(np.ones((3, 8, 8))),
    "of whole numbers": lambda: npy(np.ones((3, 16, 16), int)),
    "complex": lambda: npy(np.ones((3, 16, 16), complex)),
    "of nan": lambda: npy(np.full((3, 16, 16), np.nan)),
    "of infinity": lambda: npy(np.full((3, 16, 16), np.inf)),
    "of texts": lambda: npy(np.full((3, 16, 16), "a")),
    "of none": lambda: npy(np.ones((0, 3, 16, 16))),
    "of a terabyte": lambda: npy_of(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 3, 16, 16), }\n"),
    "of more than 64 bits": lambda: npy_of(
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + b"9" * 40 + b", 3, 16, 16), }\n"
    ),
    "of a negative shape": lambda: npy_of(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3, 16, 16), }\n"),
    "with a header that calls": lambda: npy_of(b"__import__('os').system('touch trace')\n"),
    "with a deep header": lambda: npy_of(b"(" * 9_000 + b")" * 9_000 + b"\n"),
    "of objects": lambda: (
        npy_of(b"{'descr': '|O', 'fortran_order': False, 'shape': (3, 16, 16), }\n") + pickle.dumps(0)
    ),
    "of version 9": lambda: b"\x93NUMPY\x09\x00" + GOOD_NPY[8:],
}
COMFY: Mapping[str, Callable[[], bytes]] = {
    **{
        name: lambda spoil=spoil: spoil(save({"latent_tensor": torch.ones(1, 3, 16, 16)}))
        for name, spoil in share(TENSORS, 3, 6).items()
    },
    "under another name": lambda: save({"samples": torch.ones(1, 3, 16, 16)}),
    "of another model": lambda: save({"latent_tensor": torch.ones(1, 4, 16, 16)}),
    "of flags": lambda: save({"latent_tensor": torch.ones(1, 3, 16, 16) > 0}),
}


def foreign_cases() -> Iterator[tuple[str, Make]]:
    for name, content in NPY.items():
        yield f"npy {name}", foreign("a.npy", content)
    for name, content in COMFY.items():
        yield f"comfy {name}", foreign("a.latent", content)
