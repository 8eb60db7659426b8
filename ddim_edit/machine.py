"""The name of the processor or card, on which timings and the last bits of results depend."""

import os
import platform
from pathlib import Path

import torch

_INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}
"""Instruction sets that decide how fast a network runs on x86 processors, by their flags in Linux, slowest first."""
_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that keep torch and oneDNN from using what the processor has."""


def hardware(device: str | torch.device = "cpu") -> str:
    """Return what computes on a device: a card, or the processor with its cores and instruction sets.

    The instruction sets are those out of AVX2, AVX-512, AVX512-BF16 and AMX-BF16 that Linux lists for an x86
    processor; elsewhere it is what torch says of itself. A limit that the environment sets to them is named too.

    Args:
        device: as torch names it, for example "cpu" or "cuda:1".

    Returns:
        For example "Intel(R) Xeon(R) Processor, 2 cores, AVX2, AVX-512, AVX512-BF16, AMX-BF16" or
        "NVIDIA H100 80GB HBM3, 79 GiB, compute capability 9.0, CUDA 13.0, cuDNN 91300".
    """
    place = torch.device(device)
    if place.type == "cuda":
        return _card(place)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [f"{name}={os.environ[name]}" for name in _LIMITS if name in os.environ]
    count = "1 core" if cores == 1 else f"{cores} cores"
    name = _entry(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()
    return ", ".join([name, count, *instruction_sets(), *limits])


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return the instruction sets of the processor that matter for networks, slowest first.

    Args:
        cpuinfo: the file in which Linux lists them.
    """
    flags = set(_entry(cpuinfo, "flags").split())
    listed = [name for flag, name in _INSTRUCTIONS.items() if flag in flags]
    return listed or [torch.backends.cpu.get_cpu_capability()]


def _entry(cpuinfo: Path, name: str) -> str:
    """Return the first entry of that name in /proc/cpuinfo, or an empty text."""
    if not cpuinfo.exists():
        return ""
    for line in cpuinfo.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _card(device: torch.device) -> str:
    card = torch.cuda.get_device_properties(device)
    memory = f"{card.total_memory / 2**30:.0f} GiB"
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    capability = f"compute capability {card.major}.{card.minor}"
    return f"{card.name}, {memory}, {capability}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
