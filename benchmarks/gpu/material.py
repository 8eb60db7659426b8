"""Images to measure with, made of those of the package without a network, and the measure of an error."""

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from time import monotonic

import torch
from timing.sample_images import IMAGES_FOLDER, fill
from torch import Tensor

from ddim_edit import images, load_model
from gpu.plan import Case, Row, Setting

PORTRAIT = "astronaut_face.png"
_WHOLE = "whole"
"""The file that says that the folder beside it has all its images."""


@cache
def image_size(model: str) -> tuple[int, int]:
    """Return height and width of the images of a model."""
    return load_model(model).size


def gather(setting: Setting, count: int) -> Tensor:
    """Return images [count, 3, H, W] in [-1, 1] of the model's size, of which no two are the same."""
    size = image_size(setting.model)
    packaged = torch.stack([images.read(file, size).tensor for file in images.find([IMAGES_FOLDER])]).float()
    shifted = []
    for shift in range(-(-count // len(packaged))):
        shifted.append(packaged.roll(divmod(shift, size[1]), (-2, -1)))
    return torch.cat(shifted)[:count]


def portrait(setting: Setting) -> Tensor:
    """Return the packaged portrait, [1, 3, H, W]."""
    return images.read(IMAGES_FOLDER / PORTRAIT, image_size(setting.model)).tensor.float()[None]


def relative(x: Tensor, reference: Tensor) -> float:
    """Return the relative error |x - reference| / |reference| in the L2 norm."""
    x, reference = x.double().cpu(), reference.double().cpu()
    return float((x - reference).norm() / reference.norm())


def image_folder(setting: Setting) -> Path:
    """Return the folder of many images, which is filled where it is not there yet."""
    place, folder = setting.folder("material"), setting.folder("material/images")
    if not (place / _WHOLE).exists():
        count = setting.scale.images
        fill(folder, gather(setting, count), count)
        (place / _WHOLE).touch()
    return folder


def cases(setting: Setting) -> list[Case]:
    """Return the one case that fills the folder."""
    return [Case("folder", partial(_filled, setting))]


def _filled(setting: Setting) -> Iterator[Row]:
    start = monotonic()
    folder = image_folder(setting)
    yield {"images": len(images.find([folder])), "seconds": monotonic() - start}
