"""How far apart two right answers of one network may be.

Other processors, kernels, numbers of threads and sizes of a batch add the terms of a layer in another order, and so do
weights at other addresses. Bits are the same only where all of these are: one file, loaded in one way, on one machine.
What promises the same bytes (a store that is taken up again, a training that goes on) keeps to that, and its tests are
marked `same_bits`; all others compare by what is here, which `other_rounding.py` checks.
"""

import torch
from torch import Tensor

LAYERS, TERMS = 40, 2**10
"""More than any small network of these tests has one behind another, and more terms than a sum in one of them has."""
ROUNDING = 2 * LAYERS * TERMS**0.5 * 2**-24
"""1.5e-4 of the largest value: a sum of n terms is off by some sqrt(n) unit roundoffs of float32, in either answer.

Higham and Mary (2019), "A New Approach to Probabilistic Rounding Error Analysis".
"""
VERGE = 0.01
"""The share of 8-bit values that may be a level apart: ROUNDING is 1/50 of a level, and tips no more of them over."""


def assert_alike(found: Tensor, wanted: Tensor, tol: float = ROUNDING) -> None:
    """Fail unless these are one answer but for rounding, by a share of the largest value."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=tol * float(wanted.abs().max()))


def assert_shown_alike(found: Tensor, wanted: Tensor) -> None:
    """Fail unless these uint8 pictures are one but for values on the verge of two levels."""
    assert found.shape == wanted.shape
    apart = (found.int() - wanted.int()).abs()
    assert apart.max() <= 1
    assert apart.count_nonzero() <= VERGE * apart.numel()
