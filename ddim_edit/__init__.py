"""ddim-edit: the noise latent x_T of a diffusion model as a GAN-like latent space.

The public names are declared once, in `__init__.pyi`, and are loaded on first use, so that importing the package
imports neither torch nor anything else that takes long.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
