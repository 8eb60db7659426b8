"""Describe the GPU, its driver, its clocks and memory, and what runs on it."""

import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from ddim_edit import hardware
from gpu.plan import Case, Row, Setting

QUERY = {
    "driver": "driver_version",
    "memory MiB": "memory.total",
    "SM clock MHz": "clocks.sm",
    "highest SM clock MHz": "clocks.max.sm",
    "memory clock MHz": "clocks.mem",
    "power limit W": "power.limit",
    "temperature C": "temperature.gpu",
}
PACKAGES = ("torch", "triton", "diffusers", "transformers", "accelerate", "numpy")


def cases(setting: Setting) -> list[Case]:
    """Return the cases."""
    return [Case("versions", lambda: _versions(setting)), Case("driver", lambda: _driver(setting))]


def _versions(setting: Setting) -> Iterator[Row]:
    for name, value in (
        ("device", hardware(setting.device)),
        ("processor", hardware("cpu")),
        ("threads", str(torch.get_num_threads())),
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("torch's CUDA", torch.version.cuda or "none"),
        *((name, _version(name)) for name in PACKAGES),
    ):
        yield {"what": name, "": value}


def _driver(setting: Setting) -> Iterator[Row]:
    """Return what the driver reports about the GPU now."""
    if setting.device == "cpu":
        return
    fields = f"--query-gpu={','.join(QUERY.values())}"
    words = ["nvidia-smi", fields, "--format=csv,noheader,nounits"]
    first = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    for name, value in zip(QUERY, first.split(","), strict=True):
        yield {"what": name, "": value.strip()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
