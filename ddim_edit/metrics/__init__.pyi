from .image_metrics.learned_perceptual import LPIPS
from .image_metrics.mean_squared_error import mse
from .image_metrics.peak_signal_to_noise import psnr
from .image_metrics.pixel_identity import identical_pixels
from .image_metrics.structural_similarity import ssim
from .latent_health import Health, health, patch_std
from .metric import Metric
from .reconstruction import ReconstructedImage, Reconstruction
from .registry import METRICS, ImageScorer

__all__ = [
    "LPIPS",
    "METRICS",
    "Health",
    "ImageScorer",
    "Metric",
    "ReconstructedImage",
    "Reconstruction",
    "health",
    "identical_pixels",
    "mse",
    "patch_std",
    "psnr",
    "ssim",
]
