"""Where the tests of this folder run: in ComfyUI itself if COMFYUI_PATH names its folder, or in the double of it."""

import os
import sys
from typing import Any

import comfy_host
import torch
from torch import Tensor, nn

from . import double

COMFYUI_PATH = os.environ.get("COMFYUI_PATH")


class TinyNetwork(nn.Module):
    """A network that is called as those of ComfyUI are, with its state, its times and a context of 8 numbers a token.

    Its answers are small, so that it is a tame one as a network that predicts v.
    """

    dtype = torch.float32  # which ComfyUI asks for

    def __init__(self, channels: int = 3, share: float = 0.05) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Conv2d(channels, 16, 3, padding=1)
        self.time = nn.Linear(2, 16)
        self.context = nn.Linear(8, 16)
        self.last = nn.Conv2d(16, channels, 3, padding=1)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(
                    torch.randn(weight.shape, generator=generator) * (0.3 if weight is self.time.weight else 0.2)
                )
            self.last.weight *= share
        self.requires_grad_(False)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_: Any) -> Tensor:
        frames = x.ndim == 5
        x = x[:, :, 0] if frames else x
        angle = timesteps.float() / 1000 * torch.pi
        known = self.time(torch.stack([angle.sin(), angle.cos()], 1)) + self.context(context.float().mean(1))
        found = self.last(torch.tanh(self.first(x) + known[:, :, None, None]))
        return found[:, :, None] if frames else found


def install() -> None:
    """Make `import comfy` work: ComfyUI on the CPU, or its double."""
    if COMFYUI_PATH:
        comfy_host.install(COMFYUI_PATH)
    elif "comfy" not in sys.modules:
        double.install()


def make_model(
    kind: str, network: nn.Module, channels: int = 3, scale: float = 0.5, shift: float = 1.0, dimensions: int = 2
) -> Any:
    """A MODEL around a network; arguments as `comfy_host.make_model`."""
    install()
    make = comfy_host.make_model if COMFYUI_PATH else double.make_model
    return make(kind, network, channels, scale, shift, dimensions)
