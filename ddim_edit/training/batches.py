"""What a network is shown at every step: a function of seed and step alone, so that none of it must be remembered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ddim_edit.diffusion.noise import derive_seed
from ddim_edit.images import to_float
from ddim_edit.training.pictures import ImageFolder


class Batch(NamedTuple):
    """Clean pictures [B, 3, H, W] in [-1, 1], standard normal noise of that shape, and indices t - 1 [B] in 0..T-1."""

    x0: Tensor
    noise: Tensor
    indices: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same elsewhere; what was pinned is copied while the device goes on with its work."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pinned(self) -> "Batch":
        """Return the same in memory that a CUDA device copies from by itself."""
        return Batch(*(tensor.pin_memory() for tensor in self))


@dataclass(frozen=True)
class Share:
    """One process among several that share every batch, and the parts that each takes its share in."""

    rank: int = 0
    processes: int = 1
    accumulate: int = 1

    def rows(self, batch_size: int, part: int) -> range:
        """The rows of a batch in one part of this share."""
        each = batch_size // (self.processes * self.accumulate)
        start = (part * self.processes + self.rank) * each
        return range(start, start + each)


@dataclass(frozen=True, eq=False)
class Batches:
    """Endless batches from pictures: every picture once an epoch, each time with its own noise and time.

    Args:
        pictures: to learn from.
        batch_size: rows of a whole step.
        flip: whether half of the pictures are mirrored.
        T: levels of noise, all equally likely.
        seed: of order, mirroring, times and noise.
    """

    pictures: ImageFolder
    batch_size: int
    flip: bool
    T: int
    seed: int

    def __call__(self, step: int, rows: range) -> Batch:
        """Some rows of a step's batch, steps from 1 on; a row is the same whoever asks and for what else."""
        start = (step - 1) * self.batch_size
        return Batch(*map(torch.stack, zip(*(self._row(start + row) for row in rows), strict=True)))

    def _row(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        epoch, place = divmod(position, len(self.pictures))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, f"row {position}"))
        x0 = to_float(self.pictures.pixels[self._order(epoch)[place]])
        index = torch.randint(self.T, (), generator=generator)
        mirrored = torch.rand((), generator=generator) < 0.5 * self.flip
        return x0.flip(-1) if mirrored else x0, torch.randn(x0.shape, generator=generator), index

    @lru_cache(maxsize=2)  # noqa: B019 - as long-lived as the training
    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, f"epoch {epoch}"))
        rows: list[int] = torch.randperm(len(self.pictures), generator=generator).tolist()
        return rows


Target = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
TARGETS: Mapping[str, Target] = {
    "epsilon": lambda scheduler, x0, noise, index: noise,
    "v_prediction": lambda scheduler, x0, noise, index: scheduler.get_velocity(x0, noise, index),
    "sample": lambda scheduler, x0, noise, index: x0,
}
"""What a network is to answer, by prediction type."""


@dataclass(frozen=True, eq=False)
class DiffusionLoss:
    """The loss of a network on a batch: mean (answer - target)^2 over pictures, channels and pixels.

    The network is shown x_t = alpha_t x0 + sigma_t noise and the index t - 1. All levels weigh the same.

    Args:
        scheduler: diffusers' DDPMScheduler, which knows alpha, sigma and what is predicted.

    Ho, Jain, Abbeel (2020), their L_simple; v: Salimans and Ho (2022).
    """

    scheduler: Any

    def __call__(self, network: Callable[..., Any], batch: Batch) -> Tensor:
        """The squared error of every picture, float32 [B]."""
        shown = self.scheduler.add_noise(*batch)
        target = TARGETS[self.scheduler.config.prediction_type](self.scheduler, *batch)
        (answer,) = network(shown, batch.indices, return_dict=False)
        errors: Tensor = (answer.float() - target).square()
        return errors.flatten(1).mean(1)


@dataclass(frozen=True, eq=False)
class ValidationBatch:
    """A fixed batch that measures networks: the same pictures, times and noise for all of them; few tell little.

    Times are spread evenly over all levels, so that their choice adds little to the error of the mean.
    """

    batch: Batch

    @classmethod
    def of(cls, pictures: ImageFolder, T: int, seed: int, least: int = 256) -> Self:
        """At least so many rows, every picture equally often."""
        count = -(-least // len(pictures)) * len(pictures)
        generator = torch.Generator().manual_seed(derive_seed(seed, "held out"))
        places = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
        x0 = to_float(pictures.pixels).repeat(count // len(pictures), 1, 1, 1)
        noise = torch.randn(x0.shape, generator=generator)
        return cls(Batch(x0, noise, (places * T / count).long().clamp(max=T - 1)))

    @torch.no_grad()
    def measure(self, network: Callable[..., Any], lesson: DiffusionLoss, device: torch.device, chunk: int) -> float:
        """The mean loss of a network, so many pictures at once."""
        parts = zip(*(torch.split(tensor, chunk) for tensor in self.batch), strict=True)
        losses = [lesson(network, Batch(*part).to(device)) for part in parts]
        return float(torch.cat(losses).cpu().double().mean())  # not every device has float64
