"""What computes is named by its maker's name and by the instructions that decide the figures."""

from pathlib import Path

import pytest
import torch

from ddim_edit import hardware
from ddim_edit.machine import instruction_sets


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("fpu sse4_2 avx avx2 fma", ["AVX2"]),
        ("avx2 avx512f avx512bw", ["AVX2", "AVX-512"]),
        ("avx2 avx512f avx512_bf16", ["AVX2", "AVX-512", "AVX512-BF16"]),
        ("amx_bf16 amx_tile avx512_bf16 avx512f avx2", ["AVX2", "AVX-512", "AVX512-BF16", "AMX-BF16"]),
    ],
)
def test_instruction_sets_from_cpuinfo(flags: str, names: list[str], tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert instruction_sets(cpuinfo) == names


@pytest.mark.parametrize("text", [None, "processor\t: 0\nFeatures\t: fp asimd sve bf16\n"])
def test_instruction_sets_from_torch(text: str | None, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    assert instruction_sets(cpuinfo) == [torch.backends.cpu.get_cpu_capability()]


def test_processor_name_has_cores_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    named = hardware("cpu")
    assert " core" in named
    assert all(name in named for name in instruction_sets())
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert hardware("cpu") == f"{named}, ONEDNN_MAX_CPU_ISA=AVX2"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_name_has_memory_and_cuda() -> None:
    named = hardware("cuda:0")
    assert named.startswith(torch.cuda.get_device_name(0))
    assert f"CUDA {torch.version.cuda}" in named
