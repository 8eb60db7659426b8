"""Directions: attributes as unit vectors in a latent space, fitted, measured, kept in files, and moved along.

What fits loads scikit-learn, and so only on first use: to move along a direction needs none of it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
