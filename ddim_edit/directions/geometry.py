"""Geometry of directions: orthogonal complements, angles, and moves along the shell of a latent."""

import torch
from torch import Tensor

from ddim_edit.errors import ArgumentError

# Directions may have been through float32, so vectors that agree up to its rounding count as equal.
ROUNDING = 1e-6


def complement(vector: Tensor, against: Tensor) -> Tensor:
    """Return the part of a vector that is orthogonal to others, not normalised.

    v - Q^T Q v with Q an orthonormal basis of the span.

    Args:
        vector: [d].
        against: [k, d]; k may be 0.

    Raises:
        ArgumentError: rows of against that are not independent, or a vector inside their span.

    References:
        Shen, Gu, Tang, Zhou, "Interpreting the Latent Space of GANs for Semantic Face Editing", CVPR 2020,
        arXiv:1907.10786: conditional manipulation.

    Examples:
        >>> complement(torch.tensor([3.0, 4.0]), torch.tensor([[2.0, 0.0]]))
        tensor([0., 4.])
    """
    q = _orthonormal_basis(against)
    # Twice, because where little is left, the rounding of the first pass is large beside it.
    rest = _project_out(_project_out(vector, q), q)
    if rest.norm() <= ROUNDING * vector.norm():
        raise ArgumentError(
            "The direction lies in the span of those that are held, so nothing is left of it. Hold fewer directions, "
            "or ones that differ from it."
        )
    return rest


def cosines(vectors: Tensor) -> Tensor:
    """Return the cosines [k, k] between all pairs of vectors [k, d].

    Raises:
        ArgumentError: a vector of length zero.
    """
    lengths = _length(vectors)
    if (lengths == 0).any():
        raise ArgumentError("A vector of length zero has no direction. Leave it out.")
    unit = vectors / lengths
    return (unit @ unit.T).clamp(-1, 1)


def rotate(z: Tensor, step: Tensor, held: Tensor) -> Tensor:
    """Return each vector moved along a step on its own shell, which keeps its length and its part in a span.

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
        ArgumentError: rows of held that are not independent.

    References:
        White, "Sampling Generative Networks", 2016, arXiv:1609.04468, for the shell of Gaussian latents. The flow is
        the conformal one of the sphere.
    """
    q = _orthonormal_basis(held)
    r = _project_out(z, q)
    s = _project_out(step, q)
    radius, length = _length(r), _length(s)
    n = s / _nonzero(length)
    c = (r * n).sum(-1, keepdim=True) / _nonzero(radius)
    # Beyond 18 radii nothing changes that a float64 could show, and cosh would overflow.
    k = torch.where(radius > 0, length / _nonzero(radius), 0).clamp(max=18)
    # The formula in terms of 1 + c, which keeps its digits for a step straight back.
    behind = (1 + c).clamp_min(0)
    stretch = (-k).exp() + behind * k.sinh()
    push = radius * (behind * (k.cosh() - 1) - (-k).expm1())
    # As a difference, so that a step of zero returns z bit by bit.
    return z + (r * (1 - stretch) + push * n) / stretch


def _orthonormal_basis(rows: Tensor) -> Tensor:
    """Return orthonormal rows [k, d] of the same span."""
    unit = rows / _nonzero(_length(rows))
    basis: Tensor
    _, spread, basis = torch.linalg.svd(unit, full_matrices=False)
    if len(spread) < len(rows) or (spread <= ROUNDING).any():
        raise ArgumentError(
            f"Of the {len(rows)} directions to hold, some are combinations of the others. Leave those out, and name "
            "each only once."
        )
    return basis


def _project_out(x: Tensor, basis: Tensor) -> Tensor:
    return x - (x @ basis.T) @ basis


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length


def _nonzero(length: Tensor) -> Tensor:
    return length.clamp_min(torch.finfo(length.dtype).tiny)
