"""What users hand in as pictures, files or tensors alike, with a fingerprint of each."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.images import Crop, InputImage, find, read
from ddim_edit.io.prefetch import prefetch_map

Item = str | PathLike[str] | InputImage
Images = Item | Tensor | Sequence[Item]


READ_AHEAD = 16
"""Pictures that may lie ready before they are asked for."""


class PreparedImage(NamedTuple):
    """One picture as the network will see it, float64 [3, H, W] in [-1, 1], and what a recipe says of it."""

    pixels: Tensor
    origin: dict[str, Any]


def sources(images: Images, size: tuple[int, int], crop: Crop) -> Iterator[PreparedImage]:
    """Yield the images of files, folders, `InputImage`s or a tensor [B, 3, H, W] or [3, H, W], in order.

    Files are read ahead in threads, a few at a time, so that many take no more memory than few.

    Args:
        images: one of these, or a sequence of all but tensors.
        size: (H, W) that the model takes.
        crop: what to keep of a file of another shape.

    Raises:
        ImageError: a file that cannot be used.
        ArgumentError: a tensor or `InputImage` of another size, or whole numbers.
    """
    if isinstance(images, Tensor):
        return (_of_tensor(x, size) for x in (images if images.ndim == 4 else images[None]))
    items = [images] if isinstance(images, str | PathLike | InputImage) else images
    # All names are looked up before the first picture, since a name that leads nowhere should not end a long walk.
    found = [each for item in items for each in ([item] if isinstance(item, InputImage) else find([item]))]
    read_one = partial(_read, size=size, crop=crop)
    return (_of_picture(picture(), size) for _, picture in prefetch_map(read_one, found, READ_AHEAD))


def _read(item: Path | InputImage, size: tuple[int, int], crop: Crop) -> InputImage:
    return item if isinstance(item, InputImage) else read(item, size, crop)


def _of_picture(picture: InputImage, size: tuple[int, int]) -> PreparedImage:
    _require(picture.pixels, size)
    origin = {"source": picture.source, "preprocessing": picture.preprocessing}
    return PreparedImage(picture.tensor.double(), origin)


def _of_tensor(x: Tensor, size: tuple[int, int]) -> PreparedImage:
    _require(x, size)
    if not x.is_floating_point():
        raise ArgumentError("floats in [-1, 1]", f"{x.dtype}", "convert them with `images.to_float`")
    x = x.detach().cpu().double().contiguous()
    digest = hashlib.sha256(x.numpy().astype("<f8").tobytes()).hexdigest()
    return PreparedImage(x, {"source": digest, "preprocessing": None})


def _require(x: Tensor, size: tuple[int, int]) -> None:
    if tuple(x.shape) != (3, *size):
        wanted = f"pictures of shape [3, {size[0]}, {size[1]}]"
        raise ArgumentError(wanted, f"shape {list(x.shape)}", "resize them, or hand in files")
