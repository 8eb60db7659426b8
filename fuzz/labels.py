"""Any bytes as a CSV of labels, with any column and conditions."""

import sys
import tempfile
from pathlib import Path

import atheris
import torch  # noqa: F401 - before anything is instrumented, which would take minutes for torch

with atheris.instrument_imports(
    include=["ddim_edit.directions.labels", "ddim_edit.directions.label_tables", "ddim_edit.errors"]
):
    from ddim_edit.directions.labels import read_csv, read_names
    from ddim_edit.errors import DDIMEditError

FOLDER = Path(tempfile.mkdtemp())
(FOLDER / "a.png").touch()
CONDITIONS = (">=1", "1..2", "<3", "yes", "=>")


def one(data: bytes) -> None:
    """Read one file, once for its names and once for files that are there."""
    source = atheris.FuzzedDataProvider(data)
    column = source.PickValueInList(["age", "file", source.ConsumeUnicodeNoSurrogates(4)])
    positive = source.PickValueInList([None, *CONDITIONS, source.ConsumeUnicodeNoSurrogates(8)])
    negative = source.PickValueInList([None, *CONDITIONS])
    file = FOLDER / "labels.csv"
    file.write_bytes(source.PickValueInList([b"file,age\n", b"age,file\r\n", b""]) + source.ConsumeBytes(1 << 16))
    for read in (read_names, lambda *how: read_csv(*how[:2], FOLDER, *how[2:])):
        try:
            read(file, column, positive, negative)
        except DDIMEditError as error:
            str(error)


atheris.Setup(sys.argv, one)
atheris.Fuzz()
