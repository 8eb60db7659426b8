"""Plots of evaluations and probes, as .png or .svg; the only user of matplotlib, which the extra `eval` installs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
