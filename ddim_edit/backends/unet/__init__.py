"""The DDPM UNet in diffusers' parameter layout: runs pixel-space `UNet2DModel` checkpoints, in torch alone.

`embed` (time, label) -> `encode` (down) -> `middle` -> `decode` (up, fed by the skips); a wrapper edits the
bottleneck on either side of `middle`. Network: Ho, Jain, Abbeel (2020); its options: Song et al. (2021),
Dhariwal and Nichol (2021).
"""

from ddim_edit.backends.component import WEIGHTS
from ddim_edit.backends.unet.checkpoint import load_unet
from ddim_edit.backends.unet.config import UNetConfig
from ddim_edit.backends.unet.network import UNet

__all__ = ["WEIGHTS", "UNet", "UNetConfig", "load_unet"]
