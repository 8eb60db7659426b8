"""Recognise what users pass as images: files, their bytes, Pillow images, arrays and tensors, one or many of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import IO, Any, TypeAlias, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.images.arrays import require_image_array
from ddim_edit.images.finding import find
from ddim_edit.images.ranges import require_image_range
from ddim_edit.images.reading import InputImage
from ddim_edit.images.sources import EncodedImage, ImageSource, read_stream

ImageItem: TypeAlias = ImageSource | InputImage | Tensor
"""One image, or the path of a folder, an array [N, H, W, C] or a tensor [B, 3, H, W] of several."""
SeveralImages: TypeAlias = Iterable[ImageItem]
"""Several images, also if there is but one."""
Images: TypeAlias = ImageItem | SeveralImages
"""One image or several, as the methods of `Editor` take them."""
LoadableImage: TypeAlias = Path | EncodedImage | Image.Image | NDArray[Any] | InputImage | Tensor
"""One image, to be read if it is not a tensor [3, H, W] or an `InputImage`."""

NO_IMAGES = "There are no images. Pass at least one."
"""The error of whatever needs images and got none."""
_KINDS = "a path, the bytes of a file, a binary file, a Pillow image, an array, a tensor or an `InputImage`"


_FILES = (str, PathLike)
_IN_MEMORY = (bytes, bytearray, memoryview, EncodedImage, Image.Image, InputImage)


def is_single(images: object) -> bool:
    """Return whether this stands for one image, not for a batch: its result then has no batch dimension either.

    A folder, a list, an array [N, H, W, C] and a tensor [B, 3, H, W] are batches, also where they hold one image.
    """
    if isinstance(images, _FILES):
        return not Path(images).is_dir()
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim < 4
    return isinstance(images, _IN_MEMORY) or _is_open_file(images)


def count_images(images: Images) -> int | None:
    """Return how many images these are, or None where only reading them would tell."""
    if is_single(images):
        return 1
    if isinstance(images, np.ndarray | Tensor):
        return len(images)
    if isinstance(images, _FILES):
        return len(find([images]))
    if isinstance(images, list | tuple) and all(map(is_single, images)):
        return len(images)
    return None


def expand_images(images: Images) -> Iterable[LoadableImage]:
    """Return the single images that `images` stand for: folders and batches are replaced by the images in them.

    What a list or a tuple holds is looked at before it returns, since what cannot be an image should not end a long
    run. Other iterables are drawn from as the result is. Open files are read where they are met, in this thread.

    Raises:
        ArgumentError: something that is no image, or an array or tensor that cannot be of images.
        ImageError: a path that does not exist, a folder without images, or an open file that cannot be read.
    """
    if _is_item(images):
        return _expand_sequence([images], numbered=False)
    if isinstance(images, Mapping | Set) or not isinstance(images, Iterable):
        raise ArgumentError(f"Images must be given as {_KINDS}, or as a list of these, not as {_describe(images)}.")
    several = cast(SeveralImages, images)
    return _expand_sequence(several) if isinstance(several, Sequence) else _expand_lazily(several)


def _expand_sequence(items: Sequence[ImageItem], numbered: bool = True) -> list[LoadableImage]:
    expanded: list[LoadableImage] = []
    for number, item in enumerate(items, 1):
        expanded += _expand_item(item, f"image {number}: " if numbered else "")
    # Together, as one dark image shows of all of them that black is -1.
    require_image_range(*[item for item in items if isinstance(item, Tensor)], stacklevel=4)
    return expanded


def _expand_lazily(items: Iterable[ImageItem]) -> Iterator[LoadableImage]:
    for number, item in enumerate(items, 1):
        if isinstance(item, Tensor):
            require_image_range(item)
        yield from _expand_item(item, f"image {number}: ")


def _expand_item(item: ImageItem, label: str) -> Sequence[LoadableImage]:
    if isinstance(item, _FILES):
        if not fspath(item):  # which a Path would take for the folder one is in
            raise ImageError(f"{label}the path is empty. Name an image or a folder.")
        return find([item])
    if isinstance(item, bytes | bytearray | memoryview):
        return [EncodedImage(bytes(item))]
    if isinstance(item, np.ndarray):
        try:
            require_image_array(item)
        except ArgumentError as error:
            raise ArgumentError(f"{label}{error}") from error
    if isinstance(item, np.ndarray | Tensor):
        return list(item) if item.ndim == 4 else [item]
    if isinstance(item, EncodedImage | Image.Image | InputImage):
        return [item]
    if not _is_open_file(item):
        raise ArgumentError(f"{label}it must be given as {_KINDS}, not as {_describe(item)}.")
    return [read_stream(item)]


def _is_item(value: object) -> TypeGuard[ImageItem]:
    """Return whether a value is an image, or a folder, an array or a tensor of images."""
    return isinstance(value, (*_FILES, *_IN_MEMORY, np.ndarray, Tensor)) or _is_open_file(value)


def _is_open_file(value: object) -> TypeGuard[IO[bytes]]:
    return callable(getattr(value, "read", None)) and not isinstance(value, type | ModuleType)


def _describe(value: object) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
