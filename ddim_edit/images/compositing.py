"""Put an edit of an aligned frame into the photograph that the frame was cut from, at the photograph's resolution.

Not the model's image is pasted but the change: what the model makes of the frame after the edit, against what it makes
of it without. Enlarged and added to the photograph's own pixels it keeps every detail that the model never saw.

Light and colour are kept apart from the rest. A change of light that ended where the frame ends would look like a mask
on the face, so the gain that most of the face has in common is taken out of the change and given to the surroundings
too, fading slowly. Changes of a face have no such gain, and then no pixel outside the mask differs by a bit.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ddim_edit.images.alignment import Similarity, affine_coefficients

FADED_FROM = 0.72
"""Share of the elliptic mask's radius from which it fades to nothing."""
BORDER = 0.125
"""Share of a frame of something else than a face in which the mask fades, along sides inside the photograph."""
UNTOUCHED = 2
"""Outermost pixels of the frame that are left alone, so that the cubic kernel meets no step at its border."""
LIGHT_REACH = 1.5
"""Distance from the frame, in sides of the frame, at which a change of light has faded."""
LIGHT_THRESHOLD = 0.08
"""Logarithm of the smallest gain that is light; twice as much is light alone. Edits of age and sex had up to 0.06."""
LIGHT_BLUR = 4.0
"""Standard deviation of the blur before gains are compared, in 64ths of the frame: features move, light does not."""
BLACK = 12.0
"""Levels added before gains are taken, so that those of dark pixels, which are mostly noise, stay near 1."""
NOISE = 1.0
"""Levels of a change, averaged over its neighbourhood, below which it is taken for noise of the round trip."""

Array = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class FrameChange:
    """What an edit changed in a frame.

    Attributes:
        gain: of light and colour, one per channel, [3]; 1 where only the face changed.
        detail: the rest, in levels of 255, [3, H, W], faded to 0 at the mask's border.
    """

    gain: Tensor
    detail: Tensor

    @classmethod
    def between(cls, before: Tensor, after: Tensor, mask: Tensor, noise: float = NOISE) -> "FrameChange":
        """Split the change between two images of a frame into light and detail.

        Args:
            before: [3, H, W] in [-1, 1].
            after: of the same shape.
            mask: what may change, from 0 to 1, [H, W].
            noise: levels of a change below which nothing changes.
        """
        old, new = ((image.double().cpu().clamp(-1, 1) + 1) * 127.5 + BLACK for image in (before, after))
        blur = LIGHT_BLUR * min(mask.shape) / 64
        ratios = torch.log(_blur(new, blur) / _blur(old, blur))[:, mask > 0.5]
        common = ratios.median(dim=1).values
        largest = common.abs().max()
        # Continuous in the strength of an edit: the gain grows from 1 as the threshold is passed.
        gain = torch.exp(common * smooth_step(largest / LIGHT_THRESHOLD - 1))
        detail = new - old * gain[:, None, None]
        if noise:
            energy = detail.square().amax(dim=0, keepdim=True)
            amplitude = _blur(energy, max(1.0, min(mask.shape) / 64)).sqrt()
            detail = detail * smooth_step(amplitude / noise - 1)
        return cls(gain, detail * mask)

    @property
    def is_lit(self) -> bool:
        """Whether light changed, which the surroundings of the frame share."""
        return bool((self.gain != 1).any())


def face_mask(size: tuple[int, int]) -> Tensor:
    """Return an elliptic mask for a frame of `size` (height, width), float64 [H, W]: 1 inside, 0 at the border."""
    height, width = size
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height * 2 - 1
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width * 2 - 1
    radius = torch.sqrt(x[None, :] ** 2 + y[:, None] ** 2) / (1 - 2 * UNTOUCHED / min(size))
    return 1 - smooth_step((radius - FADED_FROM) / (1 - FADED_FROM))


def region_mask(size: tuple[int, int], alignment: Similarity, photograph: tuple[int, int]) -> Tensor:
    """Return the mask of an upright frame that need not show a face, float64 [H, W].

    It is 1 inside and fades to 0 along those sides of the frame that lie inside the photograph.

    Args:
        size: (height, width) of the frame.
        alignment: the map from the photograph into the frame.
        photograph: its width and height.
    """
    height, width = size
    (left, top), (right, bottom) = alignment([(0, 0), photograph])
    columns = _side_mask(width, left < -0.5, right > width + 0.5)
    rows = _side_mask(height, top < -0.5, bottom > height + 0.5)
    # What the photograph does not show is padding.
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    columns = columns * ((x > left) & (x < right))
    rows = rows * ((y > top) & (y < bottom))
    return rows[:, None] * columns[None, :]


def _side_mask(length: int, fades_first: bool, fades_last: bool) -> Tensor:
    """Return a profile [length] of 1 that fades to 0 at its first pixels, its last ones, or both."""
    distance = (torch.arange(length, dtype=torch.float64) + 0.5 - UNTOUCHED) / (BORDER * length)
    profile = torch.ones(length, dtype=torch.float64)
    if fades_first:
        profile = profile * smooth_step(distance)
    return profile * smooth_step(distance.flip(0)) if fades_last else profile


@dataclass(frozen=True, eq=False)
class RegionChange:
    """The change of a rectangle of a photograph, in levels of 255.

    Attributes:
        box: left, top, right and bottom of the rectangle.
        gain: what its pixels are multiplied by first, [h, w, 3], or None.
        detail: what is added then, [h, w, 3].
    """

    box: Box
    gain: Array | None
    detail: Array

    def apply(self, levels: Array) -> Array:
        """Return the levels [h, w, 3] of the rectangle after the change, not rounded."""
        if self.gain is None:
            return levels + self.detail
        return (levels + np.float32(BLACK)) * self.gain - np.float32(BLACK) + self.detail


def enlarge_change(change: FrameChange, alignment: Similarity, photograph: tuple[int, int]) -> RegionChange | None:
    """Return a change at the resolution of a photograph; None where the photograph shows nothing of it.

    Args:
        change: of a frame.
        alignment: the map from the photograph into the frame.
        photograph: its width and height.
    """
    height, width = change.detail.shape[-2:]
    reach = LIGHT_REACH * max(width, height) if change.is_lit else 0.0
    corners = alignment.inverse(
        [(-reach, -reach), (width + reach, -reach), (width + reach, height + reach), (-reach, height + reach)]
    )
    left, top = (max(0, math.floor(min(corner[axis] for corner in corners))) for axis in (0, 1))
    right, bottom = (min(photograph[axis], math.ceil(max(corner[axis] for corner in corners))) for axis in (0, 1))
    if left >= right or top >= bottom:
        return None
    box = (left, top, right, bottom)
    gain = None
    if change.is_lit:
        fading = _light_fading(alignment, (width, height), box)
        gain = np.exp(fading[..., None] * change.gain.log().numpy().astype(np.float32))
    coefficients = affine_coefficients(alignment.of_part(left, top))
    enlarged: list[Array] = []
    for channel in change.detail.float().numpy():
        part = Image.fromarray(channel).transform(
            (right - left, bottom - top), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
        )
        enlarged.append(np.asarray(part))
    return RegionChange(box, gain, np.stack(enlarged, axis=-1))


def _light_fading(alignment: Similarity, size: tuple[int, int], box: Box) -> Array:
    """Return the share of a change of light that each pixel of a box gets, [h, w]: 1 in the frame, 0 far from it."""
    left, top, right, bottom = box
    z = (np.arange(left, right) + 0.5)[None, :] + 1j * (np.arange(top, bottom) + 0.5)[:, None]
    w = alignment.a * z + alignment.b
    radius = np.hypot(2 * w.real / size[0] - 1, 2 * w.imag / size[1] - 1)
    return (1 - smooth_step(torch.from_numpy((radius - 1) / (2 * LIGHT_REACH)))).numpy().astype(np.float32)


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Return an image [C, H, W] blurred by a Gaussian of standard deviation `sigma` pixels, reflected at its border."""
    # torchvision has it too, but takes a second to import. The reflection cannot be wider than the image.
    radius = min(math.ceil(3 * sigma), min(image.shape[-2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype)
    kernel = torch.exp(-((offsets / sigma) ** 2) / 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(image[:, None], (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None, :]), kernel[None, None, :, None])[:, 0]


def smooth_step(x: Tensor) -> Tensor:
    """Return a step from 0 at x = 0 to 1 at x = 1, smooth to the second derivative: the eye sees a bend as a line."""
    x = x.clamp(0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)
