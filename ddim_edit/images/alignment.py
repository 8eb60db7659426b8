"""Align a photograph to the frame that a model was trained on, by a similarity transform, and resample through it.

Coordinates are pixels with the origin in the upper left corner of an image, so that the centre of the first pixel is
(0.5, 0.5). A similarity (rotation, one scale, shift) is one complex multiplication: with z = x + iy, the frame has
w = a z + b, where |a| is the scale and arg a the angle. It keeps angles, so a face is never squeezed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ddim_edit.errors import ImageError

Point = tuple[float, float]

OVERSAMPLING = 2
"""Pixels of the photograph, along each side, that are left for one of the frame when whole pixels are averaged."""
KERNEL = 4
"""Pixels beyond the frame that the cubic kernel may ask for."""


@dataclass(frozen=True)
class Similarity:
    """The map w = a z + b of points (x, y) as complex numbers z = x + iy.

    Examples:
        >>> turned = Similarity(1j, 0)
        >>> turned([(1.0, 0.0)]), turned.degrees
        ([(0.0, 1.0)], 90.0)
    """

    a: complex = 1
    b: complex = 0

    @classmethod
    def fit(cls, source: Sequence[Point], target: Sequence[Point]) -> "Similarity":
        """Return the similarity that takes `source` nearest to `target`, in least squares.

        References:
            Shinji Umeyama. Least-squares estimation of transformation parameters between two point patterns. IEEE
            Transactions on Pattern Analysis and Machine Intelligence 13(4), 1991. In the plane it is one regression.
        """
        z = np.array([complex(x, y) for x, y in source])
        w = np.array([complex(x, y) for x, y in target])
        centred = z - z.mean()
        a = complex(np.vdot(centred, w - w.mean()) / np.vdot(centred, centred))
        return cls(a, complex(w.mean() - a * z.mean()))

    @property
    def scale(self) -> float:
        """Pixels of the frame per pixel of the photograph."""
        return abs(self.a)

    @property
    def degrees(self) -> float:
        """Angle by which the photograph is turned clockwise to be upright in the frame."""
        return math.degrees(math.atan2(self.a.imag, self.a.real))

    @property
    def inverse(self) -> "Similarity":
        """The map back."""
        return Similarity(1 / self.a, -self.b / self.a)

    def __call__(self, points: Sequence[Point]) -> list[Point]:
        """Return where points go."""
        mapped = [self.a * complex(x, y) + self.b for x, y in points]
        return [(w.real, w.imag) for w in mapped]

    def enlarged(self, factor: float) -> "Similarity":
        """Return this map into a frame enlarged by a factor."""
        return Similarity(self.a * factor, self.b * factor)

    def of_part(self, left: float, top: float, scale: float = 1) -> "Similarity":
        """Return this map from a part of the photograph that begins at (left, top) and is then enlarged by a scale."""
        return Similarity(self.a / scale, self.b + self.a * complex(left, top))

    def corners(self, width: int, height: int) -> list[Point]:
        """Return the corners of a frame of this size in the photograph, clockwise from the upper left one."""
        return self.inverse([(0, 0), (width, 0), (width, height), (0, height)])

    def to_list(self) -> list[float]:
        """Return the real and imaginary parts of a and b, as JSON has them."""
        a, b = complex(self.a), complex(self.b)
        return [a.real, a.imag, b.real, b.imag]

    @classmethod
    def from_list(cls, numbers: Sequence[float]) -> "Similarity":
        """Return the similarity of `to_list`."""
        real, imaginary, right, down = numbers
        return cls(complex(real, imaginary), complex(right, down))


def affine_coefficients(way_back: Similarity) -> tuple[float, ...]:
    """Return the six numbers of Pillow's AFFINE transform, from the map of the output's points into the input."""
    a, b = complex(way_back.a), complex(way_back.b)
    return (a.real, -a.imag, b.real, a.imag, a.real, b.imag)


def warp_roughly(image: Image.Image, alignment: Similarity, size: tuple[int, int]) -> Image.Image:
    """Return the part of an RGB image that `warp` returns, in a quarter of the time, for a detector to look at."""
    part, (left, top) = _reflected_part(image, alignment.corners(*size))
    alignment = alignment.of_part(left, top)
    average = max(1, math.floor(1 / alignment.scale))
    if average > 1:
        part = part.reduce(average)
        alignment = alignment.of_part(0, 0, 1 / average)
    coefficients = affine_coefficients(alignment.inverse)
    return part.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


def warp(image: Image.Image, alignment: Similarity, size: tuple[int, int]) -> Image.Image:
    """Return the part of an RGB `image` that a frame of `size` (width, height) shows, antialiased.

    Outside the image its pixels are reflected, as FFHQ's alignment does, so that no edge runs through the frame.
    Sampled at the frame's resolution, a large photograph would alias. So its pixels are averaged by a whole factor
    first, then sampled cubically at two to three times the frame's resolution, and then reduced by a Lanczos filter.

    Raises:
        ImageError: a frame that lies outside the image.
    """
    width, height = size
    part, (left, top) = _reflected_part(image, alignment.corners(width, height))
    alignment = alignment.of_part(left, top)
    average = max(1, math.floor(1 / alignment.scale / OVERSAMPLING))
    if average > 1:
        part = part.reduce(average)
        alignment = alignment.of_part(0, 0, 1 / average)
    # What is left is at most three pixels of the photograph, or rounding, for one of the frame.
    factor = max(1, math.ceil(1 / alignment.scale - 1e-6))
    coefficients = affine_coefficients(alignment.enlarged(factor).inverse)
    channels: list[Image.Image] = []
    for channel in part.split():
        # In floats, because Pillow's transform of bytes cuts fractions off, which is half a level on average.
        sampled = channel.convert("F").transform(
            (width * factor, height * factor), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
        )
        channels.append(sampled if factor == 1 else sampled.resize(size, Image.Resampling.LANCZOS))
    levels = np.stack([np.asarray(channel) for channel in channels], axis=-1)
    return Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8))


def _reflected_part(image: Image.Image, corners: Sequence[Point]) -> tuple[Image.Image, tuple[int, int]]:
    """Return the upright rectangle around `corners`, reflected at the image's borders, and its upper left corner."""
    left = math.floor(min(x for x, _ in corners)) - KERNEL
    top = math.floor(min(y for _, y in corners)) - KERNEL
    right = math.ceil(max(x for x, _ in corners)) + KERNEL
    bottom = math.ceil(max(y for _, y in corners)) + KERNEL
    # Only what is there is made an array of: a photograph may have a hundred megapixels.
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise ImageError("the frame lies outside the image. Choose another part of it.")
    part = np.asarray(image.crop(inside))
    beyond = ((inside[1] - top, bottom - inside[3]), (inside[0] - left, right - inside[2]), (0, 0))
    return Image.fromarray(np.pad(part, beyond, mode="symmetric")), (left, top)
