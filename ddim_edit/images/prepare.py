"""Read many images ahead of the network, and prepare whatever users pass as images for it."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from ddim_edit.errors import ArgumentError, ImageError, InputWarning
from ddim_edit.images.crop import Crop
from ddim_edit.images.inputs import Images, LoadableImage, expand_images, is_single
from ddim_edit.images.reading import InputImage, read
from ddim_edit.images.sources import UNNAMED, ImageSource
from ddim_edit.io.prefetch import prefetch_map

Source = TypeVar("Source", bound=ImageSource | InputImage)
Value = TypeVar("Value")

READ_AHEAD = 16
"""Number of images that are prepared before they are needed."""


class PreparedImage(NamedTuple):
    """An image as the network takes it.

    Attributes:
        pixels: float64 [3, H, W] in [-1, 1].
        origin: what a recipe says of where it came from.
        name: to call it by in warnings.
    """

    pixels: Tensor
    origin: dict[str, Any]
    name: str = "an image"

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels, the same for every file of one image and on every machine."""
        return _digest(self.pixels)


def read_all(
    files: Iterable[Source],
    size: int | tuple[int, int],
    crop: Crop | Iterable[Crop] | None = None,
    on_error: Callable[[Source, ImageError], object] | None = None,
    ahead: int = READ_AHEAD,
) -> Iterator[tuple[Source, InputImage | None]]:
    """Yield every file with its image, in order; threads read ahead while the caller works.

    Many files take no more memory than few: `files` may be a generator, and is drawn from only as far as `ahead`.

    Args:
        files: whatever `read` takes; an `InputImage` among them is yielded as it is.
        size: (height, width) in pixels, or the side of a square.
        crop: the part of each image to keep, or one for each file, in order; by default the centre square.
        on_error: called with a file that cannot be read and the error, in the order of the files and in the caller's
            thread. The file is then yielded with None. Without `on_error`, the error is raised.
        ahead: how many images may be read and not yet yielded.

    Raises:
        ImageError: a file cannot be read, and there is no `on_error`.

    Examples:
        >>> from importlib import resources
        >>> from ddim_edit.images import find, read_all
        >>> folder = resources.files("ddim_edit.assets") / "images"
        >>> for file, image in read_all(find([str(folder)])[:2], size=64):
        ...     print(file.name, list(image.pixels.shape))
        astronaut.png [3, 64, 64]
        astronaut_face.png [3, 64, 64]
    """

    def read_one(pair: tuple[Source, Crop | None]) -> InputImage:
        file, own_crop = pair
        return file if isinstance(file, InputImage) else read(file, size, own_crop)

    crops: Iterable[Crop | None] = crop if isinstance(crop, Iterable) else repeat(crop)
    for (file, _), result in prefetch_map(read_one, zip(files, crops, strict=False), ahead):
        try:
            image = result()
        except ImageError as error:
            if on_error is None:
                raise
            on_error(file, error)
            yield file, None
        else:
            yield file, image


def prepare_images(
    images: Images, size: tuple[int, int], crop: Crop, ahead: int = READ_AHEAD
) -> Iterator[PreparedImage]:
    """Yield the images that `images` stand for, in order.

    Args:
        images: whatever `Editor.invert` takes.
        size: (height, width) that the model takes, in pixels.
        crop: the part of an image of another shape to keep; tensors and `InputImage`s must have the model's size.
        ahead: how many images may be ready and not yet yielded.

    Raises:
        ImageError: a file that cannot be used.
        ArgumentError: something that is no image, a tensor or `InputImage` of another size, or an array or tensor whose
            values cannot be those of images.
    """

    def load(item: LoadableImage) -> InputImage | PreparedImage:
        # Hashing a tensor takes as long as reading a file does, and releases Python's lock likewise.
        if isinstance(item, Tensor):
            return _prepare_tensor(item)
        return item if isinstance(item, InputImage) else read(item, size, crop)

    # All names are looked up before the first image is read: a name that leads nowhere should not end a long run.
    expanded = expand_images(images)
    if isinstance(expanded, list):
        for item in expanded:
            if isinstance(item, Tensor):
                _require_size(item, size)
    return _prepare_all(load_images(expanded, load, is_single(images), ahead), size)


def _prepare_all(
    loaded: Iterator[tuple[str, LoadableImage, InputImage | PreparedImage]], size: tuple[int, int]
) -> Iterator[PreparedImage]:
    for label, item, image in loaded:
        if isinstance(image, PreparedImage):
            _require_size(image.pixels, size)
            yield image._replace(name=label)
            continue
        if image.caution and not isinstance(item, InputImage):  # of which whoever read it was told
            warnings.warn(f"{label}: {image.caution}", InputWarning, stacklevel=2)
        yield _prepare(image, size, label)


def load_images(
    expanded: Iterable[LoadableImage], load: Callable[[LoadableImage], Value], single: bool, ahead: int = READ_AHEAD
) -> Iterator[tuple[str, LoadableImage, Value]]:
    """Yield what errors call each image, the image, and what `load` returned for it in a thread.

    Args:
        expanded: from `expand_images`.
        load: called with each of them.
        single: whether there is only one, which has no number in errors.
        ahead: how many may be loaded and not yet yielded.
    """
    for number, (item, result) in enumerate(prefetch_map(load, expanded, ahead), 1):
        unnamed = UNNAMED if single else f"image {number}"
        try:
            loaded = result()
        except ImageError as error:
            if str(error).startswith(f"{UNNAMED}:"):
                raise ImageError(f"{unnamed}{str(error).removeprefix(UNNAMED)}") from error
            raise
        name = str(item) if isinstance(item, Path) else getattr(item, "name", None)
        yield name or unnamed, item, loaded


def _prepare(image: InputImage, size: tuple[int, int], label: str) -> PreparedImage:
    _require_size(image.pixels, size)
    name = image.name or label
    if not image.pixels.isfinite().all():
        raise ArgumentError(f"Images must be finite, but {name} has NaN or infinite values. Leave it out.")
    origin = {"source": image.source, "preprocessing": image.preprocessing}
    return PreparedImage(image.tensor.double(), origin, name)


def _prepare_tensor(x: Tensor) -> PreparedImage:
    x = x.detach().cpu().double().contiguous()
    if not x.isfinite().all():
        raise ArgumentError("Images must be finite, but this tensor has NaN or infinite values. Leave that image out.")
    return PreparedImage(x, {"source": _digest(x), "preprocessing": None})


def _digest(pixels: Tensor) -> str:
    # As little-endian float64, so that equal images have equal digests on every machine.
    return hashlib.sha256(pixels.numpy().astype("<f8", copy=False).tobytes()).hexdigest()


def _require_size(x: Tensor, size: tuple[int, int]) -> None:
    if tuple(x.shape) != (3, *size):
        wanted = f"[3, {size[0]}, {size[1]}]"
        raise ArgumentError(f"Images must have shape {wanted}, not {list(x.shape)}. Resize them, or pass files.")
