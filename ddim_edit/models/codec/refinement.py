"""Refine x_0 beyond what an encoder finds: move it until decoding returns the image more closely.

Importing this module does not import torch, so that the command line can list the refiners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.models.codec.autoencoder import AutoencoderCodec


class Refiner(Protocol):
    """Refines x_0. No image is decoded worse than before, and none depends on its batch."""

    def __call__(self, codec: AutoencoderCodec, images: Tensor, x0: Tensor) -> Tensor:
        """Return an x_0 of lower, or equal, mean squared error for images [B, 3, H, W] in [-1, 1], shaped as x0."""
        ...


@dataclass(frozen=True)
class FixedPointRefiner:
    """Defect correction through the encoder, without gradients; it ends where the encoder sees no difference any more.

    x_0 <- x_0 + w (E(p) - E(D(x_0))), kept where it lowers the mean squared error; w is halved where it does not.

    Args:
        steps: number of attempts, one encoding and one decoding each.
        weight: w at the start.
    """

    steps: int = 3
    weight: float = 1.0

    def __call__(self, codec: AutoencoderCodec, images: Tensor, x0: Tensor) -> Tensor:
        """Return the refined x_0."""
        import torch

        with torch.no_grad():
            return _refine_singly(lambda image, start: self._refine(codec, image, start), images, x0)

    def _refine(self, codec: AutoencoderCodec, image: Tensor, start: Tensor) -> Tensor:
        goal = codec.encode(image)
        weight = self.weight
        best = start
        decoded = codec.decode(best)
        least = float((decoded - image).square().mean())
        defect = goal - codec.encode(decoded)
        for _ in range(self.steps):
            moved = best + weight * defect
            decoded = codec.decode(moved)
            error = float((decoded - image).square().mean())
            if error < least:
                best, least = moved, error
                defect = goal - codec.encode(decoded)
            else:
                weight /= 2
        return best


@dataclass(frozen=True)
class GradientRefiner:
    """Descent on the error of the decoded image by Adam; needs the memory of a backward pass through the decoder.

    Minimises |D(x_0) - p|^2 + pull |x_0 - start|^2, where start is the given x_0. Without a pull x_0 drifts far from
    all that encoders return, along directions that hardly change the image.

    Args:
        steps: number of steps, one forward and one backward pass through the decoder each.
        rate: the first step's rate, in units of x_0, whose standard deviation is about 1; it falls to 0 along a cosine.
        pull: weight of the distance from the start, at least 0.

    References:
        Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980.
    """

    steps: int = 20
    rate: float = 0.05
    pull: float = 0.1

    def __call__(self, codec: AutoencoderCodec, images: Tensor, x0: Tensor) -> Tensor:
        """Return the refined x_0; under inference mode as well."""
        import torch

        from ddim_edit.precision import float32_precision

        # The forward pass of the autoencoder computes without tf32; here its backward pass does too.
        with torch.inference_mode(False), torch.enable_grad(), float32_precision():
            # Tensors made in inference mode cannot be differentiated through; clones made here can.
            images, x0 = images.clone(), x0.detach().clone()
            return _refine_singly(lambda image, start: self._refine(codec, image, start), images, x0)

    def _refine(self, codec: AutoencoderCodec, image: Tensor, start: Tensor) -> Tensor:
        import torch

        x0 = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([x0], lr=self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        best = start
        least = torch.inf
        for _ in range(self.steps):
            loss = self._loss(codec, image, start, x0)
            if loss.item() < least:
                best, least = x0.detach().clone(), loss.item()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        x0 = x0.detach()
        return x0 if self._loss(codec, image, start, x0) < least else best

    def _loss(self, codec: AutoencoderCodec, image: Tensor, start: Tensor, x0: Tensor) -> Tensor:
        # The second term is 0 at the start, so that a lower loss than there is a lower error.
        return (codec.decode(x0) - image).square().sum() + self.pull * (x0 - start).square().sum()


def _refine_singly(refine: Callable[[Tensor, Tensor], Tensor], images: Tensor, x0: Tensor) -> Tensor:
    import torch

    pairs = zip(torch.split(images, 1), torch.split(x0.double(), 1), strict=True)
    return torch.cat([refine(image, start) for image, start in pairs])


REFINERS: Mapping[str, Refiner] = {"gradient": GradientRefiner(), "fixed-point": FixedPointRefiner()}
"""Refiners by name, the one that finds more first."""
