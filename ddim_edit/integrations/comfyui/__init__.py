"""Inversion and decoding inside ComfyUI: what the custom nodes in `integrations/comfyui` call.

Nothing of ComfyUI is imported before a function is called.
"""

from ddim_edit.integrations.comfyui.inversion import LatentNoise, decode, fit, invert, move

__all__ = ["LatentNoise", "decode", "fit", "invert", "move"]
