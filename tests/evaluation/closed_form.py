"""A model whose network is the exact one of a mixture of pictures, asked as trained ones are."""

import torch
from torch import Tensor

from ddim_edit import Model, NetworkDenoiser, NoiseSchedule, images
from ddim_edit.diffusion.denoisers import MixtureDenoiser
from ddim_edit.models.codec.pixels import ColourCodec

from .. import tiny

SCHEDULE = NoiseSchedule.linear()


def pictures(count: int) -> Tensor:
    """Pictures [count, 3, 16, 16] in [-1, 1]."""
    rows = [images.to_float(torch.from_numpy(tiny.pixels(seed)).permute(2, 0, 1)) for seed in range(count)]
    return torch.stack(rows).double()


def model() -> Model:
    """Of three pictures, blurred by Gaussians of different widths."""
    widths = torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64)
    exact = MixtureDenoiser(pictures(3), widths, torch.ones(3, dtype=torch.float64))

    def network(x: Tensor, index: Tensor) -> Tensor:
        # At the fractional times of our grids the index is one too; float32 does not hold it to the last digit.
        return exact(x, SCHEDULE.level(float(index[0]) + 1)).eps

    denoiser = NetworkDenoiser(network, dtype=torch.float64)
    return Model(denoiser, ColourCodec(), SCHEDULE, (3, 16, 16), "mixture", {}, "epsilon")


def drawn(count: int) -> Tensor:
    """Pictures that the mixture might have drawn."""
    noise = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (pictures(3)[torch.arange(count) % 3] + 0.3 * noise).clamp(-1, 1)
