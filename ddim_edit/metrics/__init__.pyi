from .pixels import LPIPS, Health, health, mse, psnr, ssim
from .reconstruction import Reconstruction, identical_pixels

__all__ = [
    "LPIPS",
    "Health",
    "Reconstruction",
    "health",
    "identical_pixels",
    "mse",
    "psnr",
    "ssim",
]
