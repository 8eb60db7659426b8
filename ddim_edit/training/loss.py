"""The loss of a network, and the fixed batch on which it is validated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ddim_edit.diffusion.noise import derive_seed
from ddim_edit.images import to_float
from ddim_edit.training.data import Batch, ImageFolder


@dataclass(frozen=True, eq=False)
class DiffusionLoss:
    """The mean squared error of a network on a batch, over channels and pixels.

    The network gets x_t = alpha_t x0 + sigma_t noise and the index t - 1, and predicts noise, v or x0, according to the
    scheduler. All levels have the same weight.

    Args:
        scheduler: diffusers' DDPMScheduler, which knows alpha, sigma and what is predicted.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239: L_simple.
        Salimans, Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR 2022, arXiv:2202.00512: v.
    """

    scheduler: Any

    def __call__(self, network: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the error of every image, float32 [B]."""
        x_t = self.scheduler.add_noise(*batch)
        prediction = self.scheduler.config.prediction_type
        if prediction == "v_prediction":
            target = self.scheduler.get_velocity(*batch)
        else:
            target = {"epsilon": batch.noise, "sample": batch.x0}[prediction]
        (output,) = network(x_t, batch.indices, return_dict=False)
        errors: Tensor = (output.float() - target).square()
        return errors.flatten(1).mean(1)


@dataclass(frozen=True, eq=False)
class ValidationBatch:
    """A fixed batch on which networks are compared: the same images, times and noise for all of them.

    Times are spread evenly over all levels, so that their choice adds little to the error of the mean.
    """

    batch: Batch

    @classmethod
    def of(cls, images: ImageFolder, T: int, seed: int, least: int = 256) -> Self:
        """Return a batch of at least this many rows, with every image equally often."""
        count = -(-least // len(images)) * len(images)
        generator = torch.Generator().manual_seed(derive_seed(seed, "held out"))
        places = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
        x0 = to_float(images.pixels).repeat(count // len(images), 1, 1, 1)
        noise = torch.randn(x0.shape, generator=generator)
        return cls(Batch(x0, noise, (places * T / count).long().clamp(max=T - 1)))

    @torch.no_grad()
    def mean_loss(self, network: Callable[..., Any], loss: DiffusionLoss, device: torch.device, chunk: int) -> float:
        """Return the mean loss of a network, computed on chunks of this many images."""
        losses = []
        for part in zip(*(torch.split(tensor, chunk) for tensor in self.batch), strict=True):
            losses.append(loss(network, Batch(*part).to(device)))
        return float(torch.cat(losses).cpu().double().mean())  # not every device has float64
