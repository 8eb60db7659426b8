"""Read many images ahead of the network, and prepare whatever users pass as images for it."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from ddim_edit.errors import ArgumentError, ImageError, InputWarning
from ddim_edit.images.crop import Crop
from ddim_edit.images.finding import find
from ddim_edit.images.ranges import require_image_range
from ddim_edit.images.reading import InputImage, read
from ddim_edit.io.prefetch import prefetch_map

ImageItem = str | PathLike[str] | InputImage
Images = ImageItem | Tensor | Sequence[ImageItem]
Source = TypeVar("Source", bound=ImageItem)

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
        files: image files; an `InputImage` among them is yielded as it is.
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


def expand_images(images: ImageItem | Iterable[ImageItem]) -> list[Path | InputImage]:
    """Return the files and `InputImage`s that `images` stand for, folders replaced by the images in them.

    Raises:
        ImageError: a path that does not exist, or a folder without images.
    """
    items = [images] if isinstance(images, str | PathLike | InputImage) else images
    expanded: list[Path | InputImage] = []
    for item in items:
        expanded += [item] if isinstance(item, InputImage) else find([item])
    return expanded


def prepare_images(
    images: Images, size: tuple[int, int], crop: Crop, ahead: int = READ_AHEAD
) -> Iterator[PreparedImage]:
    """Yield the images of files, folders, `InputImage`s or a tensor [B, 3, H, W] or [3, H, W], in order.

    Args:
        images: one of these, or a sequence of all but tensors.
        size: (height, width) that the model takes, in pixels.
        crop: the part of a file of another shape to keep.
        ahead: how many images may be ready and not yet yielded.

    Raises:
        ImageError: a file that cannot be used.
        ArgumentError: a tensor or `InputImage` of another size, or a tensor that cannot be of images in [-1, 1].
    """
    if isinstance(images, Tensor):
        batch = images if images.ndim == 4 else images[None]
        for x in batch:
            _require_size(x, size)
        require_image_range(batch)
        # Hashing takes as long as reading a file does, and releases Python's lock likewise.
        return (prepared() for _, prepared in prefetch_map(_prepare_tensor, batch, ahead))
    # All names are looked up before the first image is read: a name that leads nowhere should not end a long run.
    expanded = expand_images(images)
    return _prepare_all(read_all(expanded, size, crop, ahead=ahead), size)


def _prepare_all(
    read_images: Iterable[tuple[Path | InputImage, InputImage | None]], size: tuple[int, int]
) -> Iterator[PreparedImage]:
    for file, image in read_images:
        if image is None:
            continue
        if image.caution and not isinstance(file, InputImage):  # of which whoever read it was told
            warnings.warn(f"{file}: {image.caution}", InputWarning, stacklevel=2)
        yield _prepare(image, size)


def _prepare(image: InputImage, size: tuple[int, int]) -> PreparedImage:
    _require_size(image.pixels, size)
    if not image.pixels.isfinite().all():
        raise ArgumentError(f"Images must be finite, but {image.name} has NaN or infinite values. Leave it out.")
    return PreparedImage(
        image.tensor.double(), {"source": image.source, "preprocessing": image.preprocessing}, image.name
    )


def _prepare_tensor(x: Tensor) -> PreparedImage:
    x = x.detach().cpu().double().contiguous()
    if not x.isfinite().all():
        raise ArgumentError("Images must be finite, but this tensor has NaN or infinite values. Leave that image out.")
    # Hashed as little-endian float64, so that equal images have equal fingerprints on every machine.
    digest = hashlib.sha256(x.numpy().astype("<f8", copy=False).tobytes()).hexdigest()
    return PreparedImage(x, {"source": digest, "preprocessing": None})


def _require_size(x: Tensor, size: tuple[int, int]) -> None:
    if tuple(x.shape) != (3, *size):
        wanted = f"[3, {size[0]}, {size[1]}]"
        raise ArgumentError(f"Images must have shape {wanted}, not {list(x.shape)}. Resize them, or pass files.")
