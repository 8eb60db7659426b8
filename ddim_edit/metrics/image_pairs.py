"""Checks that all image metrics share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor


def require_image_pair(a: Tensor, b: Tensor) -> None:
    """Refuse batches that are not images of one shape [B, 3, H, W], or cannot be in [-1, 1].

    Raises:
        ArgumentError: no tensors, other shapes, shapes that differ, or values as `require_image_range` refuses them.
    """
    from torch import Tensor

    from ddim_edit.images.ranges import require_image_range

    given: tuple[object, object] = a, b
    for each in given:
        if not isinstance(each, Tensor):
            raise ArgumentError(
                f"Metrics compare tensors [B, 3, H, W] in [-1, 1], not {type(each).__name__}. Read images with "
                "`images.read`, whose `tensor` is one of them."
            )
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3:
        raise ArgumentError(
            "Metrics compare two batches of images of one shape [B, 3, H, W], "
            f"not {list(a.shape)} with {list(b.shape)}."
        )
    require_image_range(a, b, stacklevel=5)


def to_unit_range(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return two batches of images in [-1, 1] as float64 in [0, 1].

    Raises:
        ArgumentError: as `require_image_pair`.
    """
    require_image_pair(a, b)
    return (a.double() + 1) / 2, (b.double() + 1) / 2
