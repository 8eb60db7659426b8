"""The machine that figures belong to, without its name or its paths."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from timing.place import Place


def describe(place: Place) -> Mapping[str, str]:
    """What one needs to know of it to judge a figure."""
    return {
        "processor": f"{processor()}, {cores()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "threads": str(torch.get_num_threads()),
        "device": _device(place.device),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers")),
    }


def processor() -> str:
    """The processor by the name that its maker gave it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    card = torch.cuda.get_device_properties(device)
    memory = f"{card.total_memory / 2**30:.0f} GiB"
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return f"{card.name}, {memory}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
