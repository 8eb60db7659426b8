"""Backends: checkpoints of each family as a `Model`."""

from ddim_edit.backends.loading import DEFAULT_MODEL, load_model, packaged_models
from ddim_edit.backends.placed import PRECISIONS, Placed, dtype_name, find_device, suited_dtype
from ddim_edit.backends.process import read_process
from ddim_edit.backends.unet import UNet, UNetConfig, load_unet

__all__ = [
    "DEFAULT_MODEL",
    "PRECISIONS",
    "Placed",
    "UNet",
    "UNetConfig",
    "dtype_name",
    "find_device",
    "load_model",
    "load_unet",
    "packaged_models",
    "read_process",
    "suited_dtype",
]
