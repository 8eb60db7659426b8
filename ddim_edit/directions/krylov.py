"""The leading eigenvectors of a symmetric matrix that is known by its products alone."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""Maps rows [k, d] to their products with a symmetric matrix, [k, d]."""
SPARE = 2
"""Vectors that the first block has beyond those that are wanted, so that none of these is missed."""


class Eigenvectors(NamedTuple):
    """Leading eigenvectors of a positive semidefinite matrix.

    Attributes:
        values: eigenvalues [k], the largest first.
        vectors: orthonormal rows [k, d]; the largest number of each is positive.
        residuals: |G v - value v| / value [k].
        products: how many products with G it took.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int


def leading_eigenvectors(
    multiply: Product, d: int, count: int, *, iterations: int = 12, tolerance: float = 0.01, seed: int = 0
) -> Eigenvectors:
    """Return the `count` leading eigenvectors of a positive semidefinite matrix G [d, d], by a block Krylov method.

    Subspace iteration V <- orth(G V) forgets all but its last block. Here all blocks are kept, and the eigenvectors are
    the best ones in their span (Rayleigh-Ritz); a block holds the residuals of those that have not converged.

    Args:
        multiply: returns products with G, in any float dtype.
        d: size of G.
        count: how many, at most d.
        iterations: at most this many blocks.
        tolerance: a vector has converged where |G v - value v| <= tolerance * value.
        seed: of the first block, which is random.

    References:
        Musco, Musco, "Randomized Block Krylov Methods for Stronger and Faster Approximate Singular Value
        Decomposition", NeurIPS 2015, arXiv:1504.05477.

    Examples:
        >>> found = leading_eigenvectors(lambda v: v * torch.tensor([1.0, 9.0, 4.0]), d=3, count=2)
        >>> found.values.round(decimals=3), found.products
        (tensor([9., 4.], dtype=torch.float64), 3)
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(min(count + SPARE, d), d, generator=generator, dtype=torch.float64)
    basis = _orthonormalize(start, start[:0])
    products = multiply(basis).double()
    for number in range(1, iterations + 1):
        small = basis @ products.T
        values, turn = torch.linalg.eigh((small + small.T) / 2)
        values, turn = values.flip(0)[:count].clamp_min(0), turn.T.flip(0)[:count]
        vectors = turn @ basis
        errors = turn @ products - values[:, None] * vectors
        residuals = errors.norm(dim=1) / values.clamp_min(torch.finfo(values.dtype).tiny)
        open_ = residuals > tolerance
        room = d - len(basis)
        if number == iterations or not open_.any() or not room:
            break
        block = _orthonormalize(errors[open_][:room], basis)
        basis = torch.cat([basis, block])
        products = torch.cat([products, multiply(block).double()])
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return Eigenvectors(values, vectors * largest.sign(), residuals, len(basis))


def _orthonormalize(rows: Tensor, against: Tensor) -> Tensor:
    """Return orthonormal rows of the same span, but for what lies in the span of other orthonormal rows."""
    # Twice, because where little is left, the rounding of the first pass is large beside it.
    for _ in range(2):
        rows = rows - (rows @ against.T) @ against
        rows = torch.linalg.qr(rows.T).Q.T
    return rows
