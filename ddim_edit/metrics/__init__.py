"""Compare images, measure reconstructions and check the health of latents.

Images are float tensors [B, 3, H, W] in [-1, 1]; every score is a float64 tensor [B], one value per image.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
