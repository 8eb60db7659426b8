"""Any bytes as the file of --config, in front of a command that does little."""

import io
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import atheris
import click

with atheris.instrument_imports(include=["ddim_edit.cli.config", "tomllib"]):
    from ddim_edit.cli.main import commands

FILE = Path(tempfile.mkdtemp()) / "run.toml"
STARTS = (b"", b"[invert]\n", b"[default]\n", b"[edit]\n", b"steps = ", b"[invert]\nsize = ", b"[interpolate]\ngrid = ")


def one(data: bytes) -> None:
    """Read one file."""
    FILE.write_bytes(STARTS[data[0] % len(STARTS)] + data[1:] if data else b"")
    try:
        with redirect_stdout(io.StringIO()):
            commands.main(["--config", str(FILE), "models"], "ddim-edit", standalone_mode=False)
    except click.UsageError as error:
        error.format_message()


atheris.Setup(sys.argv, one)
atheris.Fuzz()
