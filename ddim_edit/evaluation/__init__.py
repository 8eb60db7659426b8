"""Evaluate how much of images a round trip keeps, their likelihood, and what linear probes read from latents."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
