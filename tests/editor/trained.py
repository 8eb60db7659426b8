"""Two toy domains, and small networks that are trained on them: what is shared between the domains is the ramp."""

from pathlib import Path

import torch
from torch import Tensor

from ddim_edit import NoiseSchedule
from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.network import UNet

from .. import tiny

SCHEDULE = NoiseSchedule.linear()
RAMP = torch.linspace(-1, 1, tiny.SIZE).expand(tiny.SIZE, tiny.SIZE)
RED, BLUE = torch.tensor((0.4, -0.1, -0.4)), torch.tensor((-0.4, -0.1, 0.4))


def pictures(tint: Tensor, slopes: Tensor) -> Tensor:
    """One tint, a ramp of each slope from left to right, and a little noise: [n, 3, H, W]."""
    noise = torch.randn(len(slopes), 3, *RAMP.shape, generator=torch.Generator().manual_seed(len(slopes)))
    return tint[:, None, None] + slopes[:, None, None, None] * RAMP + 0.05 * noise


def slopes_of(x: Tensor) -> Tensor:
    """The slope [n] of the ramp in each picture, by least squares."""
    return (x.double().mean(1) * RAMP).sum((1, 2)) / RAMP.square().sum()


def train(folder: Path, tint: Tensor, steps: int = 300, batch: int = 64) -> Path:
    """A diffusers folder of a v-predicting network that has seen pictures of one tint and of all slopes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet(UNetConfig.from_dict(tiny.UNET))
        # To a standstill: the last steps of a constant rate would leave the colour of the pictures to chance.
        optimizer = torch.optim.Adam(unet.parameters(), lr=3e-3)
        rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, steps)
        alpha_bar = torch.from_numpy(SCHEDULE.alpha_bar).float()
        for _ in range(steps):
            x0, t = pictures(tint, torch.rand(batch) - 0.5), torch.randint(0, SCHEDULE.T, (batch,))
            alpha, sigma = (part[t, None, None, None] for part in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))
            eps = torch.randn_like(x0)
            answer = unet(alpha * x0 + sigma * eps, t.float())
            optimizer.zero_grad()
            (answer - (alpha * eps - sigma * x0)).square().mean().backward()
            optimizer.step()
            rate.step()
    tiny.save_model(folder)
    tiny.save_weights(folder, {name: weight.contiguous() for name, weight in unet.state_dict().items()})
    return folder
