"""Interpolations between two latents, linear combinations of any number, and the points of paths and sheets.

Importing this module does not import torch, so that the command line can list the interpolations quickly. To add one,
write its function and its entry here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    import torch
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
    _check_mixture(a, b, w)
    if w in (0, 1):
        return b if w else a
    x, y = a.double(), b.double()
    length = _length(x).lerp(_length(y), w)
    problem = "The interpolation norm is not defined for opposite latents, which cancel. Use slerp."
    return _scale_to(length, x.lerp(y, w), a.dtype, problem)


def linear_combination(latents: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Combine any number of latents linearly, and scale the sum to the mean length of the latents.

        r d / ||d||, d = sum_i w_i x_i, r = sum_i |w_i| ||x_i|| / sum_i |w_i|

    For independent x_i ~ N(0, I) the sum has the distribution N(0, sum_i w_i^2 I), and any scaling of the weights
    gives the same result, so that they need not sum to 1. The paper divides by the square root of sum_i w_i^2. Here the
    length is measured: it then also is right for latents that are correlated, as those of images that resemble each
    other, and it lies between the lengths of the latents that have a weight. With two weights 1 - w and w this is
    `norm`. The order of the latents does not matter. Negative weights take away what a latent has, as in a - b + c.

    Args:
        latents: each [..., C, H, W], of one shape; lengths are over the last three dimensions.
        weights: one for each, finite and not all 0. Where a single weight is positive and all others are 0, its latent
            comes back bit by bit.

    Raises:
        ArgumentError: other latents or weights, or latents that cancel, so that rounding alone is left of their sum.

    References:
        Bodin, Stere, Margineantu, Ek, Moss, "Linear Combinations of Latents in Generative Models: Subspaces and
        Beyond", ICLR 2025, arXiv:2408.08558.
    """
    shares = find_shares(weights, len(latents))
    for x in latents:
        _check_latents(latents[0], x)
    used = [index for index, share in enumerate(shares) if share]
    if len(used) == 1:
        x = latents[used[0]]
        return x if shares[used[0]] > 0 else -x
    doubles = [x.double() for x in latents]
    total = weighted_sum(doubles, shares)
    length = weighted_sum([_length(x) for x in doubles], [abs(share) for share in shares])
    problem = "These latents cancel with these weights, and nothing is left of their sum. Choose other weights."
    return _scale_to(length, total, latents[0].dtype, problem)


def weighted_sum(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the sum of w_i x_i, of at least one x_i."""
    total = weights[0] * parts[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + weight * part
    return total


def find_shares(weights: Sequence[float], count: int) -> list[float]:
    """Return weights divided by the sum of their sizes, w_i / sum_j |w_j|.

    These are the weights themselves if none is negative and they sum to 1.

    Args:
        weights: of a linear combination.
        count: how many there must be.

    Raises:
        ArgumentError: another number of weights, NaN, infinity or zeros alone.

    Examples:
        >>> find_shares([2, 1, -1], 3)
        [0.5, 0.25, -0.25]
    """
    if len(weights) != count or not count:
        raise ArgumentError(f"A combination needs one weight for each latent, not {len(weights)} for {count}.")
    if not all(map(math.isfinite, weights)) or not any(weights):
        given = ", ".join(f"{weight:g}" for weight in weights)
        raise ArgumentError(f"Weights must be finite numbers, and not all of them 0, unlike {given:.80}.")
    largest = max(map(abs, weights))
    # Divided by the largest first: the sum of large numbers would be infinite.
    scaled = [weight / largest for weight in weights]
    total = math.fsum(map(abs, scaled))
    return [weight / total for weight in scaled]


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


def plan_line(ends: int, count: int) -> list[PathPoint]:
    """Return so many points at even distances on the path through several latents, from its first to its last.

    Args:
        ends: number of latents that the path leads through, at least 2.
        count: number of points, at least 2. They fall on every latent where count - 1 is a multiple of ends - 1.

    Raises:
        ArgumentError: too few ends or points.

    Examples:
        >>> [point.label(["a", "b", "c"]) for point in plan_line(3, 5)]
        ['a', '0.50', 'b', '0.50', 'c']
        >>> [point.label(["a", "b", "c"]) for point in plan_line(3, 4)]
        ['a', '0.67', '0.33', 'c']
    """
    if ends < 2 or count < 2:
        raise ArgumentError(f"A line needs at least 2 images and 2 points, not {ends} images and {count} points.")
    points = []
    for index in range(count):
        place = index * (ends - 1)
        start = min(place // (count - 1), ends - 2)
        points.append(_point(start, start + 1, place - start * (count - 1), count - 1))
    return points


def count_rows(corners: int, across: int) -> int:
    """Return how many rows the corners of a sheet make.

    Args:
        corners: how many there are.
        across: how many of them are in a row.

    Raises:
        ArgumentError: fewer than 2 rows or columns, or a row that is not full.
    """
    if across < 2 or corners < 2 * across or corners % across:
        raise ArgumentError(
            f"The corners of a sheet make at least 2 full rows of at least 2 each, not {corners} in rows of {across}."
        )
    return corners // across


def _check_mixture(a: Tensor, b: Tensor, w: float) -> None:
    """Refuse latents that cannot be mixed, and fractions that are not between them."""
    _check_latents(a, b)
    if not 0 <= w <= 1:
        raise ArgumentError(f"The fraction w must be from 0 to 1, not {w:g}.")


def _check_latents(a: Tensor, b: Tensor) -> None:
    """Refuse latents that cannot be mixed."""
    if not a.is_floating_point() or not b.is_floating_point() or a.shape != b.shape:
        given = f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
        raise ArgumentError(f"Latents must be floats of one shape to be mixed, not {given}.")
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


def _scale_to(length: Tensor, x: Tensor, dtype: torch.dtype, problem: str) -> Tensor:
    """Return vectors scaled to lengths, in a dtype.

    Raises:
        ArgumentError: a vector of zeros or rounding; its message is `problem`.
    """
    import torch

    # What is left of latents of low precision that cancel is their rounding, which must not be scaled to full length.
    rounding = max(1e-9, 2 * torch.finfo(dtype).eps)
    if (_length(x) <= rounding * length).any():
        raise ArgumentError(problem)
    return (_unit(x) * length).to(dtype)


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
