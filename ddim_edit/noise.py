"""Seeded Gaussian noise: one generator per image, so that neither batch size nor order changes a picture."""

from collections.abc import Sequence

import torch
from torch import Tensor


class SeededNoise:
    """Draws z ~ N(0, I) row by row, each row from the generator of its own seed; the same on every device.

    Args:
        seeds: one integer per row; equal seeds give equal rows.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self, shape: Sequence[int]) -> Tensor:
        """The next noise of every row: [B, *shape] in float64 on the CPU."""
        rows = [torch.randn(*shape, generator=each, dtype=torch.float64) for each in self._generators]
        return torch.stack(rows)

    def __call__(self, x: Tensor) -> Tensor:
        """The next noise, in the shape, dtype and place of x [B, ...]."""
        return self.draw(x.shape[1:]).to(x)
