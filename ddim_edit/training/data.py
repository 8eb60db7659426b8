"""Training images, kept in memory, and the batches that are made of them."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_edit.diffusion.noise import derive_seed
from ddim_edit.errors import ImageError
from ddim_edit.images import find, read_all, to_float

_READ_AHEAD = 64


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images of one size in memory, 3 bytes a pixel; later changes of the files are not noticed.

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
        """Return the images of a folder, as `images.read` makes them; files that cannot be read are left out.

        Raises:
            ImageError: no such folder, or no file in it that is an image by its name.
        """
        failures: dict[str, str] = {}

        def note_failure(file: Path, error: ImageError) -> None:
            failures[file.name] = str(error).removeprefix(f"{file}: ")

        found = read_all(find([folder]), size, on_error=note_failure, ahead=_READ_AHEAD)
        images = [image for _, image in found if image is not None]
        pixels = [image.pixels for image in images] or [torch.empty(0, dtype=torch.uint8)]
        return cls(torch.stack(pixels), tuple(image.source for image in images), failures)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over those of the files, in their order."""
        return hashlib.sha256("".join(self.sources).encode()).hexdigest()

    def split(self, share: float, seed: int) -> "Split":
        """Return a random split with about this share for validation, and at least one image on both sides.

        Raises:
            ImageError: fewer than two different images.
        """
        # By content, so that copies of a file are always on the same side, however they are called.
        different = sorted(set(self.sources), key=lambda source: derive_seed(seed, f"held out {source}"))
        if len(different) < 2:
            raise _too_few(len(different))
        held_out = set(different[: min(math.ceil(share * len(different)), len(different) - 1)])
        return Split(self._select(held_out, inside=False), self._select(held_out, inside=True))

    def _select(self, sources: set[str], inside: bool) -> "ImageFolder":
        rows = [row for row, source in enumerate(self.sources) if (source in sources) == inside]
        return ImageFolder(self.pixels[rows], tuple(self.sources[row] for row in rows), self.failures)


@dataclass(frozen=True, eq=False)
class Split:
    """Images for training and for validation."""

    train: ImageFolder
    validation: ImageFolder

    @classmethod
    def read(cls, folder: Path, held_out: float | Path, size: int, seed: int) -> "Split":
        """Return the images of a folder, split, or those of a folder and of another one for validation.

        Raises:
            ImageError: fewer than two usable images, a side with none, or as `ImageFolder.read`.
        """
        found = ImageFolder.read(folder, size)
        if not isinstance(held_out, Path):
            return found.split(held_out, seed)
        split = cls(found, ImageFolder.read(held_out, size))
        if len(split.train) < 2 or not split.validation:
            raise _too_few(len(split.train) if split.validation else 0)
        return split

    @property
    def failures(self) -> Mapping[str, str]:
        """Why files of either side could not be read, by name."""
        return {**self.train.failures, **self.validation.failures}

    def record(self) -> dict[str, object]:
        """Return what checkpoints record of the images, as JSON types."""
        sides = {"pictures": self.train, "held_out": self.validation}
        return {name: {"count": len(side), "sha256": side.fingerprint} for name, side in sides.items()}


def _too_few(count: int) -> ImageError:
    return ImageError(
        "A training needs at least 2 different images that can be read, and one for validation, but there are "
        f"{count}. Add images."
    )


class Batch(NamedTuple):
    """What a network is trained on in one step.

    Attributes:
        x0: clean images [B, 3, H, W] in [-1, 1].
        noise: standard normal noise of that shape.
        indices: timesteps t - 1 in 0..T-1, [B].
    """

    x0: Tensor
    noise: Tensor
    indices: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; pinned memory is copied while the device goes on computing."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pinned(self) -> "Batch":
        """Return the batch in pinned memory, which a CUDA device copies from by itself."""
        return Batch(*(tensor.pin_memory() for tensor in self))


@dataclass(frozen=True)
class BatchShare:
    """The share of every batch that one of several processes computes, in parts.

    Args:
        rank: which process.
        processes: how many there are.
        accumulate: parts of a share.
    """

    rank: int = 0
    processes: int = 1
    accumulate: int = 1

    def rows(self, batch_size: int, part: int) -> range:
        """Return the rows of a batch in one part of this share."""
        each = batch_size // (self.processes * self.accumulate)
        start = (part * self.processes + self.rank) * each
        return range(start, start + each)


@dataclass(frozen=True, eq=False)
class BatchSampler:
    """Endless batches: every image once an epoch, each time with its own noise and time.

    A batch is a function of seed and step alone, so that a checkpoint need not store the state of any generator.

    Args:
        images: to train on.
        batch_size: rows of a whole step.
        flip: whether half of the images are mirrored.
        T: levels of noise, all equally likely.
        seed: of order, mirroring, times and noise.
    """

    images: ImageFolder
    batch_size: int
    flip: bool
    T: int
    seed: int

    def __call__(self, step: int, rows: range) -> Batch:
        """Return some rows of a step's batch, steps from 1 on; a row does not depend on the others."""
        start = (step - 1) * self.batch_size
        parts = [self._row(start + row) for row in rows]
        x0, noise, indices = (torch.stack(column) for column in zip(*parts, strict=True))
        return Batch(x0, noise, indices)

    def _row(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        epoch, place = divmod(position, len(self.images))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, f"row {position}"))
        x0 = to_float(self.images.pixels[self._order(epoch)[place]])
        index = torch.randint(self.T, (), generator=generator)
        # Always drawn, so that the noise is the same with and without mirroring.
        coin = torch.rand((), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        if self.flip and coin < 0.5:
            x0 = x0.flip(-1)
        return x0, noise, index

    # Two orders, because a batch may reach into the next epoch.
    @lru_cache(maxsize=2)  # noqa: B019 - as long-lived as the training
    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, f"epoch {epoch}"))
        rows: list[int] = torch.randperm(len(self.images), generator=generator).tolist()
        return rows
