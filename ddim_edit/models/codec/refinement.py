"""Better x_0 than an encoder finds: moved until decoding returns the picture more closely.

Importing this module does not import torch, so that the command line can list the refiners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.models.codec.autoencoder import AutoencoderCodec


class Refiner(Protocol):
    """A way to a better x_0; no picture comes back worse than before, and none depends on its batch."""

    def __call__(self, codec: AutoencoderCodec, pictures: Tensor, x0: Tensor) -> Tensor:
        """A better x_0, shaped as x0, for pictures [B, 3, H, W] in [-1, 1]; in mean squared error, if it finds one."""
        ...


@dataclass(frozen=True)
class FixedPointRefiner:
    """Defect correction through the encoder, without gradients; settles where the encoder sees no difference any more.

    x_0 <- x_0 + w (E(p) - E(D(x_0))), kept where it lowers the mean squared error; w is halved where it does not.

    Args:
        steps: how many are tried, one encoding and one decoding each.
        weight: w at the start.
    """

    steps: int = 3
    weight: float = 1.0

    def __call__(self, codec: AutoencoderCodec, pictures: Tensor, x0: Tensor) -> Tensor:
        """A better x_0."""
        import torch

        with torch.no_grad():
            return _one_by_one(lambda picture, start: self._refined(codec, picture, start), pictures, x0)

    def _refined(self, codec: AutoencoderCodec, picture: Tensor, start: Tensor) -> Tensor:
        goal, weight = codec.encode(picture), self.weight
        best = _tried(codec, picture, start)
        defect = goal - codec.encode(best.decoded)
        for _ in range(self.steps):
            moved = _tried(codec, picture, best.x0 + weight * defect)
            if moved.error < best.error:
                best, defect = moved, goal - codec.encode(moved.decoded)
            else:
                weight /= 2
        return best.x0


@dataclass(frozen=True)
class GradientRefiner:
    """Descent on the error of the decoded picture by Adam; needs the memory of a backward pass through the decoder.

    Minimises |D(x_0) - p|^2 + pull |x_0 - start|^2, where start is the x_0 that is given. Without a pull x_0 drifts
    far from all that encoders answer, along directions that hardly change the picture.

    Args:
        steps: how many, one pass forward and one backward through the decoder each.
        rate: of the first step, in units of x_0, whose standard deviation is about 1; it falls to 0 along a cosine.
        pull: towards the start, at least 0.

    Kingma, Ba (2015).
    """

    steps: int = 20
    rate: float = 0.05
    pull: float = 0.1

    def __call__(self, codec: AutoencoderCodec, pictures: Tensor, x0: Tensor) -> Tensor:
        """A better x_0; under inference mode as well."""
        import torch

        from ddim_edit.precision import float32_precision

        # The autoencoder rounds strictly on its way forward; here its way back does too.
        with torch.inference_mode(False), torch.enable_grad(), float32_precision():
            # What inference mode has made may not be differentiated through; clones made here may.
            pictures, x0 = pictures.clone(), x0.detach().clone()
            return _one_by_one(lambda picture, start: self._refined(codec, picture, start), pictures, x0)

    def _refined(self, codec: AutoencoderCodec, picture: Tensor, start: Tensor) -> Tensor:
        import torch

        x0 = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([x0], lr=self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        best, least = start, torch.inf
        for _ in range(self.steps):
            loss = self._loss(codec, picture, start, x0)
            if loss.item() < least:
                best, least = x0.detach().clone(), loss.item()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        x0 = x0.detach()
        return x0 if self._loss(codec, picture, start, x0) < least else best

    def _loss(self, codec: AutoencoderCodec, picture: Tensor, start: Tensor, x0: Tensor) -> Tensor:
        """At the start its second term is nothing, so that a lower loss is a lower error."""
        return (codec.decode(x0) - picture).square().sum() + self.pull * (x0 - start).square().sum()


class _Tried(NamedTuple):
    x0: Tensor
    decoded: Tensor
    error: float


def _tried(codec: AutoencoderCodec, picture: Tensor, x0: Tensor) -> _Tried:
    decoded = codec.decode(x0)
    return _Tried(x0, decoded, float((decoded - picture).square().mean()))


def _one_by_one(run: Callable[[Tensor, Tensor], Tensor], pictures: Tensor, x0: Tensor) -> Tensor:
    import torch

    return torch.cat([run(*pair) for pair in zip(torch.split(pictures, 1), torch.split(x0.double(), 1), strict=True)])


REFINERS: Mapping[str, Refiner] = {"gradient": GradientRefiner(), "fixed-point": FixedPointRefiner()}
"""By name, the one that finds more first."""
