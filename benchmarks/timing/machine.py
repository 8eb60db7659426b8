"""Describe the machine that figures belong to, without its name or its paths."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping

import torch

from ddim_edit import hardware
from timing.place import Place

PACKAGES = ("torch", "diffusers", "onnxruntime", "openvino")


def describe(place: Place) -> Mapping[str, str]:
    """Return what one needs to know of a machine to judge a figure."""
    return {
        "processor": hardware("cpu"),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "threads": str(torch.get_num_threads()),
        "device": hardware(place.device) if place.device.type == "cuda" else place.device.type,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
