"""Seeded Gaussian noise: one generator per image, so that neither batch size nor order changes a picture."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ddim_edit.transfer import to_device

NoiseMix = tuple[tuple[int, float], ...]
"""A noise as the weighted sum of seeded ones: pairs of seed and weight; no pairs are no noise."""


class SeededNoise:
    """Draws z ~ N(0, I) row by row, each row from the generator of its own seed; the same on every device.

    Args:
        seeds: one integer per row; equal seeds give equal rows. What drew x_T is handed on to a noisy walk:
            made anew, it would draw x_T once more.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self, shape: Sequence[int]) -> Tensor:
        """The next noise of every row: [B, *shape] in float64 on the CPU."""
        rows = [torch.randn(*shape, generator=each, dtype=torch.float64) for each in self._generators]
        return torch.stack(rows)

    def __call__(self, x: Tensor) -> Tensor:
        """The next noise, in the shape, dtype and place of x [B, ...]."""
        return to_device(self.draw(x.shape[1:]), x.device).to(x.dtype)


def draw_mixed_noise(mixes: Sequence[NoiseMix], shape: Sequence[int]) -> Tensor:
    """The noises of several mixes, [B, *shape] in float64 on the CPU, each row by itself."""
    return torch.stack([_one_mix(mix, shape) for mix in mixes])


def _one_mix(mix: NoiseMix, shape: Sequence[int]) -> Tensor:
    total = torch.zeros(*shape, dtype=torch.float64)
    for seed, weight in mix:
        total += weight * SeededNoise([seed]).draw(shape)[0]
    return total


def interpolate_mixes(a: NoiseMix, b: NoiseMix, w: float) -> NoiseMix:
    """The mix (1 - w) a + w b, without what has no weight."""
    weights = dict.fromkeys([seed for seed, _ in (*a, *b)], 0.0)
    for mix, share in ((a, 1 - w), (b, w)):
        for seed, weight in mix:
            weights[seed] += share * weight
    return tuple((seed, weight) for seed, weight in weights.items() if weight)


def derive_seed(seed: int, name: str) -> int:
    """A seed of 63 bits for one thing out of many, the same wherever and in whatever order it is asked for."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1
