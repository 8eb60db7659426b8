"""Where everything is in the folder of a store."""

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ddim_edit.errors import ArgumentError

FORMAT = 1
TEMPORARY = ".ddim-edit-"


def is_store(folder: Path) -> bool:
    """Whether a folder is a store, finished or not; what is in it is not looked at."""
    return Layout(folder).settings.is_file()


class Layout(NamedTuple):
    """The names of all files of a store; most of them need not exist."""

    folder: Path

    @property
    def settings(self) -> Path:
        """What was asked for: how pictures are cut, inverted and gathered; makes the folder a store."""
        return self.folder / "store.json"

    @property
    def model(self) -> Path:
        """What the model turned out to be, once one was loaded."""
        return self.folder / "model.json"

    @property
    def plan(self) -> Path:
        """Which pictures belong to which shard."""
        return self.folder / "pictures.jsonl"

    def shard(self, index: int) -> Path:
        """A finished shard."""
        return self.folder / f"shard-{index:05}.safetensors"

    def parts(self, index: int) -> Path:
        """The folder of a shard that is being made; only who makes it writes there."""
        return self.folder / "parts" / f"shard-{index:05}"

    def batch(self, index: int, number: int) -> Path:
        """One batch of a shard that is being made."""
        return self.parts(index) / f"batch-{number:04}.safetensors"

    @property
    def is_hollow(self) -> bool:
        """Whether nothing was computed yet, so that nothing is lost if it is begun anew."""
        try:
            return not any(self.folder.glob("shard-*.safetensors")) and not any(self.folder.glob("parts/*/batch-*"))
        except FileNotFoundError:  # another process has just finished a shard, and removes its parts
            return False

    def require_usable(self) -> None:
        """Insist that the folder is a store, or that nobody else's files are in it.

        Raises:
            ArgumentError: a folder with other files, or no folder.
        """
        if not self.folder.exists() or is_store(self.folder):
            return
        if not self.folder.is_dir() or any(not path.name.startswith(TEMPORARY) for path in self.folder.iterdir()):
            raise ArgumentError("a store of latents or a free name", f"{self.folder}", "write to another name")

    def sweep(self, age: float) -> None:
        """Remove temporaries of killed runs beside the shards, if they are older than `age` in seconds."""
        for path in self.folder.glob(f"{TEMPORARY}*"):
            with suppress(FileNotFoundError):  # another process has just given it its name
                if time.time() - path.stat().st_mtime >= age:
                    path.unlink()

    def clear(self) -> None:
        """Remove the store, and no file that it did not write; the settings go last, so that it can be cut short.

        Raises:
            ArgumentError: a folder that is no store.
        """
        self.require_usable()
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        for path in (*self.folder.glob("shard-*.safetensors"), self.plan, self.model, self.settings):
            path.unlink(missing_ok=True)
        self.sweep(0)
