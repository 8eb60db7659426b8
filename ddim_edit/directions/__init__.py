"""Directions: attributes as unit vectors in a latent space, fitted, measured, kept in files, and moved along.

Fitting loads scikit-learn, and only on first use: moving along a direction needs none of it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
