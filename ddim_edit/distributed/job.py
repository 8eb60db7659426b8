"""A job of filling a store and its result, as plain data that can be sent to other processes."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.grids import Grid
from ddim_edit.images import CentreSquare, Crop, find
from ddim_edit.models.checkpoint import ModelParts

DEFAULT_CONFIG = InversionConfig()
CENTRE = CentreSquare()


@dataclass(frozen=True)
class FillJob:
    """How images are inverted, and into which store.

    Attributes:
        root: the folder that the images' names are relative to.
        store: the folder of the store.
        model, device, dtype, size, offline, compiled: as for `load_model`.
        batch_size: how many images go through the network at once.
        config: how to invert.
        crop: what to keep of an image whose shape is not the model's.
        parts: as for `load_model`.
        threads: of the network on a CPU, which decide the last bits there; None for as many as the process has.
    """

    root: Path
    store: Path
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    size: tuple[int, int] | None = None
    offline: bool = False
    compiled: bool = False
    batch_size: int = 8
    config: InversionConfig = DEFAULT_CONFIG
    crop: Crop = CENTRE
    threads: int | None = None
    parts: ModelParts = field(default_factory=ModelParts)

    @property
    def settings(self) -> dict[str, Any]:
        """What the bytes of the store depend on, except for the model, as JSON types."""
        grid = self.config.grid
        # A maker is known by its repr. That of a function ends with its process, so that only Karras(5.0) and the like
        # let a later process go on with the store.
        named = {"name": grid.name, "times": list(grid.times)} if isinstance(grid, Grid) else str(grid)
        config = asdict(self.config) | {
            "grid": named,
            "condition": self.config.condition.as_dict(),
        }
        settings = {"batch_size": self.batch_size, "crop": self.crop.as_dict(), "method": config}
        if self.threads is not None:
            settings["threads"] = self.threads
        return settings


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is finished.

    Attributes:
        index: which one.
        rows: latents in it.
        failures: why images are missing, by name.
        unconverged: how many latents did not converge.
    """

    index: int
    rows: int
    failures: Mapping[str, str]
    unconverged: int = 0


Engine: TypeAlias = Callable[[FillJob, Sequence[int]], Iterator[FinishedShard]]
"""Fills the shards of these indices, in any order, and yields each once it is there."""


class ImageListing(NamedTuple):
    """A folder, and the names of images relative to it, each once, with slashes."""

    root: Path
    names: list[str]


def list_images(
    paths: Sequence[str | Path],
    on_error: Callable[[object], AbstractContextManager[object]] = nullcontext,
    recursive: bool = False,
    on_skip: Callable[[Path, str], object] | None = None,
) -> ImageListing:
    """Return the images of files and folders, in order; subfolders are ignored unless `recursive`.

    Names stay the same when the folder is moved. The root is the folder that all paths share, so naming further folders
    can change the names.

    Args:
        paths: files and folders.
        on_error: returns a context for each path, which may suppress its errors.
        recursive: whether to look into subfolders.
        on_skip: as for `images.find`.

    Raises:
        ImageError: as `images.find`.
    """
    folders = []
    files = list[str]()
    for path in paths:
        with on_error(path):
            whole = Path(os.path.abspath(path))  # noqa: PTH100 - pathlib would keep ".." or follow links
            files += map(str, find([whole], recursive, on_skip))
            folders.append(whole if whole.is_dir() else whole.parent)
    root = Path(os.path.commonpath(folders or [Path.cwd()]))
    start = len(root.parts[0]) if root == Path(root.anchor) else len(str(root)) + 1
    return ImageListing(root, list(dict.fromkeys(file[start:].replace(os.sep, "/") for file in files)))
