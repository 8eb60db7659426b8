"""The folder that a training writes."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ddim_edit.errors import ArgumentError
from ddim_edit.training.checkpoint import Checkpoint
from ddim_edit.training.export import CHECKPOINT


@dataclass(frozen=True)
class Place:
    """A folder that is free for a training, or holds one; two trainings at once would not see each other there.

    Raises:
        ArgumentError: a folder of something else, or a file.
    """

    folder: Path

    def __post_init__(self) -> None:
        empty = not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir()))
        if not empty and not self.checkpoint.is_file():
            wanted = "a new folder, or one that a training was written to"
            raise ArgumentError(wanted, f"{self.folder}, which holds something else", "write to another one")

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint is kept."""
        return self.folder / CHECKPOINT

    def kept(self) -> Checkpoint | None:
        """The checkpoint, or None where there is none; errors as `Checkpoint.load`."""
        return Checkpoint.load(self.checkpoint) if self.checkpoint.is_file() else None

    def sweep(self, *patterns: str) -> None:
        """Remove what killed processes left, and files of our own by further patterns."""
        for pattern in (".ddim-edit-*", "training/.ddim-edit-*", *patterns):
            for each in self.folder.glob(pattern):
                shutil.rmtree(each) if each.is_dir() else each.unlink()
