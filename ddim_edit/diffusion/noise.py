"""Seeded Gaussian noise, with one generator per image, so that neither batch size nor order changes an image."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.transfer import to_device

NoiseMix = tuple[tuple[int, float], ...]
"""A noise as a weighted sum of seeded ones: pairs of seed and weight; no pairs are no noise."""

DRAWING_THREADS = 8
"""Threads that draw the noises of a batch."""


class SeededNoise:
    """Draws z ~ N(0, I) row by row, each row from the generator of its own seed; the same on every device.

    Successive draws differ. A stochastic sampler must go on with the object that drew x_T: a fresh one of the same
    seeds would draw x_T again as the noise of the first step.

    Args:
        seeds: one integer per row; equal seeds give equal rows.

    Raises:
        ArgumentError: a seed of more than 64 bits, or no integer.

    Examples:
        >>> import torch
        >>> noise = SeededNoise([7, 8]).draw((3, 64, 64))
        >>> torch.equal(noise[1], SeededNoise([8]).draw((3, 64, 64))[0])
        True
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        try:
            self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        except (OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise ArgumentError(f"Seeds must be integers of at most 64 bits, not {list(seeds)!r:.80}.") from error

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Return the next noise of every row: [B, *shape] in float64 on the CPU."""
        # Always drawn on the CPU: generators of devices give other numbers for the same seed.
        noise = torch.empty(len(self._generators), *shape, dtype=torch.float64)
        for row, generator in zip(noise, self._generators, strict=True):
            torch.randn(*shape, generator=generator, dtype=torch.float64, out=row)
        return noise

    def __call__(self, x: Tensor) -> Tensor:
        """Return the next noise, in the shape, dtype and on the device of x [B, ...]."""
        return to_device(self.draw(x.shape[1:]), x.device).to(x.dtype)


def noise_of_image(seed: int | None, source: str) -> NoiseMix:
    """Return the dequantisation noise of an image, which has a seed of its own; no noise without a seed.

    Args:
        seed: `InversionConfig.dequantise`.
        source: what identifies the image: the digest of its file or of its pixels.
    """
    return () if seed is None else ((derive_seed(seed, source), 1.0),)


def draw_mixed_noise(mixes: Sequence[NoiseMix], shape: Sequence[int]) -> Tensor:
    """Return the noises of several mixes, [B, *shape] in float64 on the CPU."""
    return begin_drawing(mixes, shape)()


def begin_drawing(mixes: Sequence[NoiseMix], shape: Sequence[int]) -> Callable[[], Tensor]:
    """Begin to draw the noises of several mixes in threads.

    Returns:
        A function that waits for them, and returns them as [B, *shape] in float64 on the CPU.
    """

    def draw(mix: NoiseMix) -> Tensor:
        if len(mix) == 1 and mix[0][1] == 1:
            return SeededNoise([mix[0][0]]).draw(shape)[0]
        total = torch.zeros(*shape, dtype=torch.float64)
        for seed, weight in mix:
            total += weight * SeededNoise([seed]).draw(shape)[0]
        return total

    # One image's takes 0.2 ms for 64x64 pixels, most of it without Python's lock.
    pool = ThreadPoolExecutor(DRAWING_THREADS)
    rows = [pool.submit(draw, mix) for mix in mixes]
    pool.shutdown(wait=False)

    def finish() -> Tensor:
        # Stacked here, as threads may not write into tensors of torch.inference_mode.
        return torch.stack([row.result() for row in rows]) if rows else torch.zeros(0, *shape, dtype=torch.float64)

    return finish


def combine_mixes(mixes: Sequence[NoiseMix], factors: Sequence[float]) -> NoiseMix:
    """Return the weighted sum of several mixes as one mix, without seeds of weight 0.

    Args:
        mixes: the mixes.
        factors: one for each of them.
    """
    weights: dict[int, float] = {}
    for mix, factor in zip(mixes, factors, strict=True):
        for seed, weight in mix:
            weights[seed] = weights.get(seed, 0.0) + factor * weight
    return tuple((seed, weight) for seed, weight in weights.items() if weight)


def derive_seed(seed: int, name: str) -> int:
    """Return a seed of 63 bits for one of many named things, which does not depend on the others or on their order."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1
