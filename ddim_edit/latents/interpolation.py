"""Ways between two latents, and the stops of a path through several."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_edit.errors import ArgumentError

Interpolation = Callable[[Tensor, Tensor, float], Tensor]


def lerp(a: Tensor, b: Tensor, w: float) -> Tensor:
    """Straight line; its middle is too short for a Gaussian latent, so decoded pictures lose detail there.

    (1 - w) a + w b, shapes [..., C, H, W] alike, w in [0, 1].
    """
    return torch.lerp(a, b, w)


def norm(a: Tensor, b: Tensor, w: float) -> Tensor:
    """Straight line pushed out to the radius between its ends; undefined where the ends cancel.

    r d / ||d||, d = (1 - w) a + w b, r = (1 - w) ||a|| + w ||b||, norms over the last three dimensions.

    Raises:
        ArgumentError: the line passes through zero.

    Bodin, Stere, Margineantu, Ek, Moss (2024), for latents that may be correlated.
    """
    line, radius = torch.lerp(a, b, w), torch.lerp(_length(a), _length(b), w)
    length = _length(line)
    if (length <= 1e-9 * radius).any():
        raise ArgumentError("latents that are not opposite", "two that cancel", "use slerp")
    return _pinned(line * (radius / length), a, b, w)


def slerp(a: Tensor, b: Tensor, w: float) -> Tensor:
    """Great circle between directions, straight line between radii; image by image, safe for any two vectors.

    r (cos(w theta) u + sin(w theta) v), u = a / ||a||, v the unit part of b orthogonal to u, theta the angle from a to
    b, r = (1 - w) ||a|| + w ||b||, norms over the last three dimensions, w in [0, 1]. The ends come back bit by bit;
    for opposite vectors v is one fixed direction orthogonal to u.

    Shoemake (1985); for noise latents Song, Meng, Ermon (2021), appendix D.5.
    """
    radius_a, radius_b = _length(a), _length(b)
    u, target = a / _nonzero(radius_a), b / _nonzero(radius_b)
    cosine = _dot(u, target)
    across = target - cosine * u
    sine = _length(across)
    v = torch.where(sine > 1e-9, across / _nonzero(sine), _orthogonal(u))
    angle = w * torch.atan2(sine, cosine)
    return _pinned(torch.lerp(radius_a, radius_b, w) * (angle.cos() * u + angle.sin() * v), a, b, w)


INTERPOLATIONS: Mapping[str, Interpolation] = {"slerp": slerp, "lerp": lerp, "norm": norm}


def find_interpolation(name: str) -> Interpolation:
    """The blend of a name in `INTERPOLATIONS`.

    Raises:
        ArgumentError: an unknown name.
    """
    if name not in INTERPOLATIONS:
        raise ArgumentError(f"an interpolation out of {', '.join(INTERPOLATIONS)}", name, "choose one of these")
    return INTERPOLATIONS[name]


class Stop(NamedTuple):
    """A point on a path: between which two ends, and how far from the first to the second."""

    start: int
    end: int
    w: float


def path(ends: int, frames: int, loop: bool = False) -> list[Stop]:
    """The stops of a path through several ends: `frames` from each to the next with both of them, shared ones once.

    Args:
        ends: how many pictures the path visits, at least 2.
        frames: at least 2.
        loop: whether it goes back to the first, which then is not repeated at the end.

    Raises:
        ArgumentError: too few ends or frames.
    """
    if ends < 2 or frames < 2:
        given = f"{ends} pictures and {frames} frames"
        raise ArgumentError("at least 2 pictures and 2 frames", given, "add what is missing")
    legs = list(pairwise([*range(ends), 0] if loop else range(ends)))
    stops = [_stop(a, b, i, frames - 1) for a, b in legs for i in range(frames - 1)]
    return stops if loop else [*stops, _stop(*legs[-1], frames - 1, frames - 1)]


def _stop(a: int, b: int, i: int, n: int) -> Stop:
    # Named from the lower end, a way there and back is the same stops twice, and is decoded once.
    return Stop(a, b, i / n) if a < b else Stop(b, a, (n - i) / n)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-3, -2, -1), keepdim=True)


def _length(x: Tensor) -> Tensor:
    return _dot(x, x).sqrt()


def _nonzero(length: Tensor) -> Tensor:
    return length.clamp_min(torch.finfo(length.dtype).tiny)


def _orthogonal(u: Tensor) -> Tensor:
    """A fixed unit vector orthogonal to u: a quarter turn of its first half of entries into its second."""
    flat = u.flatten(-3)
    half = flat.shape[-1] // 2
    turned = torch.cat([-flat[..., half : 2 * half], flat[..., :half], 0 * flat[..., 2 * half :]], -1).view_as(u)
    return turned / _nonzero(_length(turned))


def _pinned(x: Tensor, a: Tensor, b: Tensor, w: float) -> Tensor:
    return {0.0: a, 1.0: b}.get(float(w), x)
