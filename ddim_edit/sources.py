"""What users hand in as pictures, files or tensors alike, with a fingerprint of each."""

import hashlib
from collections.abc import Sequence
from itertools import chain
from os import PathLike
from typing import Any, NamedTuple

from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.images import Crop, Picture, find, read

Item = str | PathLike[str] | Picture
Images = Item | Tensor | Sequence[Item]


class Source(NamedTuple):
    """One picture as the network will see it, float64 [3, H, W] in [-1, 1], and what a recipe says of it."""

    pixels: Tensor
    origin: dict[str, Any]


def sources(images: Images, size: tuple[int, int], crop: Crop) -> list[Source]:
    """The pictures of files, folders, `Picture`s or a tensor [B, 3, H, W] or [3, H, W], in order.

    Args:
        images: one of these, or a sequence of all but tensors.
        size: (H, W) that the model takes.
        crop: what to keep of a file of another shape.

    Raises:
        ImageError: a file that cannot be used; ArgumentError: a tensor or `Picture` of another size, or whole numbers.
    """
    if isinstance(images, Tensor):
        return [_of_tensor(x, size) for x in (images if images.ndim == 4 else images[None])]
    items = [images] if isinstance(images, str | PathLike | Picture) else images
    pictures = chain.from_iterable(_pictures(item, size, crop) for item in items)
    return [_of_picture(picture, size) for picture in pictures]


def _pictures(item: Item, size: tuple[int, int], crop: Crop) -> list[Picture]:
    return [item] if isinstance(item, Picture) else [read(path, size, crop) for path in find([item])]


def _of_picture(picture: Picture, size: tuple[int, int]) -> Source:
    _require(picture.pixels, size)
    origin = {"source": picture.source, "preprocessing": picture.preprocessing}
    return Source(picture.tensor.double(), origin)


def _of_tensor(x: Tensor, size: tuple[int, int]) -> Source:
    _require(x, size)
    if not x.is_floating_point():
        raise ArgumentError("floats in [-1, 1]", f"{x.dtype}", "convert them with `images.to_float`")
    x = x.detach().cpu().double().contiguous()
    digest = hashlib.sha256(x.numpy().astype("<f8").tobytes()).hexdigest()
    return Source(x, {"source": digest, "preprocessing": None})


def _require(x: Tensor, size: tuple[int, int]) -> None:
    if tuple(x.shape) != (3, *size):
        wanted = f"pictures of shape [3, {size[0]}, {size[1]}]"
        raise ArgumentError(wanted, f"shape {list(x.shape)}", "resize them, or hand in files")
