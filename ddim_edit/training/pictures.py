"""The pictures to learn from: read once, kept as bytes, and divided into those that teach and those that measure."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddim_edit.diffusion.noise import derive_seed
from ddim_edit.errors import ImageError
from ddim_edit.images import find, read_all

FEWEST = 2
"""Pictures that a training needs: one to learn from and one to measure on."""
_READ_AHEAD = 64


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Pictures of one size in memory, 3 bytes a pixel; of a file that was changed since nothing is noticed.

    Attributes:
        pixels: uint8 [N, 3, size, size].
        sources: SHA-256 of every file, in hexadecimal.
        failures: why files could not be read, by name.
    """

    pixels: Tensor
    sources: tuple[str, ...]
    failures: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, size: int) -> "ImageFolder":
        """Those of a folder, as `images.read` makes them; files that are no pictures are listed and left out.

        Raises:
            ImageError: no such folder, or no picture in it by its name.
        """
        failures: dict[str, str] = {}

        def note_failure(file: Path, error: ImageError) -> None:
            failures[file.name] = str(error).removeprefix(f"{file}: ")

        found = read_all(find([folder]), size, on_error=note_failure, ahead=_READ_AHEAD)
        good = [picture for _, picture in found if picture is not None]
        pixels = [picture.pixels for picture in good] or [torch.empty(0, dtype=torch.uint8)]
        return cls(torch.stack(pixels), tuple(picture.source for picture in good), failures)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the files' own, in their order."""
        return hashlib.sha256("".join(self.sources).encode()).hexdigest()

    def split(self, share: float, seed: int) -> "Split":
        """Divided at random by the content of files, so that a copy is never on the other side; both have some.

        Raises:
            ImageError: fewer than two different pictures.
        """
        different = sorted(set(self.sources), key=lambda source: derive_seed(seed, f"held out {source}"))
        _require_enough(len(different))
        measuring = set(different[: min(math.ceil(share * len(different)), len(different) - 1)])
        return Split(self._only(False, measuring), self._only(True, measuring))

    def _only(self, inside: bool, sources: set[str]) -> "ImageFolder":
        rows = [row for row, source in enumerate(self.sources) if (source in sources) == inside]
        return ImageFolder(self.pixels[rows], tuple(self.sources[row] for row in rows), self.failures)


@dataclass(frozen=True, eq=False)
class Split:
    """Pictures that teach and pictures that measure."""

    teaching: ImageFolder
    measuring: ImageFolder

    @classmethod
    def read(cls, folder: Path, held_out: float | Path, size: int, seed: int) -> "Split":
        """A folder's pictures divided, or a folder and another one; errors as `ImageFolder.read`.

        Raises:
            ImageError: fewer than two usable pictures, or a side with none.
        """
        found = ImageFolder.read(folder, size)
        if not isinstance(held_out, Path):
            return found.split(held_out, seed)
        split = cls(found, ImageFolder.read(held_out, size))
        _require_enough(len(split.teaching) if split.measuring else 0)
        return split

    @property
    def failures(self) -> Mapping[str, str]:
        """Why files of either side could not be read, by name."""
        return {**self.teaching.failures, **self.measuring.failures}

    def facts(self) -> dict[str, object]:
        """What is to be remembered of the pictures."""
        sides = {"pictures": self.teaching, "held_out": self.measuring}
        return {name: {"count": len(side), "sha256": side.fingerprint} for name, side in sides.items()}


def _require_enough(count: int) -> None:
    if count < FEWEST:
        wanted = f"a folder with at least {FEWEST} different pictures that can be read, and one to measure on"
        raise ImageError(wanted, f"{count} of them", "add pictures")
