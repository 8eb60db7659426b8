"""Interpolations between two latents, and the points of a path through several.

Importing this module does not import torch, so that the command line can list the interpolations quickly. To add one,
write its function and its entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

Interpolation: TypeAlias = "Callable[[Tensor, Tensor, float], Tensor]"


def slerp(a: Tensor, b: Tensor, w: float) -> Tensor:
    """Interpolate on the great circle between directions, and linearly between lengths.

        r (cos(w theta) u + sin(w theta) v)

    u = a / ||a||, v the unit part of b orthogonal to u, theta the angle from a to b, r = (1 - w) ||a|| + w ||b||. The
    ends come back bit by bit. For opposite vectors, whose great circle is not unique, v is one fixed direction
    orthogonal to u. A vector of zeros has the direction of the other one. Computed in float64, and returned in the
    precision of a and b.

    Args:
        a: the latents [..., C, H, W] at w = 0; norms are over the last three dimensions.
        b: the latents at w = 1, of the same shape.
        w: in [0, 1].

    Raises:
        ArgumentError: whole numbers, NaN or infinity, two shapes, or another w.

    References:
        Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985.
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502, appendix D.5.
    """
    _check_mixture(a, b, w)
    x, y = a.double(), b.double()
    length_x, length_y = _length(x), _length(y)
    u, target = _unit(x), _unit(y)
    u, target = u.where(length_x > 0, target), target.where(length_y > 0, u)
    cosine = _dot(u, target)
    across = target - cosine * u
    sine = _length(across)
    v = _unit(across).where(sine > 1e-9, _orthogonal(u))
    # atan2 is exact for small angles, where acos of the cosine loses half of the digits.
    angle = w * sine.atan2(cosine)
    mixed = length_x.lerp(length_y, w) * (angle.cos() * u + angle.sin() * v)
    return _exact_at_ends(mixed.to(a.dtype), a, b, w)


def lerp(a: Tensor, b: Tensor, w: float) -> Tensor:
    """Interpolate on the straight line (1 - w) a + w b.

    Its middle is too short for a Gaussian latent, so images decoded there lose detail.

    Args:
        a: the latents [..., C, H, W] at w = 0.
        b: the latents at w = 1, of the same shape.
        w: in [0, 1].

    Raises:
        ArgumentError: as `slerp`.
    """
    _check_mixture(a, b, w)
    return a.lerp(b.to(a.dtype), w)


def norm(a: Tensor, b: Tensor, w: float) -> Tensor:
    """Interpolate on the straight line, scaled to the length between those of its ends.

        r d / ||d||, d = (1 - w) a + w b, r = (1 - w) ||a|| + w ||b||

    Args:
        a: the latents [..., C, H, W] at w = 0; norms are over the last three dimensions.
        b: the latents at w = 1, of the same shape.
        w: in [0, 1].

    Raises:
        ArgumentError: the line passes through zero, or so near that rounding alone is left; else as `slerp`.

    References:
        Bodin, Stere, Margineantu, Ek, Moss, "Linear Combinations of Latents in Generative Models: Subspaces and
        Beyond", ICLR 2025, arXiv:2408.08558. It also covers latents that are correlated.
    """
    import torch

    _check_mixture(a, b, w)
    x, y = a.double(), b.double()
    line = x.lerp(y, w)
    length = _length(line)
    wanted = _length(x).lerp(_length(y), w)
    # What is left of latents of low precision that cancel is their rounding, which must not be scaled to full length.
    rounding = max(1e-9, 2 * torch.finfo(a.dtype).eps)
    if 0 < w < 1 and (length <= rounding * wanted).any():
        raise ArgumentError("The interpolation norm is not defined for opposite latents, which cancel. Use slerp.")
    return _exact_at_ends((_unit(line) * wanted).to(a.dtype), a, b, w)


class InterpolationEntry(NamedTuple):
    """A registered interpolation.

    Attributes:
        name: for `interpolation=` and `--interpolation`.
        help: one line for the command line and the reference.
        function: (a, b, w) -> the latents a fraction w of the way from a to b.
    """

    name: str
    help: str
    function: Interpolation


INTERPOLATION_ENTRIES: Mapping[str, InterpolationEntry] = {
    entry.name: entry
    for entry in (
        InterpolationEntry("slerp", "great circle between directions, straight line between lengths", slerp),
        InterpolationEntry("lerp", "straight line; loses detail in the middle", lerp),
        InterpolationEntry("norm", "straight line, scaled to the length between its ends", norm),
    )
}
INTERPOLATIONS: Mapping[str, Interpolation] = {name: entry.function for name, entry in INTERPOLATION_ENTRIES.items()}


def find_interpolation(name: str) -> Interpolation:
    """Return the interpolation of a name in `INTERPOLATIONS`.

    Raises:
        ArgumentError: an unknown name.
    """
    if name not in INTERPOLATIONS:
        raise ArgumentError(f"There is no interpolation {name!r}. Use {', '.join(INTERPOLATIONS)}.")
    return INTERPOLATIONS[name]


class PathPoint(NamedTuple):
    """A point on a path: a fraction w of the way from one of its ends to another, by their indices."""

    start: int
    end: int
    w: float

    def label(self, names: Sequence[str]) -> str:
        """Return the name of the end that it is, by its index, or the fraction.

        Examples:
            >>> [point.label(["a", "b"]) for point in plan_path(2, 3)]
            ['a', '0.50', 'b']
        """
        if self.w in (0, 1):
            return names[self.end if self.w else self.start]
        return f"{self.w:.2f}"


def plan_path(ends: int, frames: int, loop: bool = False) -> list[PathPoint]:
    """Return the points of a path through several latents.

    Args:
        ends: number of latents that the path visits, at least 2.
        frames: number of points from each to the next, with both of them, at least 2. Shared ones occur once.
        loop: whether it goes back to the first, which then is not repeated at the end.

    Raises:
        ArgumentError: too few ends or frames.

    Examples:
        >>> [point.w for point in plan_path(2, 3)]
        [0.0, 0.5, 1.0]
    """
    if ends < 2 or frames < 2:
        raise ArgumentError(f"A path needs at least 2 images and 2 frames, not {ends} images and {frames} frames.")
    indices = [*range(ends), 0] if loop else [*range(ends)]
    steps = frames - 1
    points = [_point(a, b, i, steps) for a, b in pairwise(indices) for i in range(steps)]
    if not loop:
        points.append(_point(ends - 2, ends - 1, steps, steps))
    return points


def _point(a: int, b: int, i: int, n: int) -> PathPoint:
    # Counted from the lower index, a way there and back has the same points twice, which are decoded once.
    return PathPoint(a, b, i / n) if a < b else PathPoint(b, a, (n - i) / n)


def _check_mixture(a: Tensor, b: Tensor, w: float) -> None:
    """Refuse latents that cannot be mixed, and fractions that are not between them."""
    if not a.is_floating_point() or not b.is_floating_point() or a.shape != b.shape:
        given = f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
        raise ArgumentError(f"Latents must be floats of one shape to be mixed, not {given}.")
    if not 0 <= w <= 1:
        raise ArgumentError(f"The fraction w must be from 0 to 1, not {w:g}.")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ArgumentError("The latent contains NaN or infinite values. Invert its image with --dtype fp32.")


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-3, -2, -1), keepdim=True)


def _length(x: Tensor) -> Tensor:
    """Return lengths, of which no square over- or underflows."""
    largest = _nonzero(x.abs().amax((-3, -2, -1), keepdim=True))
    scaled = x / largest
    return largest * _dot(scaled, scaled).sqrt()


def _unit(x: Tensor) -> Tensor:
    """Return vectors of length 1; zeros stay zeros."""
    scaled = x / _nonzero(x.abs().amax((-3, -2, -1), keepdim=True))
    return scaled / _nonzero(_dot(scaled, scaled).sqrt())


def _nonzero(length: Tensor) -> Tensor:
    """Return lengths with 1 in the place of 0."""
    return length.where(length > 0, 1.0)


def _orthogonal(u: Tensor) -> Tensor:
    """Return a fixed unit vector orthogonal to u: a quarter turn of its first half of entries into its second."""
    import torch

    flat = u.flatten(-3)
    half = flat.shape[-1] // 2
    # An entry that is left over where their number is odd is multiplied by 0, which keeps it orthogonal.
    turned = torch.cat([-flat[..., half : 2 * half], flat[..., :half], 0 * flat[..., 2 * half :]], -1).view_as(u)
    return _unit(turned)


def _exact_at_ends(x: Tensor, a: Tensor, b: Tensor, w: float) -> Tensor:
    """Return a at w = 0, b at w = 1 and x in between, so that the ends are free of rounding."""
    if w == 0:
        return a
    return b if w == 1 else x
