"""The geometry of directions: what is left of one beside others, the angles between them, and moves on the shell."""

import torch
from torch import Tensor

from ddim_edit.errors import ArgumentError

# Directions may have been through float32, so what agrees to its rounding counts as equal.
ROUNDING = 1e-6


def complement(vector: Tensor, against: Tensor) -> Tensor:
    """The part of a vector that is orthogonal to others, not normalised; refuses when only rounding would be left.

    v - Q^T Q v with Q an orthonormal basis of the span, for vector [d] and against [k, d], k = 0 included.

    Raises:
        ArgumentError: rows of against that depend on one another, or a vector inside their span.

    Shen, Gu, Tang, Zhou (2020), conditional manipulation.
    """
    q = _basis(against)
    rest = _outside(_outside(vector, q), q)  # once more: what the first pass rounds is large where little is left
    if rest.norm() <= ROUNDING * vector.norm():
        raise ArgumentError(
            "a direction that leaves the span of those it is held against",
            "one inside it",
            "hold fewer directions, or ones that differ from it",
        )
    return rest


def cosines(vectors: Tensor) -> Tensor:
    """The cosines between all pairs of vectors [k, d], as [k, k]; undefined for a vector of length zero.

    Raises:
        ArgumentError: a vector of length zero.
    """
    lengths = _length(vectors)
    if (lengths == 0).any():
        raise ArgumentError("vectors with a direction", "one of length zero", "leave it out")
    unit = vectors / lengths
    return (unit @ unit.T).clamp(-1, 1)


def rotate(z: Tensor, step: Tensor, held: Tensor) -> Tensor:
    """Move each vector along a step on its own shell, its part in a span held still; cannot lengthen or shorten it.

    The part r of z outside the span of held flows along the step's part s outside it, as far as the shell allows:
    dr / dtau = s - r (r.s) / |r|^2 for tau from 0 to 1. With k = |s| / |r|, n = s / |s| and c the cosine from r to s,

        r' = (r + |r| (sinh k + c (cosh k - 1)) n) / (cosh k + c sinh k),

    a rotation in the plane of r and s by phi with sin(phi) = tanh(k) where they are orthogonal, so tan(phi) = k but
    for terms of third order. A rotation by arctan(k) whatever c overshoots a step that is almost parallel and does not
    come back from there; as a flow, a step and its opposite cancel and steps one way add up, everywhere. A step
    parallel to r has nowhere to go.

    Args:
        z: [B, d].
        step: [d], or [B, d] for one each; zero returns z bit by bit.
        held: [k, d]; held @ z stays. With no rows nothing is held.

    Raises:
        ArgumentError: rows of held that depend on one another.

    The shell is that of Gaussian latents, as in White (2016); the flow is the sphere's conformal one.
    """
    q = _basis(held)
    r, s = _outside(z, q), _outside(step, q)
    radius, length = _length(r), _length(s)
    n = s / _nonzero(length)
    c = (r * n).sum(-1, keepdim=True) / _nonzero(radius)
    # Beyond 18 radii nothing changes that a float64 could show, and cosh would overflow.
    k = torch.where(radius > 0, length / _nonzero(radius), 0).clamp(max=18)
    behind = (1 + c).clamp_min(0)  # the formula in terms of 1 + c, which keeps its digits for a step straight back
    stretch = (-k).exp() + behind * k.sinh()
    push = radius * (behind * (k.cosh() - 1) - (-k).expm1())
    return z + (r * (1 - stretch) + push * n) / stretch  # as a difference, so that no step is no change


def _basis(rows: Tensor) -> Tensor:
    """Orthonormal rows [k, d] of the same span."""
    unit = rows / _nonzero(_length(rows))
    basis: Tensor
    _, spread, basis = torch.linalg.svd(unit, full_matrices=False)
    if len(spread) < len(rows) or (spread <= ROUNDING).any():
        raise ArgumentError(
            "directions to hold that are independent of one another",
            f"{len(rows)} of which some follow from the others",
            "name each only once and leave out combinations of the rest",
        )
    return basis


def _outside(x: Tensor, basis: Tensor) -> Tensor:
    return x - (x @ basis.T) @ basis


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length


def _nonzero(length: Tensor) -> Tensor:
    return length.clamp_min(torch.finfo(length.dtype).tiny)
