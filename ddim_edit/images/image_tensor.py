"""Images as results: a tensor that turns into Pillow images, and shows itself in notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.images.pixels import to_image, to_uint8

SHOWN = 8
"""Images of a batch that a notebook shows, one beside the other."""
SHOWN_HEIGHT = 128
"""Pixels up to which a notebook enlarges smaller images."""

PilImages = Image.Image | list["PilImages"]
"""A Pillow image, or a list of them for each batch dimension."""


class ImageTensor(Tensor):
    """Images [..., 3, H, W] in [-1, 1] with `to_pil`; a `Tensor` in everything else, as which all operations return it.

    Only what indexing or a loop takes out of a batch of images is an `ImageTensor` again.

    Examples:
        >>> import torch
        >>> images = torch.zeros(2, 3, 48, 64).as_subclass(ImageTensor)
        >>> images.to_pil()[1].size, images[1].to_pil().size
        ((64, 48), (64, 48))
    """

    # Metrics and solvers get what they would get of any tensor, without the cost of a subclass.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def to_pil(self) -> PilImages:
        """Return a Pillow image, or a list of them for each batch dimension; see `images.to_pil`."""
        return to_pil(self)

    def __getitem__(self, index: Any) -> Tensor:
        part: Tensor = super().__getitem__(index)
        are_images = not isinstance(index, tuple) and part.shape[-3:] == self.shape[-3:]
        return part.as_subclass(ImageTensor) if are_images else part

    def __iter__(self) -> Iterator[Tensor]:
        return iter([self[index] for index in range(len(self))])

    def __copy__(self) -> Self:
        # copy.copy would go through __reduce_ex__, which gives a plain tensor.
        return self.as_subclass(type(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Tensor's own takes the copy of a subclass for a mistake where operations return plain tensors.
        if id(self) not in memo:
            memo[id(self)] = self.detach().clone().as_subclass(type(self))
        copy: Self = memo[id(self)]
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A file of torch.save holds a plain tensor, which torch.load opens by its default, weights_only, anywhere.
        plain: Any = self.as_subclass(Tensor)
        return plain.__reduce_ex__(protocol)

    def _repr_png_(self) -> bytes | None:
        """Return the first images beside one another as a PNG, which notebooks show."""
        if self.ndim < 3 or not self.numel() or not self.isfinite().all():
            return None
        return to_png(torch.cat([*self.reshape(-1, *self.shape[-3:])[:SHOWN]], -1))


def to_pil(images: Tensor) -> PilImages:
    """Return a Pillow image, or a list of them for a batch, of a tensor as `Editor` returns it.

    Args:
        images: floats in [-1, 1], beyond which values are clipped, or uint8, [3, H, W]; with batch dimensions before
            them, of which each becomes a list.

    Raises:
        ArgumentError: another shape or dtype, or NaN.

    Examples:
        >>> import torch
        >>> to_pil(torch.zeros(3, 64, 48)).size
        (48, 64)
        >>> len(to_pil(torch.zeros(5, 3, 64, 48)))
        5
    """
    if images.ndim < 3 or images.shape[-3] != 3:
        raise ArgumentError(f"Images must have the shape [3, H, W] or [B, 3, H, W], not {list(images.shape)}.")
    if images.ndim > 3:
        return [to_pil(image) for image in images]
    return to_image(to_uint8(images) if images.is_floating_point() else images)


def to_png(image: Tensor) -> bytes:
    """Return an image [3, H, W] as a PNG for a notebook, enlarged by a whole factor where it is small."""
    shown = to_image(to_uint8(image))
    factor = max(1, SHOWN_HEIGHT // shown.height)
    shown = shown.resize((shown.width * factor, shown.height * factor), Image.Resampling.NEAREST)
    buffer = BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue()
