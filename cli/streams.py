"""What `-` stands for: standard input and output, kept in temporary files while a command runs."""

import sys
import tempfile
from functools import cached_property
from pathlib import Path

import click

from ddim_edit.errors import ArgumentError

STANDARD = Path("-")
"""Standard input among the inputs, and standard output as the output."""
LARGEST_INPUT = 1 << 30
"""Bytes that are read from standard input; whatever is longer has no end."""


def write_bytes(content: bytes) -> None:
    """Write to standard output."""
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


class StandardStreams:
    """The temporary files of one run, which are removed at its end."""

    def __init__(self) -> None:
        self.input: Path | None = None
        self.output: Path | None = None

    @cached_property
    def folder(self) -> Path:
        """A folder of this run."""
        # Known to click, so that it is removed however the command ends.
        made = tempfile.TemporaryDirectory(prefix="ddim-edit-")
        click.get_current_context().call_on_close(made.cleanup)
        return Path(made.name)

    def read(self) -> Path:
        """Return a file of what standard input holds.

        Raises:
            UsageError: it was read before.
            ArgumentError: it is empty, or has no end.
        """
        if self.input is not None:
            raise click.UsageError("Standard input, -, can be given once.")
        self.input = self.folder / "stdin"
        with self.input.open("wb") as file:
            while piece := sys.stdin.buffer.read(1 << 20):
                file.write(piece)
                if file.tell() > LARGEST_INPUT:
                    raise ArgumentError(f"Standard input has more than {LARGEST_INPUT:,} bytes. Give a file instead.")
        if not self.input.stat().st_size:
            raise ArgumentError("Standard input is empty. Redirect a file to it, as in `ddim-edit invert - < a.png`.")
        return self.input

    def target(self, suffix: str) -> Path:
        """Return the file that is copied to standard output once it is written."""
        self.output = self.folder / f"stdout{suffix}"
        return self.output

    def name_of(self, path: object) -> object:
        """Return what a path is called in messages: `-` for the file of standard input."""
        return STANDARD if self.input is not None and path == self.input else path

    def copy_out(self) -> None:
        """Write the output to standard output."""
        assert self.output is not None
        sys.stdout.flush()
        with self.output.open("rb") as file:
            write_bytes(file.read())
